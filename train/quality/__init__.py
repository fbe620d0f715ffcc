"""Measures of generated text: pure functions in float64 NumPy over sequences of tokens; no files, no model.

A text is an int array [t], without its prompt and without the end token. launch/quality/ calls them.
"""
