"""Quantized tensors: signed integer levels, and the step or the codebook that gives the weights."""

import math
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from squeeze_jax.errors import UserError

LIMIT = 2**24 - 1  # magnitude of a level; each is exact as float32
CODEBOOK_LIMIT = 65_535  # values on either side of zero
# Magnitude of a level where a step is looked for: 16 bits, as many symbols as a Huffman code holds.
UNIFORM_LIMIT = 2**15 - 1
DIVISORS = 8  # the smallest magnitude is divided by 1 to 8 to find a step
MAX_AXES = 8
MAX_CHANNELS = 2**20  # in or out, of a quantized tensor: a decoder keeps counts for each
_MAX_FLOAT = float(np.finfo(np.float32).max)


class UniformScale(NamedTuple):
    """Makes each weight level * step."""

    step: float  # float32, positive and finite

    def values(self, levels: np.ndarray) -> np.ndarray:
        """Returns the weights, float32 [...], of levels, int32 [...].

        Each takes one float32 product, so that every decoder gives the same.
        """
        return levels.astype(np.float32) * np.float32(self.step)


class Codebook(NamedTuple):
    """Makes each weight the codebook's value at its level.

    Level k > 0 is the k-th value above zero, k < 0 the k-th below zero, and 0 is exactly 0.
    """

    codebook: np.ndarray  # float32 [values], strictly ascending, with one 0

    @property
    def below(self) -> int:
        """How many values are below zero."""
        return int(np.searchsorted(self.codebook, 0))

    def values(self, levels: np.ndarray) -> np.ndarray:
        """Returns the weights, float32 [...], of levels, int32 [...]."""
        return self.codebook[levels + self.below]


class QuantizedTensor(NamedTuple):
    """A tensor as integer levels, with what makes weights of them."""

    levels: np.ndarray  # int32, in Flax's layout: [height, width, in, out] or [in, out]
    dequantiser: UniformScale | Codebook

    def values(self) -> np.ndarray:
        """Returns the weights, float32, in the shape of the levels."""
        return self.dequantiser.values(self.levels)

    @property
    def below(self) -> int:
        """The largest magnitude of a negative level: by the codebook, or the largest there is."""
        if isinstance(self.dequantiser, Codebook):
            return self.dequantiser.below
        return max(0, -int(self.levels.min(initial=0)))

    @property
    def above(self) -> int:
        """The largest positive level: by the codebook, or the largest there is."""
        if isinstance(self.dequantiser, Codebook):
            return len(self.dequantiser.codebook) - 1 - self.dequantiser.below
        return max(0, int(self.levels.max(initial=0)))

    def check(self) -> None:
        """Rejects levels that no decoder takes; `tensor_spec` checks the rest.

        Raises:
          UserError: the levels are not int32, or do not fit a valid codebook.
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
            raise UserError("levels point outside their codebook")


# A tensor of a file: quantized, or float32 or float16 as it is.
Tensor = QuantizedTensor | np.ndarray


class TensorSpec(NamedTuple):
    """What a decoder has to know of a tensor before it decodes it."""

    shape: tuple[int, ...]
    kind: str  # "float32", "float16", "uniform", "codebook", or "kept": the base's weights
    below: int = 0  # as `QuantizedTensor.below`; quantized tensors only
    above: int = 0
    step: float = 0.0  # "uniform" only
    scan: int = 0  # the order of the channels; only the arithmetic coder chooses one
    # The offset of the first weight in the base, of weights that are kept or added to.
    base_offset: int | None = None

    @property
    def size(self) -> int:
        """The number of weights."""
        return math.prod(self.shape)

    @property
    def is_quantized(self) -> bool:
        """Whether the tensor has levels."""
        return self.kind in ("uniform", "codebook")

    def check(self) -> None:
        """Rejects a spec that no decoder takes.

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
      UserError: no file holds this type or these levels.
    """
    if not isinstance(tensor, QuantizedTensor):
        if tensor.dtype.name not in ("float32", "float16"):
            raise UserError(f"a tensor is quantized, float32 or float16, not {tensor.dtype}")
        return TensorSpec(tensor.shape, tensor.dtype.name)
    tensor.check()
    kind, step = "codebook", 0.0
    if isinstance(tensor.dequantiser, UniformScale):
        kind, step = "uniform", float(np.float32(tensor.dequantiser.step))
    spec = TensorSpec(tensor.levels.shape, kind, tensor.below, tensor.above, step, scan)
    spec.check()
    return spec


def estimate_bits(tensor: Tensor) -> float:
    """Returns about how many bits a tensor takes in a file.

    Counts the entropy of its levels, plus its step or three bytes a value of its codebook; or the
    bits of its floats.
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
    """Returns the levels and the codebook that make these weights exactly, if that is worth it.

    It is worth it if the codebook has at most a quarter as many values as there are weights. No
    codebook holds -0.0, infinities or NaN.

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
    """Returns the levels and the step that make these weights exactly; None if no step is found.

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

    Tries the smallest magnitude divided by 1 to 8, and the floats next to each quotient: a product
    that was rounded may, divided again, miss the step by one.

    Args:
      weights: float32 [...], finite; an array of `xp`.
      xp: numpy, or jax.numpy for traced weights.

    Returns:
      The step, float32 [], a scalar of `xp`.
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
        raise UserError("a codebook must be ascending finite float32 values")
    if (codebook.view(np.uint32) == 0).sum() != 1:
        raise UserError("a codebook must have 0 among its values")


def _can_be_quantized(weights: np.ndarray) -> bool:
    """Returns whether levels can hold such weights: finite, no -0.0, not too many channels."""
    negative_zeros = np.signbit(weights) & (weights == 0)
    return bool(
        np.isfinite(weights).all()
        and not negative_zeros.any()
        and max(weights.shape[-2:], default=1) <= MAX_CHANNELS
    )
