"""Chooses the range that 8 bits of an activation cover, from real images.

The smallest and largest value met would let a few outliers take most of the levels. So the range is
the one whose rounding and clipping cost the least squared error. It depends on the values alone,
and files of every format that is calibrated on the same images agree.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from squeeze_jax.network import Preprocessing

LEVELS = 255  # steps between the ends of a range
BINS = 2040  # of the histogram of a tensor: eight to a step of the widest range
SHARES = np.linspace(0.3, 1.0, 29)  # of the smallest and of the largest value met
BATCH = 8  # images


class Range(NamedTuple):
    """The smallest and the largest value that are told apart; 0 lies between them."""

    low: float
    high: float


Observe = Callable[[np.ndarray], Mapping[str, np.ndarray]]  # images -> values of tensors, by name


def input_range(preprocessing: Preprocessing) -> Range:
    """Returns the range of preprocessed pixels: every image fills it, whatever the sample."""
    mean, std = np.asarray(preprocessing.mean), np.asarray(preprocessing.std)
    return Range(float(np.min((0 - mean) / std)), float(np.max((255 - mean) / std)))


def find_ranges(observe: Observe, images: np.ndarray, clips: bool = True) -> dict[str, Range]:
    """Returns the range of least squared error of each tensor.

    Args:
      observe: computes the tensors for a few images.
      images: preprocessed real images float32 [N, H, W, 3], N >= 1. They are seen twice, first to
        find the ends of each tensor's histogram.
      clips: False for ranges from the smallest to the largest value.
    """
    batches = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
    ends: dict[str, Range] = {}
    for batch in batches:
        for name, values in observe(batch).items():
            low, high = ends.get(name, (0.0, 0.0))
            ends[name] = Range(min(low, float(values.min())), max(high, float(values.max())))
    # What is always 0, as behind a dead layer, gets a range all the same: engines divide by scales.
    ends = {
        name: found if found.high > found.low else Range(0.0, 1.0) for name, found in ends.items()
    }
    if not clips:
        return ends
    counts = {name: np.zeros(BINS, np.int64) for name in ends}
    for batch in batches:
        for name, values in observe(batch).items():
            counts[name] += _histogram(values, ends[name])
    return {name: best_range(counts[name], ends[name]) for name in ends}


def _histogram(values: np.ndarray, ends: Range) -> np.ndarray:
    """Counts values in BINS equal bins; an exact zero, which rounding never moves, in none."""
    width = (ends.high - ends.low) / BINS
    bins = ((values[values != 0] - np.float32(ends.low)) / np.float32(width)).astype(np.int32)
    return np.bincount(np.clip(bins, 0, BINS - 1), minlength=BINS)


def best_range(counts: np.ndarray, ends: Range) -> Range:
    """Returns the range whose rounding to LEVELS steps has the least squared error.

    Args:
      counts: of a histogram's bins, int [BINS].
      ends: of the histogram, one above the other.
    """
    filled = np.flatnonzero(counts)
    centres = ends.low + (filled + 0.5) * (ends.high - ends.low) / BINS
    weights = counts[filled].astype(np.float64)
    best, least = ends, np.inf
    for low in SHARES[::-1] * ends.low if ends.low else (0.0,):
        for high in SHARES[::-1] * ends.high if ends.high else (0.0,):
            step = (high - low) / LEVELS
            zero = np.round(low / step)  # the grid holds 0
            levels = np.clip(np.round(centres / step), zero, zero + LEVELS)
            error = np.dot(weights, (centres - levels * step) ** 2)
            if error < least:
                best, least = Range(float(low), float(high)), error
    return best
