"""Defines quantized tensors: integer levels, and the step or codebook that gives the weights."""

import math
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from squeeze_jax.errors import UserError

LIMIT = 2**24 - 1  # largest magnitude of a level; each level is exact in float32
CODEBOOK_LIMIT = 65_535  # most values on either side of zero
# Largest magnitude of a level for which a step is searched: a Huffman code holds 16-bit symbols.
UNIFORM_LIMIT = 2**15 - 1
DIVISORS = 8  # candidate steps are the smallest magnitude divided by 1 to 8
MAX_AXES = 8
MAX_CHANNELS = 2**20  # input or output channels of a quantized tensor; decoders count each
_MAX_FLOAT = float(np.finfo(np.float32).max)


class UniformScale(NamedTuple):
    """Gives the weights level * step."""

    step: float  # float32, positive and finite

    def values(self, levels: np.ndarray) -> np.ndarray:
        """Returns the weights, float32 [...], of levels, int32 [...].

        Each weight is one float32 product, so that all decoders give the same.
        """
        return levels.astype(np.float32) * np.float32(self.step)


class Codebook(NamedTuple):
    """Gives the weights by looking up levels in a codebook.

    Level k > 0 is the k-th value above zero, level k < 0 the k-th below zero, and level 0 is 0.
    """

    codebook: np.ndarray  # float32 [values], strictly ascending, with one 0

    @property
    def below(self) -> int:
        """Returns the number of values below zero."""
        return int(np.searchsorted(self.codebook, 0))

    def values(self, levels: np.ndarray) -> np.ndarray:
        """Returns the weights, float32 [...], of levels, int32 [...]."""
        return self.codebook[levels + self.below]


class QuantizedTensor(NamedTuple):
    """Holds a tensor as integer levels, with the dequantiser that gives the weights."""

    levels: np.ndarray  # int32, in Flax's layout: [height, width, in, out] or [in, out]
    dequantiser: UniformScale | Codebook

    def values(self) -> np.ndarray:
        """Returns the weights, float32, in the shape of the levels."""
        return self.dequantiser.values(self.levels)

    @property
    def below(self) -> int:
        """Returns the largest magnitude of a negative level, in the codebook or in the tensor."""
        if isinstance(self.dequantiser, Codebook):
            return self.dequantiser.below
        return max(0, -int(self.levels.min(initial=0)))

    @property
    def above(self) -> int:
        """Returns the largest positive level, in the codebook or in the tensor."""
        if isinstance(self.dequantiser, Codebook):
            return len(self.dequantiser.codebook) - 1 - self.dequantiser.below
        return max(0, int(self.levels.max(initial=0)))

    def check(self) -> None:
        """Rejects levels and codebooks that no decoder accepts; `TensorSpec.check` does the rest.

        Raises:
          UserError: the levels are not int32 or not in the codebook, or the codebook is invalid.
        """
        if self.levels.dtype != np.int32:
            raise UserError(f"levels must be int32, not {self.levels.dtype}")
        if not isinstance(self.dequantiser, Codebook):
            return
        _check_codebook(self.dequantiser.codebook)
        if (
            self.levels.size
            and not -self.below <= self.levels.min() <= self.levels.max() <= self.above
        ):
            raise UserError(
                f"levels must be in -{self.below:,}..{self.above:,}, the range of their codebook"
            )


# A tensor of a file: quantized, or a float32 or float16 array.
Tensor = QuantizedTensor | np.ndarray


class TensorSpec(NamedTuple):
    """Describes a tensor to its decoder.

    Attributes:
      shape: shape of the tensor.
      kind: "float32", "float16", "uniform", "codebook", or "kept" for the base's weights.
      below: `QuantizedTensor.below`; 0 for tensors that are not quantized.
      above: `QuantizedTensor.above`, likewise.
      step: the step, of the kind "uniform" only.
      scan: order of the channels, which only the arithmetic coder chooses.
      base_offset: offset of the tensor's first weight in the base, if it is kept or added to.
    """

    shape: tuple[int, ...]
    kind: str
    below: int = 0
    above: int = 0
    step: float = 0.0
    scan: int = 0
    base_offset: int | None = None

    @property
    def size(self) -> int:
        """Returns the number of weights."""
        return math.prod(self.shape)

    @property
    def is_quantized(self) -> bool:
        """Returns whether the tensor has levels."""
        return self.kind in ("uniform", "codebook")

    def check(self) -> None:
        """Rejects a spec that no decoder accepts.

        Raises:
          UserError: an axis, a level or the step is out of range.
        """
        most = max(self.below, self.above)
        if len(self.shape) > MAX_AXES or any(axis >= 2**31 for axis in self.shape):
            raise UserError(
                f"a tensor has at most {MAX_AXES} axes, not the shape {list(self.shape)[:16]}"
            )
        if self.is_quantized and any(axis > MAX_CHANNELS for axis in self.shape[-2:]):
            raise UserError(
                f"a quantized tensor has at most {MAX_CHANNELS:,} channels, not the shape "
                f"{list(self.shape)}"
            )
        if self.kind == "uniform" and not (
            0 < self.step < math.inf and most <= LIMIT and most * self.step <= _MAX_FLOAT
        ):
            raise UserError(
                f"levels go to {LIMIT:,}, with a step above 0 and finite weights; got levels to "
                f"{most:,} and the step {self.step}"
            )
        if self.kind == "codebook" and (
            most > CODEBOOK_LIMIT or self.below + self.above > max(self.size, 256)
        ):
            raise UserError(
                f"a codebook has at most as many values as there are weights, or 256; got "
                f"{self.below + self.above:,} for {self.size:,}"
            )


