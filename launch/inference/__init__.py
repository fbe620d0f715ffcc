"""Using a checkpoint: opening it, scoring text, writing text. Called by launch/commands/ and by launch/api.py."""
