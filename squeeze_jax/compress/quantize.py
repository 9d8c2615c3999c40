"""Quantizes a network's weights so that its outputs change least.

Layers are quantized in the order in which the network runs them. Each layer sees what the quantized
layers before it make of the calibration images, and aims at the original network's outputs, so that
it corrects their errors as well (as GPTAQ, arXiv 2504.02692).
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from squeeze_jax.compress import calibrate, gptq
from squeeze_jax.compress.calibrate import BATCH, Calibration, Curvature, Layer
from squeeze_jax.compress.sqz.container import paths
from squeeze_jax.compress.sqz.quantized_tensor import QuantizedTensor, Tensor, UniformScale
from squeeze_jax.models import layers
from squeeze_jax.network import Network, predict, split_model

# Chosen on the released SqueezeNet (experiments/compression).
# Weight of the gradients' moment in a layer's Hessian; the rest is the inputs' moment.
_GRADIENTS = 0.5
# How far the outputs' importance is shrunk towards its mean: without, a class that is never
# predicted would have none.
_EVEN = 0.8
_DAMPING = 0.003  # relative to the mean of the Hessian's diagonal
_TINY = float(np.finfo(np.float32).tiny)

FEWEST_BITS, MOST_BITS = 2, 16


def quantize(
    net: Network,
    calibrated: Calibration,
    multiplier: float,
    base: Network | None = None,
    on_layer: Callable[[], None] = lambda: None,
) -> dict[str, Tensor]:
    """Quantizes a network layer by layer, trading size against KL divergence.

    Kernels become levels; other arrays become float16 where that is accurate enough.

    Args:
      net: the network.
      calibrated: its calibration.
      multiplier: price of a bit, in nats of KL divergence; the larger, the smaller the file.
      base: the network whose weights are subtracted first, for the paths in `common`.
      on_layer: called after each layer.

    Returns:
      Arrays by path, as `container.write` takes them.
    """
    model, images, starts = net.module(), calibrated.images, _starts(net, base)
    names, coded = {id(layer): path for path, layer in calibrate.linear_layers(model).items()}, {}

    def observe(layer, x, _):
        path = names[id(layer)]
        curvature = calibrated.layers[path]
        own, rounded = x[: len(images)], x[len(images) :]
        given = _problem(
            layer, curvature, _inputs(layer, own, rounded, curvature.weights), starts[path]
        )
        tensor = coded[_kernel(path)] = _levels(layer, gptq.best_step(given, multiplier))
        on_layer()
        kernels = (own, layer.kernel[...]), (rounded, jnp.asarray(starts[path] + tensor.values()))
        return jnp.concatenate(
            [_outputs(layer, part, kernel) for x, kernel in kernels for part in _batches(x)]
        )

    with layers.intercept_layers(observe):
        model(jnp.concatenate([images, images]))
    return coded | _rest(net, base, coded)


def estimate(
    net: Network, calibrated: Calibration, multiplier: float, base: Network | None = None
) -> tuple[float, float]:
    """Estimates the result of `quantize` in a fraction of its time.

    Each layer is quantized as if no other layer were.

    Returns:
      (bits of the levels, nats of KL divergence).
    """
    bits, nats, starts = 0.0, 0.0, _starts(net, base)
    for path, layer in calibrate.linear_layers(net.module()).items():
        curvature = calibrated.layers[path]
        rounded = gptq.best_step(
            _problem(layer, curvature, _still(curvature), starts[path]), multiplier
        )
        bits, nats = bits + rounded.bits, nats + rounded.distortion
    return bits, nats


def to_bits(
    net: Network, calibrated: Calibration | None, bits: int, base: Network | None = None
) -> dict[str, Tensor]:
    """Quantizes each kernel to 2^bits - 1 levels over the range of its weights.

    Args:
      net: the network.
      calibrated: its calibration, for GPTQ; None rounds each weight to the nearest level.
      bits: `FEWEST_BITS` to `MOST_BITS`.
      base: as in `quantize`.

    Returns:
      Arrays by path, as `container.write` takes them.
    """
    coded, limit, starts = {}, 2 ** (bits - 1) - 1, _starts(net, base)
    for path, layer in calibrate.linear_layers(net.module()).items():
        if calibrated is None:
            weights = calibrate.matrices(
                layer, np.asarray(layer.kernel[...]) - starts[path]
            ).astype(np.float64)
            blocks, inputs, outputs = weights.shape
            given = gptq.problem(
                weights,
                np.broadcast_to(np.eye(inputs), (blocks, inputs, inputs)),
                np.ones((blocks, outputs)),
            )
        else:
            curvature = calibrated.layers[path]
            given = _problem(layer, curvature, _still(curvature), starts[path])
        step = max(float(np.abs(given.targets).max(initial=0)) / limit, _TINY)
        coded[_kernel(path)] = _levels(layer, gptq.at_step(given, step, limit=limit))
    return coded | _rest(net, base, coded)


def nothing(net: Network, base: Network | None = None) -> dict[str, Tensor]:
    """Returns what `quantize` does with all levels 0: the part of a file that no rate changes."""
    zeros = {
        _kernel(path): QuantizedTensor(np.zeros(layer.kernel.shape, np.int32), UniformScale(1.0))
        for path, layer in calibrate.linear_layers(net.module()).items()
    }
    return zeros | _rest(net, base, zeros)


def common(net: Network, base: Network | None) -> set[str]:
    """Returns the paths of the arrays that are stored as differences from the base.

    These are kernels of the same shape, and other arrays that are equal.
    """
    if base is None:
        return set()
    theirs = paths(base.params, base.stats)
    kernels = {_kernel(path) for path in calibrate.linear_layers(net.module())}
    own = paths(net.params, net.stats)
    return {
        path
        for path, array in own.items()
        if path in theirs
        and theirs[path].shape == array.shape
        and (path in kernels or np.array_equal(theirs[path], array))
    }


def divergence_from(net: Network, images: np.ndarray) -> Callable[[Network], float]:
    """Returns a function that measures how far another network's outputs are from this one's.

    It takes a network of the same architecture and returns the mean KL divergence of its output
    distributions, in nats.

    Args:
      net: the reference.
      images: preprocessed, float32 [N, H, W, 3].
    """
    # The weights are arguments, so that it is compiled once for all networks.
    run = jax.jit(functools.partial(predict, split_model(net.module())[0]))

    def log_probabilities(net: Network) -> np.ndarray:
        logits = np.concatenate(
            [run(net.params, net.stats, part) for part in _batches(images)]
        ).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    own = log_probabilities(net)
    return lambda other: float((np.exp(own) * (own - log_probabilities(other))).sum(axis=1).mean())


class _Inputs(NamedTuple):
    """Moments of a layer's inputs, weighted and scaled as `Curvature.inputs`."""

    # Second moment of the quantized network's inputs, float64 [blocks, k, k].
    rounded: np.ndarray
    # Cross moment of the quantized (rows) and the original network's inputs (columns), same shape.
    crossed: np.ndarray


