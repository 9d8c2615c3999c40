"""Keeps the int8 scales of weights from being too small for the biases.

A bias is an integer at the scale of its channel's weights times that of the inputs. Where a channel
has no weights, as after pruning or under a BatchNorm scale of 0, or tiny ones, libraries let the
bias overflow or round it to nothing.
"""

import numpy as np

LARGEST = 127  # magnitude of a weight's level
_MOST_BIAS = 2**30  # half of what int32 holds: scales are rounded


def least_scales(bias: np.ndarray, input_scale: float) -> np.ndarray:
    """Returns the smallest scale of each channel's weights whose bias fits 32 bits.

    Args:
      bias: [outputs].
      input_scale: of the layer's input.
    """
    return np.abs(bias) / (input_scale * _MOST_BIAS)


def raise_weights(kernel: np.ndarray, least: np.ndarray, axis: int) -> np.ndarray:
    """Returns a kernel in which the largest weight of each output channel is at least `least`.

    The first weight of a channel whose weights are all smaller becomes that large.

    Args:
      kernel: its axis `axis` is that of the output channels.
      least: [outputs], at least 0.
      axis: see above.
    """
    moved = np.moveaxis(kernel, axis, 0)
    weights = moved.reshape(len(moved), -1).copy()
    small = np.abs(weights).max(axis=1) < least
    weights[small, 0] = np.copysign(least[small], weights[small, 0])
    return np.moveaxis(weights.reshape(moved.shape), 0, axis)
