"""Compresses networks: pruning, clustering, quantization, and the .sqz file."""
