"""Reads and writes .sqz files: the container, its tensors, and their coders."""