def _still(curvature: Curvature) -> _Inputs:
    """Returns the moments that hold while no other layer is quantized."""
    return _Inputs(curvature.inputs, curvature.inputs)


def _inputs(layer: Layer, own: jax.Array, rounded: jax.Array, weights: np.ndarray) -> _Inputs:
    """Returns the moments of a layer's inputs in the original and the quantized network."""
    parts = (
        _moments(layer, *part)
        for part in zip(_batches(own), _batches(rounded), _batches(weights), strict=True)
    )
    rounded_sum, crossed_sum = np.zeros(()), np.zeros(())
    for of_rounded, of_crossed in parts:
        rounded_sum = rounded_sum + np.asarray(of_rounded, np.float64)
        crossed_sum = crossed_sum + np.asarray(of_crossed, np.float64)
    return _Inputs(rounded_sum / len(own), crossed_sum / len(own))


# Layers are arguments, not closed over, so that layers of one geometry, and all trials of a search,
# use one compiled program.


@jax.jit
def _moments(
    layer: Layer, own: jax.Array, rounded: jax.Array, weights: jax.Array
) -> list[jax.Array]:
    """Returns the fields of `_Inputs`, summed over a batch."""
    own, rounded = calibrate.im2col(layer, own), calibrate.im2col(layer, rounded)
    return [calibrate.moment(rounded, other, weights) for other in (rounded, own)]


