"""Tokenizers: one protocol, a file for each kind."""
