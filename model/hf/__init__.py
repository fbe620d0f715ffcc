"""Hugging Face's model families: their configs and names of tensors, and ours. No files here: train/huggingface.py reads
and writes those."""
