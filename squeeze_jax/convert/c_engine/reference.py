"""Runs a network of integers in NumPy: what the engine in C computes, bit for bit.

It knows nothing of the plan: one operator after another, each tensor an array of its own.
"""

import numpy as np

from squeeze_jax.convert.c_engine.fixed_point import multiply
from squeeze_jax.convert.c_engine.integer_net import SUM_LEFT_SHIFT, IntegerNet
from squeeze_jax.cost.engine import Operator


def run(net: IntegerNet, image: np.ndarray) -> np.ndarray:
    """Returns the logits int8 [classes] of one image int8 [H, W, C]."""
    return run_all(net, image)[-1].reshape(-1)


def run_all(net: IntegerNet, image: np.ndarray) -> list[np.ndarray]:
    """Returns the output int8 [H', W', C'] of every operator."""
    values = [image]
    for operator in net.graph.operators[1:]:
        sources = [net.graph.operators[index] for index in operator.inputs]
        inputs = [values[index].astype(np.int64) for index in operator.inputs]
        values.append(_compute(net, operator, sources, inputs).astype(np.int8))
    return values


def _compute(
    net: IntegerNet, operator: Operator, sources: list[Operator], inputs: list[np.ndarray]
) -> np.ndarray:
    x, zero = inputs[0], net.scale(operator).zero
    match operator.kind:
        case "conv":
            conv = net.convolutions[operator.kernel]
            sums = _convolve(operator, x - net.scale(sources[0]).zero, conv.weights) + conv.bias
            return _clip(operator, multiply(sums, conv.factor) + zero, zero)
        case "add":
            factors = net.sum(sources[0], sources[1], operator)
            second = inputs[1][..., operator.offset : operator.offset + operator.shape[2]]
            addends = [
                multiply((value - net.scale(source).zero) << SUM_LEFT_SHIFT, factor)
                for value, source, factor in zip((x, second), sources, factors[:2], strict=True)
            ]
            return _clip(operator, multiply(addends[0] + addends[1], factors.result) + zero, zero)
        case "max_pool":
            windows = _windows(operator, x, -128)
            return windows.max(axis=(2, 3))
        case "mean":
            total = (x - net.scale(sources[0]).zero).sum(axis=(0, 1), keepdims=True)
            return _clip(operator, multiply(total, net.mean(sources[0], operator)) + zero, zero)
        case "concat":
            return np.concatenate(inputs, axis=-1)
        case _:
            return x[:: operator.stride[0], :: operator.stride[1]]


def _clip(operator: Operator, levels: np.ndarray, zero: int) -> np.ndarray:
    return np.clip(levels, zero if operator.relu else -128, 127)


def _windows(operator: Operator, x: np.ndarray, filler: int) -> np.ndarray:
    """Returns the inputs of each output position, [H', W', height, width, C]."""
    padded = np.pad(x, (*operator.padding, (0, 0)), constant_values=filler)
    windows = np.lib.stride_tricks.sliding_window_view(padded, operator.window, axis=(0, 1))
    height, width = operator.shape[:2]
    strided = windows[:: operator.stride[0], :: operator.stride[1]][:height, :width]
    return strided.transpose(0, 1, 3, 4, 2)


def _convolve(operator: Operator, x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns the sums int64 [H', W', outputs] of products; exact, as float64 holds them."""
    height, width, outputs = operator.shape
    windows = _windows(operator, x, 0).astype(np.float64)
    windows = windows.reshape(height * width, -1, operator.groups, weights.shape[-1])
    matrices = weights.astype(np.float64).reshape(operator.groups, outputs // operator.groups, -1)
    sums = [
        windows[:, :, group].reshape(height * width, -1) @ matrices[group].T
        for group in range(operator.groups)
    ]
    return np.concatenate(sums, axis=1).astype(np.int64).reshape(operator.shape)
