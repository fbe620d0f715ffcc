"""Training, checkpoints and evaluation: what turns a config and rows into a model that can write."""
