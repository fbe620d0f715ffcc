"""The training step compiled for TPUs that are not here: its memory, its time, the best mesh. `skald plan` asks."""
