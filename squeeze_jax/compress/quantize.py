"""A net's weights in levels, chosen for what they do to its outputs.

The layers are rounded in the order in which the net runs through them. Each sees what those before it, rounded already, make of the
calibration images, and aims at what the net itself makes of them: so it makes up for their errors too (as GPTAQ, arXiv 2504.02692).
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
_GRADIENTS = 0.5  # the share of the gradients' moment in a layer's Hessian, beside the inputs'
_EVEN = 0.8  # how far the outputs' importance is drawn to its mean: a class that is never predicted would have none
_DAMPING = 0.003  # of the mean of the Hessian's diagonal
_TINY = float(np.finfo(np.float32).tiny)

FEWEST_BITS, MOST_BITS = 2, 16


def quantize(
    net: Network,
    calibrated: Calibration,
    multiplier: float,
    base: Network | None = None,
    on_layer: Callable[[], None] = lambda: None,
) -> dict[str, Tensor]:
    """Every array of a net as `container.write` takes it: kernels in levels, the others in float16 where that is close enough.

    Args:
      net: the net.
      calibrated: its calibration.
      multiplier: nats of KL divergence that a bit is worth: the larger, the smaller the file.
      base: what the levels are differences from, of the paths in `common`.
      on_layer: called after each layer.
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
    """About (bits of the levels, nats of divergence) of `quantize`, in a fraction of its time: as if each layer were rounded alone."""
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
    """Every array of a net as `container.write` takes it: kernels in 2^bits - 1 levels over the range of the layer's weights.

    Args:
      net: the net.
      calibrated: its calibration, for error feedback; None: each weight takes the nearest level.
      bits: `FEWEST_BITS` to `MOST_BITS`.
      base: as in `quantize`.
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
    """Every array of a net as `quantize` gives it, with no level but 0."""
    zeros = {
        _kernel(path): QuantizedTensor(np.zeros(layer.kernel.shape, np.int32), UniformScale(1.0))
        for path, layer in calibrate.linear_layers(net.module()).items()
    }
    return zeros | _rest(net, base, zeros)


def common(net: Network, base: Network | None) -> set[str]:
    """The paths of arrays that two nets have in one shape, and whose levels above are therefore differences."""
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
    """Of another net of the same architecture: mean KL divergence, nats, of its output distributions from a net's own.

    Args:
      net: the net.
      images: preprocessed, float32 [N, H, W, 3].
    """
    run = jax.jit(
        functools.partial(predict, split_model(net.module())[0])
    )  # compiled once for all nets: weights are arguments

    def log_probabilities(net: Network) -> np.ndarray:
        logits = np.concatenate(
            [run(net.params, net.stats, part) for part in _batches(images)]
        ).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    own = log_probabilities(net)
    return lambda other: float((np.exp(own) * (own - log_probabilities(other))).sum(axis=1).mean())


class _Inputs(NamedTuple):
    """What a layer of the rounded net sees, and how it goes with what the net's own sees: weighted and scaled as `Curvature.inputs`."""

    rounded: np.ndarray  # float64 [blocks, k, k]: second moment of the rounded net's
    crossed: (
        np.ndarray
    )  # float64 [blocks, k, k]: of the rounded net's (rows) and the net's own (columns)


def _still(curvature: Curvature) -> _Inputs:
    """While no other layer is rounded."""
    return _Inputs(curvature.inputs, curvature.inputs)


def _inputs(layer: Layer, own: jax.Array, rounded: jax.Array, weights: np.ndarray) -> _Inputs:
    parts = (
        _moments(layer, *part) for part in zip(_batches(own), _batches(rounded), _batches(weights))
    )
    rounded_sum, crossed_sum = np.zeros(()), np.zeros(())
    for of_rounded, of_crossed in parts:
        rounded_sum = rounded_sum + np.asarray(of_rounded, np.float64)
        crossed_sum = crossed_sum + np.asarray(of_crossed, np.float64)
    return _Inputs(rounded_sum / len(own), crossed_sum / len(own))


# Layers are arguments, not closed over: those of one geometry then share a compiled program, and so do all trials of a search.


@jax.jit
def _moments(
    layer: Layer, own: jax.Array, rounded: jax.Array, weights: jax.Array
) -> list[jax.Array]:
    """The fields of `_Inputs`, summed over a batch."""
    own, rounded = calibrate.patches(layer, own), calibrate.patches(layer, rounded)
    return [calibrate.moment(rounded, other, weights) for other in (rounded, own)]


@jax.jit
def _outputs(layer: Layer, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return layer.linear(x, kernel)


def _problem(
    layer: Layer, curvature: Curvature, inputs: _Inputs, start: np.ndarray
) -> gptq.Problem:
    """What is to be rounded for the layer's outputs to stay what they are: weights made up for drifted inputs, less `start`."""
    weights = calibrate.matrices(layer, np.asarray(layer.kernel[...], np.float64))
    identity = np.eye(weights.shape[1])
    size = _trace(curvature.gradients)
    share = _GRADIENTS * size / _trace(curvature.inputs)
    # One part holds the weights where they are, the other the outputs.
    hold = (1 - _GRADIENTS) * curvature.gradients
    hold = hold + identity * _DAMPING * _trace(hold + share * inputs.rounded) / len(identity)
    hessians = hold + share * inputs.rounded
    hessians = (
        hessians + hessians.transpose(0, 2, 1)
    ) / 2  # to rounding it is, but its inverse must be
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
    """[blocks, k, k] -> [blocks, 1, 1]; above zero, for layers that nothing depends on."""
    return np.maximum(np.einsum("bkk->b", matrices), _TINY)[:, None, None]


def _levels(layer: Layer, rounded: gptq.Rounded) -> QuantizedTensor:
    return QuantizedTensor(calibrate.kernel(layer, rounded.levels), UniformScale(rounded.step))


def _starts(net: Network, base: Network | None) -> dict[str, np.ndarray]:
    """What each layer's levels are added to: the base's kernel, or zeros."""
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
    """The arrays that are not coded yet, such as biases: nothing to add to the base's where they are its own."""
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
    """In float16, where that keeps eleven bits of each value or errs by a millionth of the largest; in float32 otherwise."""
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    close = np.abs(half.astype(np.float32) - array) <= 2.0**-11 * np.abs(array) + 1e-6 * np.abs(
        array
    ).max(initial=0)
    return half if close.all() else array


def _batches(x: Any) -> list[Any]:
    return [x[i : i + BATCH] for i in range(0, len(x), BATCH)]
