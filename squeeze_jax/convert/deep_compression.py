"""The released Deep-Compressed SqueezeNet (github songhan/SqueezeNet-Deep-Compression; arXiv 1510.00149): pruned, shared weights.

The file is little-endian and names nothing: one uint32 a layer, the count of its stored entries; then for each layer a codebook of
256 float32, the biases as float32, one byte of code an entry, and one gap of 4 bits an entry, two a byte, the low half first. A gap is
the number of positions skipped since the entry before, in the order [out, in, height, width]; where more than 15 are skipped, entries
of code 0, whose value is 0, fill in.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from squeeze_jax.errors import UserError

CODES = 256


def read(
    path: Path, shapes: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The dense weights and the biases of each layer, float32.

    Args:
      path: the .net file.
      shapes: of each layer's weights [out, in, height, width] and biases [out], in order of execution.

    Raises:
      UserError: the file's length is not that of its counts under these shapes, or an entry lies outside its layer.
    """
    data = path.read_bytes()
    header = 4 * len(shapes)
    counts = np.frombuffer(data[:header], "<u4") if len(data) >= header else np.zeros(0, "<u4")
    sizes = [
        (4 * CODES, 4 * math.prod(biases), int(n), (int(n) + 1) // 2)
        for n, (_, biases) in zip(counts, shapes)
    ]
    if len(data) != header + sum(map(sum, sizes)) or len(counts) != len(shapes):
        raise UserError(
            f"{path}: {len(data):,} bytes are not what the counts of entries in it need for {len(shapes)} layers"
        )
    layers, start = [], header
    for number, ((weights, biases), parts) in enumerate(zip(shapes, sizes), start=1):
        fields = []
        for size in parts:
            fields.append(data[start : start + size])
            start += size
        codebook, bias, codes, gaps = fields
        nibbles = np.frombuffer(gaps, np.uint8)
        skipped = np.stack([nibbles & 15, nibbles >> 4], axis=1).reshape(-1)[: len(codes)]
        positions = np.cumsum(skipped.astype(np.int64) + 1) - 1
        dense = np.zeros(math.prod(weights), np.float32)
        if len(positions) and positions[-1] >= len(dense):
            raise UserError(
                f"{path}: layer {number} has {len(dense):,} weights, but an entry for number {positions[-1] + 1:,}"
            )
        dense[positions] = np.frombuffer(codebook, "<f4")[np.frombuffer(codes, np.uint8)]
        layers.append((dense.reshape(weights), np.frombuffer(bias, "<f4").reshape(biases)))
    return layers
