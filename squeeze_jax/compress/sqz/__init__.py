"""The .sqz file: its container, its tensors and their coders."""
