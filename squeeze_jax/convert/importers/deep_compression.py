"""Reads the released Deep-Compressed SqueezeNet (.net), whose weights are pruned and shared.

The file is that of github songhan/SqueezeNet-Deep-Compression; the method is Deep Compression
(arXiv 1510.00149). The format is little-endian and has no names: one uint32 a layer, the number of
its stored entries; then for each layer a codebook of 256 float32, the biases as float32, one byte
of code an entry, and one gap of 4 bits an entry, two a byte, the low half first. A gap is the
number of positions skipped since the previous entry, in the order [out, in, height, width]. Where
more than 15 are skipped, entries of code 0, whose value is 0, fill in.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from squeeze_jax.convert.imported import Imported, Wanted
from squeeze_jax.errors import UserError

NAME = "Deep Compression"
SUFFIXES = (".net",)
CODEBOOK_SIZE = 256

Shape = tuple[int, ...]


def recognizes(head: bytes) -> bool:
    """Returns False: the format has no signature."""
    return False


def read(path: Path, wanted: Wanted) -> Imported:
    """Reads a network, the released one of 1,000 classes unless the caller says otherwise.

    Raises:
      UserError: the file is damaged or not of this model, or the model has other weights than
        kernels and biases, or computes something else than Caffe's network of these weights.
    """
    from squeeze_jax.convert import identify, parameter_names

    model = wanted.model or {"name": "squeezenet_v1_0_released"}
    num_classes = wanted.num_classes or 1000
    identify.check_definition(path, model, num_classes)
    table = parameter_names.weights(model, num_classes, "caffe")
    leaves = [weight.path.rpartition("/")[2] for weight in table]
    if leaves != ["kernel", "bias"] * (len(table) // 2):
        raise UserError(
            f"{path}: such a file holds layers of weights and biases only, which {model['name']} "
            "does not consist of"
        )
    shapes = [weight.foreign_shapes[0] for weight in table]
    layers = read_layers(path, list(zip(shapes[::2], shapes[1::2], strict=True)))
    names = [weight.names[0] for weight in table]
    arrays = dict(zip(names, (array for layer in layers for array in layer), strict=True))
    count, faults = identify.find_faults(arrays, table)
    if count:
        raise UserError(f"{path}: {faults}")
    return Imported(identify.build_network(path, NAME, model, num_classes, "caffe", table, arrays))


def read_layers(
    path: Path, shapes: Sequence[tuple[Shape, Shape]]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Reads the dense weights and the biases of each layer, float32.

    Args:
      path: the .net file.
      shapes: of each layer's weights [out, in, height, width] and biases [out], in order of
        execution.

    Raises:
      UserError: the file's length does not fit its counts and these shapes, or an entry lies
        outside its layer.
    """
    data = path.read_bytes()
    header = 4 * len(shapes)
    counts = np.frombuffer(data[:header], "<u4") if len(data) >= header else np.zeros(0, "<u4")
    sizes = [
        (4 * CODEBOOK_SIZE, 4 * math.prod(biases), int(n), (int(n) + 1) // 2)
        for n, (_, biases) in zip(counts, shapes, strict=False)  # no counts: refused below
    ]
    if len(data) != header + sum(map(sum, sizes)) or len(counts) != len(shapes):
        raise UserError(
            f"{path}: {len(data):,} bytes are not what the counts of entries in it need for "
            f"{len(shapes)} layers"
        )
    layers, start = [], header
    for number, ((weights, biases), parts) in enumerate(zip(shapes, sizes, strict=True), start=1):
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
                f"{path}: layer {number} has {len(dense):,} weights, but an entry for number "
                f"{positions[-1] + 1:,}"
            )
        dense[positions] = np.frombuffer(codebook, "<f4")[np.frombuffer(codes, np.uint8)]
        layers.append((dense.reshape(weights), np.frombuffer(bias, "<f4").reshape(biases)))
    return layers