def tensor_spec(tensor: Tensor, scan: int = 0) -> TensorSpec:
    """Returns the spec of a tensor.

    Raises:
      UserError: a file cannot hold this type or these levels.
    """
    if not isinstance(tensor, QuantizedTensor):
        if tensor.dtype.name not in ("float32", "float16"):
            raise UserError(f"a tensor must be quantized, float32 or float16, not {tensor.dtype}")
        return TensorSpec(tensor.shape, tensor.dtype.name)
    tensor.check()
    kind, step = "codebook", 0.0
    if isinstance(tensor.dequantiser, UniformScale):
        kind, step = "uniform", float(np.float32(tensor.dequantiser.step))
    spec = TensorSpec(tensor.levels.shape, kind, tensor.below, tensor.above, step, scan)
    spec.check()
    return spec


def estimate_bits(tensor: Tensor) -> float:
    """Returns an estimate of the bits that a tensor takes in a file.

    A quantized tensor counts the entropy of its levels, plus its step or three bytes a value of its
    codebook. Another one counts the bits of its floats.
    """
    if not isinstance(tensor, QuantizedTensor):
        return 8.0 * tensor.nbytes
    counts = np.unique(tensor.levels, return_counts=True)[1]
    dequantiser_bits = (
        24.0 * (len(tensor.dequantiser.codebook) - 1)
        if isinstance(tensor.dequantiser, Codebook)
        else 32.0
    )
    return float((counts * np.log2(tensor.levels.size / counts)).sum()) + dequantiser_bits


def find_codebook(weights: np.ndarray) -> QuantizedTensor | None:
    """Returns the levels and the codebook that give these weights exactly.

    Returns None if the codebook would have more than a quarter as many values as there are weights,
    or if it cannot hold them: -0.0, infinities or NaN.

    Args:
      weights: float32 [...].
    """
    if not _can_be_quantized(weights):
        return None
    codebook = np.unique(np.append(weights.reshape(-1), np.float32(0)))
    below = int(np.searchsorted(codebook, 0))
    if 4 * (len(codebook) - 1) > weights.size or len(codebook) > CODEBOOK_LIMIT:
        return None
    levels = np.searchsorted(codebook, weights).astype(np.int32) - np.int32(below)
    return QuantizedTensor(levels.reshape(weights.shape), Codebook(codebook))


def find_uniform_scale(weights: np.ndarray) -> QuantizedTensor | None:
    """Returns the levels and the step that give these weights exactly; None if no step is found.

    Args:
      weights: float32 [...].
    """
    if not _can_be_quantized(weights):
        return None
    values = np.unique(weights)
    if len(values) > 2 * UNIFORM_LIMIT + 1 or not (step := find_step(values)):
        return None
    return QuantizedTensor(np.round(weights / step).astype(np.int32), UniformScale(float(step)))


def find_step(weights: Any, xp: ModuleType = np) -> Any:
    """Returns the largest step found of which all weights are multiples; 0 if none is found.

    Tries the smallest magnitude divided by 1 to 8, and the floats next to each quotient, since the
    quotient of a rounded product may be off by one unit in the last place.

    Args:
      weights: float32 [...], finite; an array of `xp`.
      xp: numpy, or jax.numpy for traced weights.

    Returns:
      The step, float32 [], an array of `xp`.
    """
    sizes = xp.abs(weights).reshape(-1, 1)
    smallest = xp.min(sizes, where=sizes > 0, initial=_MAX_FLOAT)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        near = smallest / xp.arange(1, DIVISORS + 1, dtype=np.float32)
        steps = xp.concatenate(
            [near, xp.nextafter(near, np.float32(0)), xp.nextafter(near, np.float32(np.inf))]
        )[None]
        levels = xp.round(sizes / steps)
        fits = xp.all((levels * steps == sizes) & (levels <= UNIFORM_LIMIT), axis=0)
    return xp.max(xp.where(fits & xp.any(sizes > 0), steps[0], np.float32(0)))


def _check_codebook(codebook: np.ndarray) -> None:
    if (
        codebook.dtype != np.float32
        or codebook.ndim != 1
        or not np.isfinite(codebook).all()
        or (np.diff(codebook) <= 0).any()
    ):
        raise UserError("the values of a codebook must be finite and ascending float32")
    if (codebook.view(np.uint32) == 0).sum() != 1:
        raise UserError("a codebook must contain 0")


def _can_be_quantized(weights: np.ndarray) -> bool:
    """Returns whether levels can hold weights: finite ones, no -0.0, and few enough channels."""
    negative_zeros = np.signbit(weights) & (weights == 0)
    return bool(
        np.isfinite(weights).all()
        and not negative_zeros.any()
        and max(weights.shape[-2:], default=1) <= MAX_CHANNELS
    )
