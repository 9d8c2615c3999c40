"""Computes in integers as TensorFlow Lite does: a product with a real number, rounded.

A real factor is an int32 multiplier of 31 fractional bits and a power of two. Rounding is that of
TensorFlow Lite's reference kernels (tensorflow/lite/kernels/internal/common.h and gemmlowp):
twice, to the nearest, halves up in the product and away from zero in the shift.
"""

from typing import NamedTuple

import numpy as np


class Factor(NamedTuple):
    """Stands for multiplier * 2^(shift - 31)."""

    multiplier: np.ndarray  # int32 [...]
    shift: np.ndarray  # int32 [...], of the product to the left


def to_factor(values: np.ndarray | float) -> Factor:
    """Returns the factors nearest to real numbers of at least 0; those under 2^-32 become 0."""
    mantissa, exponent = np.frexp(np.asarray(values, np.float64))
    multiplier = np.round(mantissa * 2**31).astype(np.int64)
    exponent = exponent + (multiplier == 2**31)
    multiplier = np.where(multiplier == 2**31, 2**30, multiplier)
    gone = exponent < -31
    return Factor(
        np.where(gone, 0, multiplier).astype(np.int32), np.where(gone, 0, exponent).astype(np.int32)
    )


def multiply(values: np.ndarray, factor: Factor) -> np.ndarray:
    """Returns values times a factor, rounded, int64 [...].

    Args:
      values: of 32 bits, int64 [..., C].
      factor: of shape [C] or [].
    """
    left, right = np.maximum(factor.shift, 0), np.maximum(-factor.shift, 0).astype(np.int64)
    product = (values << left) * factor.multiplier.astype(np.int64) + (1 << 30) >> 31
    mask = (np.int64(1) << right) - 1
    return (product >> right) + ((product & mask) > (mask >> 1) + (product < 0))
