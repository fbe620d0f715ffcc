"""Tokenized documents on disk: prepared once by several processes, read by memory map."""
