"""Quantizes a network's weights so that its outputs change least.

Layers are quantized in the order in which the network runs them. Each layer sees the inputs that
the quantized layers before it produce, and aims at the original network's outputs, so that it also
corrects their errors, as in GPTAQ (arXiv 2504.02692).
"""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from squeeze_jax.compress import adaround, calibrate, gptq
from squeeze_jax.compress.calibrate import BATCH, Calibration, Curvature
from squeeze_jax.compress.layerwise import run_layerwise
from squeeze_jax.compress.sqz.container import paths
from squeeze_jax.compress.sqz.quantized_tensor import QuantizedTensor, Tensor, UniformScale
from squeeze_jax.models.layers import LinearLayer
from squeeze_jax.network import Network, predict, split_model

# Chosen on the released SqueezeNet (experiments/compression).
# Weight of the gradients' moment in a layer's Hessian; the rest is the inputs' moment.
_GRADIENTS = 0.5
# How far the importance of outputs is shrunk towards its mean. Otherwise a class that is never
# predicted has none.
_SHRINKAGE = 0.8
_DAMPING = 0.003  # relative to the mean of the Hessian's diagonal
_TINY = float(np.finfo(np.float32).tiny)

FEWEST_BITS, MOST_BITS = 2, 16


def quantize(
    network: Network,
    calibrated: Calibration,
    multiplier: float,
    base: Network | None = None,
    on_layer: Callable[[], None] = lambda: None,
) -> dict[str, Tensor]:
    """Quantizes a network layer by layer, trading size against KL divergence.

    Kernels become levels; other arrays become float16 where that is accurate enough. A bias
    corrects the mean error of its layer's outputs and takes few distinct values, which cost few
    bytes.

    Args:
      network: the network.
      calibrated: its calibration.
      multiplier: price of a bit, nats of KL divergence; the larger, the smaller the file.
      base: a network whose weights are subtracted first, for the paths in `find_added`.
      on_layer: called after each layer.

    Returns:
      Arrays by path, as `container.write` takes them.
    """
    base_kernels, added = _find_base_kernels(network, base), find_added(network, base)
    coded: dict[str, Tensor] = {}

    def compute(path, layer, inputs):
        # The batches of the original network come first, then those of the quantized one.
        own, rounded = inputs[: len(inputs) // 2], inputs[len(inputs) // 2 :]
        curvature = calibrated.layers[path]
        weights = _split_batches(curvature.weights)
        given = _make_problem(
            layer, curvature, _measure_inputs(layer, own, rounded, weights), base_kernels[path]
        )
        found = adaround.refine(given, gptq.search_step(given, multiplier), multiplier)
        tensor = coded[_kernel_path(path)] = _to_tensor(layer, found)
        on_layer()
        kernels = (layer.kernel[...], jnp.asarray(base_kernels[path] + tensor.values()))
        own, rounded = (
            [_run_layer(layer, x, kernel) for x in batches]
            for batches, kernel in zip((own, rounded), kernels, strict=True)
        )
        if _is_rounded(layer, path, added):
            bias = np.asarray(layer.bias[...], np.float64)
            error = _average_error(own, rounded, weights)
            rounded_bias = _round_bias(bias + error, curvature, multiplier)
            values = (rounded_bias.levels[0, 0] * rounded_bias.step).astype(np.float32)
            coded[_bias_path(path)] = _shorten(values)
            change = jnp.asarray(values - bias, jnp.float32)
            rounded = [_add_channels(y, change) for y in rounded]
        return own + rounded

    batches = [jnp.asarray(each) for each in _split_batches(calibrated.images)]
    run_layerwise(network.module(), batches + batches, compute)
    return coded | _code_others(network, base, coded)


def estimate(
    network: Network, calibrated: Calibration, multiplier: float, base: Network | None = None
) -> tuple[float, float]:
    """Estimates the result of `quantize` in a fraction of its time.

    Each layer is quantized as if no other layer was.

    Returns:
      (bits of the levels, nats of KL divergence).
    """
    bits, nats, base_kernels = 0.0, 0.0, _find_base_kernels(network, base)
    added = find_added(network, base)
    for path, layer in calibrate.find_layers(network.module()).items():
        curvature = calibrated.layers[path]
        rounded = gptq.search_step(
            _make_problem(layer, curvature, _assume_exact_inputs(curvature), base_kernels[path]),
            multiplier,
        )
        found = [rounded]
        if _is_rounded(layer, path, added):
            bias = np.asarray(layer.bias[...], np.float64)
            found.append(_round_bias(bias, curvature, multiplier))
        bits += sum(each.bits for each in found)
        nats += sum(each.distortion for each in found)
    return bits, nats


def to_bits(
    network: Network, calibrated: Calibration | None, bits: int, base: Network | None = None
) -> dict[str, Tensor]:
    """Quantizes each kernel to 2^bits - 1 levels over the range of its weights.

    Args:
      network: the network.
      calibrated: its calibration, for GPTQ; without, each weight becomes the nearest level.
      bits: `FEWEST_BITS` to `MOST_BITS`.
      base: as in `quantize`.

    Returns:
      Arrays by path, as `container.write` takes them.
    """
    coded, limit, base_kernels = {}, 2 ** (bits - 1) - 1, _find_base_kernels(network, base)
    for path, layer in calibrate.find_layers(network.module()).items():
        if calibrated is None:
            weights = calibrate.to_matrices(
                layer, np.asarray(layer.kernel[...]) - base_kernels[path]
            ).astype(np.float64)
            blocks, inputs, outputs = weights.shape
            given = gptq.make_problem(
                weights,
                np.broadcast_to(np.eye(inputs), (blocks, inputs, inputs)),
                np.ones((blocks, outputs)),
            )
        else:
            curvature = calibrated.layers[path]
            given = _make_problem(
                layer, curvature, _assume_exact_inputs(curvature), base_kernels[path]
            )
        step = max(float(np.abs(given.targets).max(initial=0)) / limit, _TINY)
        coded[_kernel_path(path)] = _to_tensor(layer, gptq.quantize_at(given, step, limit=limit))
    return coded | _code_others(network, base, coded)


def code_zeros(network: Network, base: Network | None = None) -> dict[str, Tensor]:
    """Returns what `quantize` returns, with all levels 0: the part of a file that has a fixed size.

    Args:
      network: the network.
      base: as in `quantize`.
    """
    added = find_added(network, base)
    zeros: dict[str, Tensor] = {}
    for path, layer in calibrate.find_layers(network.module()).items():
        zeros[_kernel_path(path)] = _zeros(layer.kernel[...].shape)
        if _is_rounded(layer, path, added):
            zeros[_bias_path(path)] = np.zeros(layer.bias[...].shape, np.float16)
    return zeros | _code_others(network, base, zeros)


def find_added(network: Network, base: Network | None) -> set[str]:
    """Returns the paths of the arrays that are stored as differences from the base.

    These are the kernels that have the same shape in both networks, and the other arrays that are
    equal.
    """
    if base is None:
        return set()
    theirs = paths(base.params, base.stats)
    kernels = {_kernel_path(path) for path in calibrate.find_layers(network.module())}
    own = paths(network.params, network.stats)
    return {
        path
        for path, array in own.items()
        if path in theirs
        and theirs[path].shape == array.shape
        and (path in kernels or np.array_equal(theirs[path], array))
    }


def divergence_from(network: Network, images: np.ndarray) -> Callable[[Network], float]:
    """Returns a function that measures how far another network's outputs are from this one's.

    The function takes a network of the same architecture and returns the mean KL divergence of its
    output distributions, nats.

    Args:
      network: the reference.
      images: preprocessed, float32 [N, H, W, 3].
    """
    # The weights are arguments, so that the function compiles once for all networks.
    run = jax.jit(functools.partial(predict, split_model(network.module())[0]))

    def log_probabilities(network: Network) -> np.ndarray:
        logits = np.concatenate(
            [run(network.params, network.stats, part) for part in _split_batches(images)]
        ).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    own = log_probabilities(network)
    return lambda other: float((np.exp(own) * (own - log_probabilities(other))).sum(axis=1).mean())


class _Inputs(NamedTuple):
    """Holds moments of a layer's inputs, weighted and scaled like `Curvature.inputs`.

    Attributes:
      rounded: second moment of the quantized network's inputs, float64 [blocks, k, k].
      crossed: cross moment of the quantized (rows) and the original network's inputs (columns), of
        the same shape.
    """

    rounded: np.ndarray
    crossed: np.ndarray


def _assume_exact_inputs(curvature: Curvature) -> _Inputs:
    """Returns the moments of a layer's inputs while no other layer is quantized."""
    return _Inputs(curvature.inputs, curvature.inputs)


def _measure_inputs(
    layer: LinearLayer,
    own: Sequence[jax.Array],
    rounded: Sequence[jax.Array],
    weights: Sequence[np.ndarray],
) -> _Inputs:
    """Returns the moments of a layer's inputs.

    Args:
      layer: the layer.
      own: its inputs in the original network, [N, H, W, C] or [N, C] a batch.
      rounded: its inputs in the quantized network, of the same shapes.
      weights: those of `Curvature`, [N, positions] a batch.
    """
    rounded_sum, crossed_sum = np.zeros(()), np.zeros(())
    for batch in zip(own, rounded, weights, strict=True):
        of_rounded, of_crossed = _sum_moments(layer, *batch)
        rounded_sum = rounded_sum + np.asarray(of_rounded, np.float64)
        crossed_sum = crossed_sum + np.asarray(of_crossed, np.float64)
    images = sum(map(len, weights))
    return _Inputs(rounded_sum / images, crossed_sum / images)


# Layers are arguments, so that layers of one geometry, and all trials of a search, use one compiled
# program.


@jax.jit
def _sum_moments(
    layer: LinearLayer, own: jax.Array, rounded: jax.Array, weights: jax.Array
) -> list[jax.Array]:
    """Returns the fields of `_Inputs`, summed over a batch."""
    weights, step = calibrate.sample_positions(weights)
    own, rounded = (calibrate.im2col(layer, x, step) for x in (own, rounded))
    return [calibrate.sum_outer_products(rounded, other, weights) for other in (rounded, own)]


@jax.jit
def _run_layer(layer: LinearLayer, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return layer.linear(x, kernel)


def _make_problem(
    layer: LinearLayer, curvature: Curvature, inputs: _Inputs, base_kernel: np.ndarray
) -> gptq.Problem:
    """Returns the rounding problem whose solution preserves the layer's outputs.

    The targets are weights that compensate for the quantized network's inputs, less the base's.
    """
    weights = calibrate.to_matrices(layer, np.asarray(layer.kernel[...], np.float64))
    identity = np.eye(weights.shape[1])
    size = _trace(curvature.gradients)
    share = _GRADIENTS * size / _trace(curvature.inputs)
    # `hold` penalizes changes of the weights, `share` changes of the outputs.
    hold = (1 - _GRADIENTS) * curvature.gradients
    hold = hold + identity * _DAMPING * _trace(hold + share * inputs.rounded) / len(identity)
    hessians = hold + share * inputs.rounded
    # Rounding errors break the symmetry, and the inverse would amplify them.
    hessians = (hessians + hessians.transpose(0, 2, 1)) / 2
    # Of equal inputs no weight moves, not even by rounding errors: a base's kernel is then matched.
    drift = share * (inputs.crossed - inputs.rounded) @ weights
    targets = weights + np.linalg.solve(hessians, drift)
    importance = (1 - _SHRINKAGE) * curvature.outputs + _SHRINKAGE * curvature.outputs.mean(
        axis=1, keepdims=True
    )
    return gptq.make_problem(
        targets - calibrate.to_matrices(layer, base_kernel),
        hessians,
        np.maximum(importance / size[..., 0], _TINY),
    )


def _trace(matrices: np.ndarray) -> np.ndarray:
    """Returns the traces of matrices [blocks, k, k] as [blocks, 1, 1], at least `_TINY`."""
    return np.maximum(np.einsum("bkk->b", matrices), _TINY)[:, None, None]


def _to_tensor(layer: LinearLayer, rounded: gptq.Rounded) -> QuantizedTensor:
    return QuantizedTensor(
        calibrate.from_matrices(layer, rounded.levels), UniformScale(rounded.step)
    )


def _find_base_kernels(network: Network, base: Network | None) -> dict[str, np.ndarray]:
    """Returns the kernel that each layer's levels are added to: the base's, or zeros."""
    added = find_added(network, base)
    theirs = paths(base.params, base.stats) if base else {}
    return {
        path: np.asarray(
            theirs[_kernel_path(path)]
            if _kernel_path(path) in added
            else np.zeros(layer.kernel[...].shape),
            np.float32,
        )
        for path, layer in calibrate.find_layers(network.module()).items()
    }


def _kernel_path(layer: str) -> str:
    return f"params/{layer}/kernel"


def _bias_path(layer: str) -> str:
    return f"params/{layer}/bias"


def _zeros(shape: tuple[int, ...]) -> QuantizedTensor:
    return QuantizedTensor(np.zeros(shape, np.int32), UniformScale(1.0))


def _is_rounded(layer: LinearLayer, path: str, added: Collection[str]) -> bool:
    """Returns whether the layer has a bias that `quantize` rounds: one unlike the base's."""
    return hasattr(layer, "bias") and _bias_path(path) not in added


def _average_error(
    own: Sequence[jax.Array], rounded: Sequence[jax.Array], weights: Sequence[np.ndarray]
) -> np.ndarray:
    """Returns the mean over images and positions of own - rounded, float64 [channels].

    Args:
      own: a layer's outputs in the original network, [N, H', W', C] or [N, C] a batch.
      rounded: those in the quantized network.
      weights: those of `Curvature`, [N, positions] a batch.
    """
    sums = [
        np.asarray(_sum_error(*batch), np.float64)
        for batch in zip(own, rounded, weights, strict=True)
    ]
    return np.sum(sums, axis=0) / max(sum(each.sum(dtype=np.float64) for each in weights), _TINY)


@jax.jit
def _sum_error(own: jax.Array, rounded: jax.Array, weights: jax.Array) -> jax.Array:
    """Returns the sum of `_average_error` over a batch."""
    error = (own - rounded).reshape(*weights.shape, -1)
    return jnp.einsum("np,npc->c", weights, error)


@functools.partial(jax.jit, donate_argnums=0)
def _add_channels(y: jax.Array, change: jax.Array) -> jax.Array:
    return y + change.reshape((1,) * (y.ndim - 1) + (-1,))


def _round_bias(bias: np.ndarray, curvature: Curvature, multiplier: float) -> gptq.Rounded:
    """Rounds a bias [channels] at the step that minimises distortion + multiplier * bits.

    The step is a power of two, so that float16 holds the values.
    """
    importance = (1 - _SHRINKAGE) * curvature.biases + _SHRINKAGE * curvature.biases.mean()
    given = gptq.make_problem(
        bias[None, None], np.ones((1, 1, 1)), np.maximum(importance, _TINY)[None]
    )
    step = 2.0 ** np.round(np.log2(gptq.search_step(given, multiplier).step))
    return gptq.quantize_at(given, step, multiplier)


def _code_others(
    network: Network, base: Network | None, coded: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Returns the tensors of the arrays that are not in `coded`, such as biases.

    Arrays equal to the base's become a difference of zeros.
    """
    added = find_added(network, base)
    arrays = {
        path: np.asarray(array, np.float32)
        for path, array in paths(network.params, network.stats).items()
        if path not in coded
    }
    return {
        path: _zeros(array.shape) if path in added else _shorten(array)
        for path, array in arrays.items()
    }


def _shorten(array: np.ndarray) -> np.ndarray:
    """Returns an array as float16 where that is accurate enough, and the array itself elsewhere.

    Accurate enough is an error within rounding plus a millionth of the largest magnitude.
    """
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    close = np.abs(half.astype(np.float32) - array) <= 2.0**-11 * np.abs(array) + 1e-6 * np.abs(
        array
    ).max(initial=0)
    return half if close.all() else array


def _split_batches(x: Any) -> list[Any]:
    return [x[i : i + BATCH] for i in range(0, len(x), BATCH)]
