"""Makes a network of integers of a float one: int8 activations and weights, int32 sums.

Activations have a scale and a zero point for each tensor, weights a scale for each output channel,
as in TensorFlow Lite's 8-bit models. Weights that are multiples of a step already, or values of a
codebook, as in a network from a lossy .sqz file, keep few levels: then the layer has one step, and
what BatchNorm multiplies a channel by goes into the channel's scale.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from squeeze_jax.compress.sqz.quantized_tensor import (
    UniformScale,
    find_codebook,
    find_uniform_scale,
)
from squeeze_jax.convert.activation_ranges import Range, find_ranges, input_range
from squeeze_jax.convert.c_engine.fixed_point import Factor, to_factor
from squeeze_jax.convert.folding import fold_batch_norm
from squeeze_jax.convert.weight_scales import LARGEST, least_scales
from squeeze_jax.cost.engine import Graph, Operator, trace
from squeeze_jax.network import Network, leaves_by_path

SUM_LEFT_SHIFT = 20  # of the addends of a sum, as in TensorFlow Lite


class Scale(NamedTuple):
    """Gives the real values (level - zero) * step of a tensor."""

    step: float
    zero: int

    def quantize(self, values: np.ndarray) -> np.ndarray:
        """Returns the nearest levels, int8 [...], of float values [...]."""
        return np.clip(np.round(values / self.step) + self.zero, -128, 127).astype(np.int8)

    def values(self, levels: np.ndarray) -> np.ndarray:
        """Returns the values, float32 [...], of levels int8 [...]."""
        return ((levels.astype(np.float64) - self.zero) * self.step).astype(np.float32)


class Convolution(NamedTuple):
    """Holds the integers of a convolution."""

    weights: np.ndarray  # int8 [outputs, height, width, inputs / groups]
    bias: np.ndarray  # int32 [outputs], in steps of the input times those of the weights
    factor: Factor  # [outputs], from these steps to the output's


class Sum(NamedTuple):
    """Holds the factors of a sum of two tensors."""

    first: Factor
    second: Factor
    result: Factor


class IntegerNet(NamedTuple):
    """A network that computes in integers."""

    graph: Graph
    scales: Mapping[int, Scale]  # by `Operator.scale`
    convolutions: Mapping[str, Convolution]  # by `Operator.kernel`

    def scale(self, operator: Operator) -> Scale:
        """Returns the scale of an operator's output."""
        return self.scales[operator.scale]

    def sum(self, first: Operator, second: Operator, result: Operator) -> Sum:
        """Returns the factors of the sum of two operators' outputs."""
        steps = [self.scale(operator).step for operator in (first, second, result)]
        largest = 2 * max(steps[:2])
        return Sum(
            to_factor(steps[0] / largest),
            to_factor(steps[1] / largest),
            to_factor(largest / (2**SUM_LEFT_SHIFT * steps[2])),
        )

    def mean(self, source: Operator, result: Operator) -> Factor:
        """Returns the factor from the sum over all positions to the mean."""
        positions = source.shape[0] * source.shape[1]
        return to_factor(self.scale(source).step / (self.scale(result).step * positions))

    @property
    def input_scale(self) -> Scale:
        """Returns the scale of the preprocessed image."""
        return self.scale(self.graph.operators[0])

    @property
    def output_scale(self) -> Scale:
        """Returns the scale of the logits."""
        return self.scale(self.graph.operators[-1])


def quantize(network: Network, calibration: np.ndarray) -> IntegerNet:
    """Returns a network in integers.

    Args:
      network: what is exported.
      calibration: preprocessed real images float32 [N, H, W, 3], like those that it will see.

    Raises:
      UserError: the engine lacks an operator of the network.
    """
    graphdef, params = fold_batch_norm(network)
    return quantize_graph(
        trace(graphdef, params, network.input_shape),
        leaves_by_path(params),
        leaves_by_path(network.params),
        calibration,
        input_range(network.preprocessing),
    )


def quantize_graph(
    graph: Graph,
    folded: Mapping[str, np.ndarray],
    original: Mapping[str, np.ndarray],
    calibration: np.ndarray,
    pixels: Range,
) -> IntegerNet:
    """Returns a graph in integers.

    Args:
      graph: from `trace`.
      folded: kernels and biases by path, with BatchNorm folded.
      original: kernels without BatchNorm.
      calibration: images float32 [N, H, W, C].
      pixels: the range of the images.
    """
    ranges = find_ranges(_observer(graph, folded), calibration)
    ranges[str(graph.operators[0].scale)] = pixels
    scales = {int(name): _to_scale(found) for name, found in ranges.items()}
    return IntegerNet(
        graph,
        scales,
        {
            operator.kernel: _quantize_convolution(
                operator,
                np.asarray(original[operator.kernel], np.float32),
                folded[operator.kernel],
                folded.get(operator.bias),
                scales[graph.operators[operator.inputs[0]].scale],
                scales[operator.scale],
                graph.operators[operator.inputs[0]].shape[2],
            )
            for operator in graph.operators
            if operator.kind == "conv"
        },
    )


