"""Quality and diversity of what a checkpoint writes, beside what people wrote. launch/commands/quality.py calls it."""