@jax.jit
def _outputs(layer: Layer, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return layer.linear(x, kernel)


def _problem(
    layer: Layer, curvature: Curvature, inputs: _Inputs, start: np.ndarray
) -> gptq.Problem:
    """Returns the rounding problem whose solution preserves the layer's outputs.

    The targets are weights that compensate for the quantized network's inputs, less `start`.
    """
    weights = calibrate.matrices(layer, np.asarray(layer.kernel[...], np.float64))
    identity = np.eye(weights.shape[1])
    size = _trace(curvature.gradients)
    share = _GRADIENTS * size / _trace(curvature.inputs)
    # `hold` penalizes changes of the weights, `share` those of the outputs.
    hold = (1 - _GRADIENTS) * curvature.gradients
    hold = hold + identity * _DAMPING * _trace(hold + share * inputs.rounded) / len(identity)
    hessians = hold + share * inputs.rounded
    # Symmetric but for rounding errors, which the inverse would amplify.
    hessians = (hessians + hessians.transpose(0, 2, 1)) / 2
    targets = np.linalg.solve(hessians, (hold + share * inputs.crossed) @ weights)
    importance = (1 - _EVEN) * curvature.outputs + _EVEN * curvature.outputs.mean(
        axis=1, keepdims=True
    )
    return gptq.problem(
        targets - calibrate.matrices(layer, start),
        hessians,
        np.maximum(importance / size[..., 0], _TINY),
    )


def _trace(matrices: np.ndarray) -> np.ndarray:
    """Returns the traces of [blocks, k, k] as [blocks, 1, 1], at least a tiny positive number."""
    return np.maximum(np.einsum("bkk->b", matrices), _TINY)[:, None, None]


def _levels(layer: Layer, rounded: gptq.Rounded) -> QuantizedTensor:
    return QuantizedTensor(calibrate.kernel(layer, rounded.levels), UniformScale(rounded.step))


def _starts(net: Network, base: Network | None) -> dict[str, np.ndarray]:
    """Returns what each layer's levels are added to: the base's kernel, or zeros."""
    shared = common(net, base)
    theirs = paths(base.params, base.stats) if base else {}
    return {
        path: np.asarray(
            theirs[_kernel(path)] if _kernel(path) in shared else np.zeros(layer.kernel.shape),
            np.float32,
        )
        for path, layer in calibrate.linear_layers(net.module()).items()
    }


def _kernel(layer: str) -> str:
    return f"params/{layer}/kernel"


def _rest(net: Network, base: Network | None, coded: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the arrays that are not quantized yet, such as biases.

    Arrays equal to the base's become a difference of zeros.
    """
    shared = common(net, base)
    arrays = {
        path: np.asarray(array, np.float32)
        for path, array in paths(net.params, net.stats).items()
        if path not in coded
    }
    return {
        path: QuantizedTensor(np.zeros(array.shape, np.int32), UniformScale(1.0))
        if path in shared
        else _compact(array)
        for path, array in arrays.items()
    }


def _compact(array: np.ndarray) -> np.ndarray:
    """Returns float16 if its error is within rounding or a millionth of the largest value.

    Returns the array itself otherwise.
    """
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    close = np.abs(half.astype(np.float32) - array) <= 2.0**-11 * np.abs(array) + 1e-6 * np.abs(
        array
    ).max(initial=0)
    return half if close.all() else array


def _batches(x: Any) -> list[Any]:
    return [x[i : i + BATCH] for i in range(0, len(x), BATCH)]
