"""Evaluation tasks: their form, their examples, metrics, and the results that are kept of each example."""
