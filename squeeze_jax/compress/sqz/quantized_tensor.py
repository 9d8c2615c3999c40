"""Weights as small integers: what every coder here codes.

A tensor is signed integer levels and the way back from them: a uniform step, or a codebook of shared values.
"""

import math
from types import ModuleType
from typing import NamedTuple

import numpy as np

from squeeze_jax.errors import UserError

LIMIT = 2**24 - 1  # magnitude of a level; each is exact as float32
CODEBOOK_LIMIT = 65_535  # values on either side of zero
UNIFORM_LIMIT = (
    2**15 - 1
)  # magnitude of a level where a step is looked for: of 16 bits, as many as Huffman codes hold
DIVISORS = 8  # of the smallest magnitude, that are tried as steps
_LARGEST = float(np.finfo(np.float32).max)
MOST_AXES = 8
MOST_CHANNELS = 2**20  # in or out, of a tensor in levels: a decoder keeps count of each


class UniformScale(NamedTuple):
    """Weight = level * step."""

    step: float  # float32, positive and finite

    def values(self, levels: np.ndarray) -> np.ndarray:
        """QuantizedTensor int32 [...] -> weights float32 [...]; one float32 product each, so that every decoder gives the same."""
        return levels.astype(np.float32) * np.float32(self.step)


class Codebook(NamedTuple):
    """Weight = the value at its level: level k > 0 is the k-th value above zero, k < 0 the k-th below, 0 exactly 0."""

    codebook: np.ndarray  # float32 [values], strictly ascending, with one 0

    @property
    def below(self) -> int:
        """How many values lie below zero."""
        return int(np.searchsorted(self.codebook, 0))

    def values(self, levels: np.ndarray) -> np.ndarray:
        """QuantizedTensor int32 [...] -> weights float32 [...]."""
        return self.codebook[levels + self.below]


class QuantizedTensor(NamedTuple):
    """A tensor in levels."""

    levels: np.ndarray  # int32, in our layout: [height, width, in, out] or [in, out]
    dequantiser: UniformScale | Codebook

    def values(self) -> np.ndarray:
        """The weights, float32, of the levels' shape."""
        return self.dequantiser.values(self.levels)

    @property
    def below(self) -> int:
        """The largest magnitude a negative level may have: by the codebook, or the largest there is."""
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
        """Raises UserError unless a decoder would take these levels; `tensor_spec` checks the rest."""
        if self.levels.dtype != np.int32:
            raise UserError(f"levels are int32, not {self.levels.dtype}")
        if isinstance(self.dequantiser, UniformScale):
            return
        book = self.dequantiser.codebook
        if (
            book.dtype != np.float32
            or book.ndim != 1
            or not np.isfinite(book).all()
            or (np.diff(book) <= 0).any()
        ):
            raise UserError("a codebook is ascending finite float32 values")
        if (book.view(np.uint32) == 0).sum() != 1:
            raise UserError("a codebook has 0 among its values")
        if (
            self.levels.size
            and not -self.below <= self.levels.min() <= self.levels.max() <= self.above
        ):
            raise UserError("levels point outside their codebook")


def find_codebook(weights: np.ndarray) -> QuantizedTensor | None:
    """The levels and codebook of which these weights consist, exactly; None where they share too few values for it to pay.

    A codebook pays if it has at most a quarter as many values as there are weights. Weights that no codebook holds (-0.0, infinite,
    not a number) are never shared.

    Args:
      weights: float32 [...].
    """
    if not _have_levels(weights):
        return None
    codebook = np.unique(np.append(weights.reshape(-1), np.float32(0)))
    below = int(np.searchsorted(codebook, 0))
    if 4 * (len(codebook) - 1) > weights.size or len(codebook) > CODEBOOK_LIMIT:
        return None
    levels = np.searchsorted(codebook, weights).astype(np.int32) - np.int32(below)
    return QuantizedTensor(levels.reshape(weights.shape), Codebook(codebook))


def find_uniform_scale(weights: np.ndarray) -> QuantizedTensor | None:
    """The levels and step of which these weights are the products, exactly; None where `find_step` finds no step.

    Args:
      weights: float32 [...].
    """
    if not _have_levels(weights):
        return None
    values = np.unique(weights)
    if len(values) > 2 * UNIFORM_LIMIT + 1 or not (step := find_step(values)):
        return None
    return QuantizedTensor(np.round(weights / step).astype(np.int32), UniformScale(float(step)))


