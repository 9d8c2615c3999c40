"""Tensors as one arithmetic code: codebooks, levels and plain numbers, one after the other under one model."""

import math
from collections.abc import Sequence

import numpy as np

from squeeze_jax.compress.sqz import contexts, mixing
from squeeze_jax.compress.sqz.quantized_tensor import (
    Codebook,
    QuantizedTensor,
    Tensor,
    TensorSpec,
    UniformScale,
    tensor_spec,
)
from squeeze_jax.errors import UserError

BITS = 16  # log2 of the contexts a table holds, unless the writer says otherwise: 3.4 MB in all
FEWEST_BITS, MOST_BITS = 10, 18


def encode(tensors: Sequence[Tensor], bits: int = BITS) -> tuple[list[TensorSpec], bytes]:
    """The outlines that `decode` needs, and the code.

    Args:
      tensors: in the order in which they are decoded.
      bits: log2 of the contexts in each table; 52 * 2^bits bytes of the decoder's memory. 12 costs about half a percent in size.

    Raises:
      UserError: a tensor is none that a file holds.
    """
    outlines = [tensor_spec(tensor, scan=_scan(tensor)) for tensor in tensors]
    room = 65_536 + 4 * sum(item.size for item in outlines)
    while True:
        model = mixing.model(np.zeros(room, np.uint8), bits, decoding=False)
        for number, (tensor, item) in enumerate(zip(tensors, outlines)):
            _code(model, number, item, tensor)
        if not model.coder[mixing.FAILED]:
            # One byte is enough to tell the interval: what a decoder reads after it are zeros.
            end = int(model.coder[mixing.POSITION])
            return outlines, model.data[:end].tobytes() + bytes(
                [int(model.coder[mixing.HIGH]) >> 24]
            )
        room *= 4


def decode(payload: bytes, outlines: Sequence[TensorSpec], bits: int) -> list[Tensor]:
    """The tensors of a code.

    Raises:
      UserError: the code does not end where the tensors do.
    """
    model = mixing.model(np.frombuffer(payload, np.uint8).copy(), bits, decoding=True)
    tensors = []
    for number, item in enumerate(outlines):
        tensors.append(_code(model, number, item, None))
        if model.coder[mixing.FAILED]:
            break
    if model.coder[mixing.FAILED] or model.coder[mixing.POSITION] != len(payload) + 3:
        raise UserError("its code does not end where its tensors do")
    return tensors


def _scan(tensor: Tensor) -> int:
    """1 where input channels are the outer loop: the longer axis, so that either kind of channel is soon known."""
    return int(
        isinstance(tensor, QuantizedTensor)
        and tensor.levels.ndim >= 2
        and tensor.levels.shape[-2] > tensor.levels.shape[-1]
    )


def _code(model: mixing.Model, number: int, item: TensorSpec, tensor: Tensor | None) -> Tensor:
    """Codes one tensor and returns it; decodes it where there is none."""
    if item.kind.startswith("float"):
        width = 32 if item.kind == "float32" else 16
        bits = np.zeros(item.size, np.int64) if tensor is None else _bits(tensor)
        contexts.code_values(model, bits, width, (1, *item.shape)[-1], number)
        return bits.astype(f"u{width // 8}").view(item.kind).reshape(item.shape)

    given = isinstance(tensor, QuantizedTensor)
    rule, edges = UniformScale(item.step), [np.zeros(0, np.int64)] * 2
    if item.kind == "shared":
        sides = [np.zeros(item.above, np.int64), np.zeros(item.below, np.int64)]
        if given:
            book = tensor.dequantiser.codebook
            sides = [_bits(book[item.below + 1 :]), _bits(-book[: item.below][::-1])]
        for side in sides:
            contexts.code_codebook(model, side, number)
        above, below = (side.astype(np.uint32).view(np.float32) for side in sides)
        rule, edges = (
            Codebook(np.concatenate([-below[::-1], np.zeros(1, np.float32), above])),
            [contexts.edges(side) for side in sides],
        )
    levels = tensor.levels.flatten() if given else np.zeros(item.size, np.int32)
    if item.size and (item.below or item.above):
        contexts.code_levels(model, levels, *loops(item), item.below, item.above, *edges)
    return QuantizedTensor(levels.reshape(item.shape), rule)


def _bits(values: np.ndarray) -> np.ndarray:
    values = np.ascontiguousarray(values)
    return values.view(f"u{values.dtype.itemsize}").astype(np.int64).reshape(-1)


def loops(item: TensorSpec) -> tuple[tuple[int, int, int], tuple[int, int, int], int]:
    """(sizes, strides) of the loops over a tensor's outer channels, inner channels and taps, and the kernel's width."""
    inputs, outputs = (1, 1, *item.shape)[-2:]
    taps = math.prod(item.shape[:-2])
    width = item.shape[-3] if len(item.shape) >= 3 else 1
    sizes, strides = (outputs, inputs, taps), (1, outputs, inputs * outputs)
    if item.scan:
        sizes, strides = (inputs, outputs, taps), (outputs, 1, inputs * outputs)
    return sizes, strides, max(width, 1)
