"""Listeners of the training loop, one a file: called with (run, event) for every event of train/events.py."""