def find_step(weights: np.ndarray, xp: ModuleType = np) -> np.ndarray:
    """The largest step found of which all weights are multiples, float32 []; 0 where none is found.

    Tried are the smallest magnitude and its halves to eighths, with the numbers next to them, since a product that was rounded and is
    divided again may miss the step by one.

    Args:
      weights: float32 [...], finite.
      xp: numpy, or jax.numpy for weights that are traced.
    """
    sizes = xp.abs(weights).reshape(-1, 1)
    smallest = xp.min(sizes, where=sizes > 0, initial=_LARGEST)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        near = smallest / xp.arange(1, DIVISORS + 1, dtype=np.float32)
        steps = xp.concatenate(
            [near, xp.nextafter(near, np.float32(0)), xp.nextafter(near, np.float32(np.inf))]
        )[None]
        levels = xp.round(sizes / steps)
        fits = xp.all((levels * steps == sizes) & (levels <= UNIFORM_LIMIT), axis=0)
    return xp.max(xp.where(fits & xp.any(sizes > 0), steps[0], np.float32(0)))


def _have_levels(weights: np.ndarray) -> bool:
    """Whether levels can hold such weights at all: finite ones, no -0.0, in no more channels than a decoder counts."""
    negative_zeros = np.signbit(weights) & (weights == 0)
    return bool(
        np.isfinite(weights).all()
        and not negative_zeros.any()
        and max(weights.shape[-2:], default=1) <= MOST_CHANNELS
    )


class TensorSpec(NamedTuple):
    """What has to be known of a tensor before it can be decoded."""

    shape: tuple[int, ...]
    kind: (
        str  # "float32", "float16", "uniform", "shared", or "kept": weights of the base as they are
    )
    below: int = 0  # as `QuantizedTensor.below`, of levels only
    above: int = 0
    step: float = 0.0  # of uniform levels
    scan: int = 0  # the order of the channels, which only the arithmetic coder has a choice of
    base: int | None = (
        None  # of weights that are kept, or that levels are added to: the place of the first in the base
    )

    @property
    def size(self) -> int:
        """Weights."""
        return math.prod(self.shape)

    def check(self) -> None:
        """Raises UserError unless a decoder would take such a tensor."""
        most = max(self.below, self.above)
        if len(self.shape) > MOST_AXES or any(axis >= 2**31 for axis in self.shape):
            raise UserError(
                f"a tensor has at most {MOST_AXES} axes, not the shape {list(self.shape)[:16]}"
            )
        if self.kind in ("uniform", "shared") and any(
            axis > MOST_CHANNELS for axis in self.shape[-2:]
        ):
            raise UserError(
                f"a tensor in levels has at most {MOST_CHANNELS:,} channels, not the shape {list(self.shape)}"
            )
        if self.kind == "uniform" and not (
            0 < self.step < math.inf and most <= LIMIT and most * self.step <= _LARGEST
        ):
            raise UserError(
                f"levels go to {LIMIT:,}, their step is above 0, and their values are finite: {most:,}, {self.step}"
            )
        if self.kind == "shared" and (
            most > CODEBOOK_LIMIT or self.below + self.above > max(self.size, 256)
        ):
            raise UserError(
                f"a codebook has no more values than there are weights or 256: {self.below + self.above:,} for {self.size:,}"
            )


Tensor = QuantizedTensor | np.ndarray  # in levels, or float32 or float16 as it is


def tensor_spec(tensor: Tensor, scan: int = 0) -> TensorSpec:
    """The outline of a tensor.

    Raises:
      UserError: it is of a type, or holds levels, that no file holds.
    """
    if isinstance(tensor, QuantizedTensor):
        tensor.check()
        kind = "shared" if isinstance(tensor.dequantiser, Codebook) else "uniform"
        step = (
            float(np.float32(tensor.dequantiser.step))
            if isinstance(tensor.dequantiser, UniformScale)
            else 0.0
        )
        item = TensorSpec(tensor.levels.shape, kind, tensor.below, tensor.above, step, scan)
        item.check()
        return item
    if tensor.dtype.name not in ("float32", "float16"):
        raise UserError(f"a tensor is levels, float32 or float16, not {tensor.dtype}")
    return TensorSpec(tensor.shape, tensor.dtype.name)


def estimate_bits(tensor: Tensor) -> float:
    """About what a tensor costs: its levels' entropy, one by one, and its step or three bytes a value of its codebook; or its numbers."""
    if not isinstance(tensor, QuantizedTensor):
        return 8.0 * tensor.nbytes
    counts = np.unique(tensor.levels, return_counts=True)[1]
    way_back = (
        24.0 * (len(tensor.dequantiser.codebook) - 1)
        if isinstance(tensor.dequantiser, Codebook)
        else 32.0
    )
    return float((counts * np.log2(tensor.levels.size / counts)).sum()) + way_back
