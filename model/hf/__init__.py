"""Hugging Face's model families: their configs and the names of their tensors, beside ours.

Here are no files: train/huggingface.py reads and writes those, with `read_config`, `write_config` and `tensor_map`.
"""
