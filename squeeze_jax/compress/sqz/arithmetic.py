"""Codes all tensors of a file, one after another, as one arithmetic code under one model."""

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

BITS = 16  # default log2 of the contexts in each table; takes 3.4 MB in all
FEWEST_BITS, MOST_BITS = 10, 18


def check_context_bits(bits: int) -> None:
    """Rejects a size of context tables that is out of range.

    Args:
      bits: log2 of the contexts in each table.

    Raises:
      UserError: `bits` is out of range.
    """
    if not FEWEST_BITS <= bits <= MOST_BITS:
        raise UserError(
            f"a context table has 2^{FEWEST_BITS} to 2^{MOST_BITS} contexts, not 2^{bits}"
        )


def encode(tensors: Sequence[Tensor], bits: int = BITS) -> tuple[list[TensorSpec], bytes]:
    """Returns the specs that `decode` needs, and the code.

    Args:
      tensors: the tensors, in the order in which they are decoded.
      bits: log2 of the contexts in each table. The decoder takes 52 * 2^bits bytes of memory; 12
        instead of 16 makes files about 0.5 % larger.

    Raises:
      UserError: a tensor cannot be stored in a file.
    """
    specs = [tensor_spec(tensor, scan=_choose_scan(tensor)) for tensor in tensors]
    room = 65_536 + 4 * sum(spec.size for spec in specs)
    while True:
        model = mixing.make_model(np.zeros(room, np.uint8), bits, decoding=False)
        for number, (tensor, spec) in enumerate(zip(tensors, specs, strict=True)):
            _code(model, number, spec, tensor)
        if not model.coder[mixing.FAILED]:
            # One byte identifies the interval, since a decoder reads zeros after it.
            end = int(model.coder[mixing.POSITION])
            last = int(model.coder[mixing.HIGH]) >> 24
            return specs, model.data[:end].tobytes() + bytes([last])
        room *= 4


def decode(payload: bytes, specs: Sequence[TensorSpec], bits: int) -> list[Tensor]:
    """Returns the tensors of a code.

    Args:
      payload: the code.
      specs: the specs that `encode` returned.
      bits: log2 of the contexts, as in `encode`.

    Raises:
      UserError: the code does not end where the tensors do.
    """
    model = mixing.make_model(np.frombuffer(payload, np.uint8).copy(), bits, decoding=True)
    tensors = []
    for number, spec in enumerate(specs):
        tensors.append(_code(model, number, spec, None))
        if model.coder[mixing.FAILED]:
            break
    if model.coder[mixing.FAILED] or model.coder[mixing.POSITION] != len(payload) + 3:
        raise UserError("its code does not end where its tensors do")
    return tensors


def _choose_scan(tensor: Tensor) -> int:
    """Returns 1 if input channels are the outer loop, and 0 if output channels are.

    The larger number is the outer loop, so that the model soon has statistics of all channels of
    the inner one.
    """
    return int(
        isinstance(tensor, QuantizedTensor)
        and tensor.levels.ndim >= 2
        and tensor.levels.shape[-2] > tensor.levels.shape[-1]
    )


def _code(model: mixing.Model, number: int, spec: TensorSpec, tensor: Tensor | None) -> Tensor:
    """Codes one tensor and returns it; decodes it if `tensor` is None."""
    if spec.is_quantized:
        assert tensor is None or isinstance(tensor, QuantizedTensor)
        return _code_quantized(model, number, spec, tensor)
    assert not isinstance(tensor, QuantizedTensor)
    return _code_floats(model, number, spec, tensor)


def _code_floats(
    model: mixing.Model, number: int, spec: TensorSpec, array: np.ndarray | None
) -> np.ndarray:
    width = 32 if spec.kind == "float32" else 16
    bits = np.zeros(spec.size, np.int64) if array is None else _view_bits(array)
    contexts.code_values(model, bits, width, (1, *spec.shape)[-1], number)
    return bits.astype(f"u{width // 8}").view(spec.kind).reshape(spec.shape)


def _code_quantized(
    model: mixing.Model, number: int, spec: TensorSpec, tensor: QuantizedTensor | None
) -> QuantizedTensor:
    dequantiser, edges = UniformScale(spec.step), [np.zeros(0, np.int64)] * 2
    if spec.kind == "codebook":
        dequantiser, edges = _code_codebook(
            model, number, spec, None if tensor is None else tensor.dequantiser
        )
    levels = np.zeros(spec.size, np.int32) if tensor is None else tensor.levels.flatten()
    if spec.size and (spec.below or spec.above):
        contexts.code_levels(model, levels, *_plan_loops(spec), spec.below, spec.above, *edges)
    return QuantizedTensor(levels.reshape(spec.shape), dequantiser)


def _code_codebook(
    model: mixing.Model, number: int, spec: TensorSpec, given: UniformScale | Codebook | None
) -> tuple[Codebook, list[np.ndarray]]:
    """Codes a codebook and returns it, with the edges of its cells above and below zero."""
    sides = [np.zeros(spec.above, np.int64), np.zeros(spec.below, np.int64)]
    if isinstance(given, Codebook):
        book = given.codebook
        sides = [_view_bits(book[spec.below + 1 :]), _view_bits(-book[: spec.below][::-1])]
    for side in sides:
        contexts.code_codebook(model, side, number)
    above, below = (side.astype(np.uint32).view(np.float32) for side in sides)
    codebook = Codebook(np.concatenate([-below[::-1], np.zeros(1, np.float32), above]))
    return codebook, [contexts.find_edges(side) for side in sides]


def _view_bits(values: np.ndarray) -> np.ndarray:
    values = np.ascontiguousarray(values)
    return values.view(f"u{values.dtype.itemsize}").astype(np.int64).reshape(-1)


def _plan_loops(spec: TensorSpec) -> tuple[tuple[int, int, int], tuple[int, int, int], int]:
    """Returns the loops that scan a tensor.

    Returns:
      (sizes, strides, width): the sizes and strides of the loops over outer channels, inner
      channels and taps of the kernel, and the width of the kernel.
    """
    inputs, outputs = (1, 1, *spec.shape)[-2:]
    taps = math.prod(spec.shape[:-2])
    width = spec.shape[-3] if len(spec.shape) >= 3 else 1
    sizes, strides = (outputs, inputs, taps), (1, outputs, inputs * outputs)
    if spec.scan:
        sizes, strides = (inputs, outputs, taps), (outputs, 1, inputs * outputs)
    return sizes, strides, max(width, 1)