def _to_scale(found: Range) -> Scale:
    step = (found.high - found.low) / 255 or 1.0
    return Scale(step, int(np.clip(np.round(-128 - found.low / step), -128, 127)))


def _observer(
    graph: Graph, params: Mapping[str, np.ndarray]
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Returns a function from images to the values of each scale's tensors, flat."""

    @jax.jit
    def run(images: jax.Array) -> dict[str, jax.Array]:
        values = list[jax.Array]()
        for operator in graph.operators:
            inputs = [values[index] for index in operator.inputs]
            values.append(images if not inputs else compute(operator, inputs, params))
        found: dict[str, list[jax.Array]] = {}
        for operator, value in zip(graph.operators, values, strict=True):
            if operator.kind in ("conv", "add", "mean"):
                found.setdefault(str(operator.scale), []).append(value.reshape(-1))
        return {name: jnp.concatenate(parts) for name, parts in found.items()}

    return lambda images: {name: np.asarray(value) for name, value in run(images).items()}


def compute(
    operator: Operator, inputs: list[jax.Array], params: Mapping[str, np.ndarray]
) -> jax.Array:
    """Returns an operator's output in float32, [N, H', W', C'].

    Args:
      operator: any but the input.
      inputs: [N, H, W, C].
      params: kernels and biases by path.
    """
    x = inputs[0]
    match operator.kind:
        case "conv":
            kernel = jnp.asarray(params[operator.kernel])
            y = lax.conv_general_dilated(
                x,
                kernel.reshape(*operator.window, -1, kernel.shape[-1]),
                operator.stride,
                operator.padding,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=operator.groups,
            )
            y = y + params[operator.bias].reshape(1, 1, 1, -1) if operator.bias else y
        case "add":
            depth = operator.shape[2]
            y = x + inputs[1][..., operator.offset : operator.offset + depth]
        case "max_pool":
            y = lax.reduce_window(
                x,
                -jnp.inf,
                lax.max,
                (1, *operator.window, 1),
                (1, *operator.stride, 1),
                ((0, 0), *operator.padding, (0, 0)),
            )
        case "mean":
            y = jnp.mean(x, axis=(1, 2), keepdims=True)
        case "concat":
            y = jnp.concatenate(inputs, axis=-1)
        case _:
            y = x[:, :: operator.stride[0], :: operator.stride[1]]
    return jax.nn.relu(y) if operator.relu else y


def _quantize_convolution(
    operator: Operator,
    original: np.ndarray,
    kernel: np.ndarray,
    bias: np.ndarray | None,
    before: Scale,
    after: Scale,
    depth: int,
) -> Convolution:
    """Returns a convolution's integers.

    Args:
      operator: the convolution.
      original: its kernel without BatchNorm, float32 [..., outputs].
      kernel: with BatchNorm folded, the same shape.
      bias: float32 [outputs], or None.
      before: scale of its input.
      after: scale of its output.
      depth: channels of its input.
    """
    outputs = kernel.shape[-1]
    bias = np.zeros(outputs) if bias is None else np.asarray(bias, np.float64)
    weights = np.asarray(kernel, np.float64).reshape(-1, outputs)
    levels, steps = _find_levels(original.reshape(-1, outputs), weights)
    # A channel of zeros has any step; a step so small that the bias overflows grows.
    empty = ~weights.any(axis=0)
    steps = np.where(empty, after.step / before.step / 1024, steps)
    grown = np.maximum(steps, least_scales(bias, before.step))
    rounded = np.clip(np.round(weights / grown), -LARGEST, LARGEST)
    # Those of a channel that BatchNorm scales by 0 are its kernel's own.
    levels = np.where((grown > steps) | empty, rounded, levels)
    shaped = levels.T.reshape(outputs, *operator.window, depth // operator.groups)
    return Convolution(
        shaped.astype(np.int8),
        np.round(bias / (before.step * grown)).astype(np.int32),
        to_factor(before.step * grown / after.step),
    )


def _find_levels(original: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns levels [inputs, outputs] and a step for each output.

    Args:
      original: float32 [inputs, outputs], with few values if it was quantized before.
      weights: float64 [inputs, outputs], each column a multiple of the original's.
    """
    found = find_uniform_scale(original)
    if found is not None and np.abs(found.levels).max(initial=0) <= LARGEST:
        assert isinstance(found.dequantiser, UniformScale)
        levels, step = found.levels.astype(np.float64), found.dequantiser.step
    elif len(np.unique(original)) <= 2 * LARGEST + 1 and find_codebook(original) is not None:
        step = float(np.abs(original).max()) / LARGEST or 1.0  # of zeros, any
        levels = np.round(original.astype(np.float64) / step)
    else:
        steps = np.maximum(np.abs(weights).max(axis=0), 1e-30) / LARGEST
        return np.round(weights / steps), steps
    # The factor of each channel, from its largest weight.
    largest = np.abs(original).argmax(axis=0), np.arange(original.shape[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        factors = np.nan_to_num(weights[largest] / original[largest].astype(np.float64))
    return levels * np.where(factors < 0, -1, 1), step * np.abs(factors)
