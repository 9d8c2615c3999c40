"""Weight files written byte by byte from the formats' descriptions, by nothing that the readers
use.
"""

import math
import struct

import numpy as np


def varint(value):
    """A protobuf variable-length integer."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out + bytes([value]))


def field(number, payload):
    """A length-delimited protobuf field, or an integer one."""
    if isinstance(payload, int):
        return varint(number << 3) + varint(payload)
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def blob(array, old=False, double=False, shape=None):
    """A BlobProto; in the old format with four dimensions."""
    shape = array.shape if shape is None else shape
    if old:
        four = (1,) * (4 - len(shape)) + tuple(shape)
        dims = b"".join(field(number, size) for number, size in enumerate(four, start=1))
    else:
        dims = field(7, field(1, b"".join(map(varint, shape))))
    return dims + (
        field(8, array.astype("<f8").tobytes())
        if double
        else field(5, array.astype("<f4").tobytes())
    )


def caffemodel(layers, old=False, double=False):
    """A NetParameter of (name, type, arrays)."""
    content = field(1, b"a net")  # a field of no interest to a reader of weights
    for name, kind, arrays in layers:
        if old:
            blobs = b"".join(field(6, blob(array, old, double)) for array in arrays)
            content += field(
                2, field(4, name.encode()) + field(5, 25 if kind == "Eltwise" else 4) + blobs
            )
        else:
            blobs = b"".join(field(7, blob(array, old, double)) for array in arrays)
            content += field(100, field(1, name.encode()) + field(2, kind.encode()) + blobs)
    return content


def deep_compressed(layers):
    """A .net file of (weights [O, I, H, W] with at most 255 values besides 0, biases).

    Deep Compression without Huffman codes.
    """
    header, body = b"", b""
    for weights, biases in layers:
        values = [0.0, *sorted(set(weights.reshape(-1).tolist()) - {0.0})]
        codes, gaps, skipped = [], [], 0
        for value in weights.reshape(-1).tolist():
            if value or skipped == 15:  # an entry, or a filler of value 0
                codes.append(values.index(value))
                gaps.append(skipped)
                skipped = 0
            else:
                skipped += 1
        pairs = zip(gaps[::2], gaps[1::2] + [0] * (len(gaps) % 2), strict=True)
        header += struct.pack("<I", len(codes))
        body += (
            np.array(values + [0.0] * (256 - len(values)), "<f4").tobytes()
            + biases.astype("<f4").tobytes()
        )
        body += bytes(codes) + bytes(low | high << 4 for low, high in pairs)
    return header + body


def squeezenet_layers(widths=(8, 2, 4, 2), classes=5, seed=0, sparse=False):
    """[(Caffe layer, weights, biases)] of a SqueezeNet of a 3x3 conv1 and one Fire module.

    `TINY` describes it.
    """
    conv1, squeeze, half, _ = widths
    shapes = {
        "conv1": (conv1, 3, 3, 3),
        "fire2/squeeze1x1": (squeeze, conv1, 1, 1),
        "fire2/expand1x1": (half, squeeze, 1, 1),
        "fire2/expand3x3": (half, squeeze, 3, 3),
        "conv10": (classes, 2 * half, 1, 1),
    }
    random = np.random.default_rng(seed)
    layers = []
    for name, shape in shapes.items():
        weights = (
            random.integers(-100, 101, math.prod(shape)).astype(np.float32).reshape(shape) / 64
        )
        if sparse:
            weights *= random.random(shape) < 0.1
        layers.append((name, weights, random.normal(size=shape[0]).astype(np.float32)))
    return layers


TINY = {
    "name": "squeezenet_v1_0",
    "num_fire": 1,
    "base_e": 8,
    "squeeze_ratio": 0.25,
    "conv1_filters": 8,
    "conv1_kernel": 3,
}
TINY["pool_after"] = ["conv1"]
