"""Measures on images how sensitive a network's outputs are to the weights of each layer.

A small change E of a layer's weights, a matrix [inputs, outputs], moves the output distribution by
a KL divergence of 1/2 vec(E)' F vec(E), where F is the Fisher information. As in K-FAC (arXiv
1503.05671), F is approximated by a Kronecker product: a matrix over the inputs times a diagonal
over the outputs. Two moments estimate the input side. The second moment of an image's gradient is
unbiased but noisy. The second moment of the inputs at each position, as in GPTQ (arXiv 2210.17323),
is biased but not noisy.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from squeeze_jax.errors import UserError
from squeeze_jax.models import cpu_lowering, layers
from squeeze_jax.models.layers import LinearLayer
from squeeze_jax.network import Network, split_model

LARGEST_BLOCK = 4608  # most inputs of one Hessian; larger dense layers are split into blocks
BATCH = 8  # images
POSITIONS = 256  # of an image, that the second moment of a layer's inputs is summed over


class Curvature(NamedTuple):
    """Moments of one layer, of which the Fisher information is approximated.

    The layer's weights are independent matrices [blocks, k, outputs]. A convolution has a block for
    each group.

    Attributes:
      inputs: second moment of a position's inputs, weighted by `weights` and summed over the
        positions of an image, float64 [blocks, k, k].
      gradients: second moment of an image's gradient, summed over outputs, float64 [blocks, k, k].
      outputs: second moment of an image's gradient, summed over inputs, float64 [blocks, outputs].
      biases: second moment of an image's gradient by a bias of each channel, float64 [channels].
      weights: squared gradient by the layer's output, mean over channels, float32 [N, positions].
    """

    inputs: np.ndarray
    gradients: np.ndarray
    outputs: np.ndarray
    biases: np.ndarray
    weights: np.ndarray


class Calibration(NamedTuple):
    """Holds a network's curvatures, and the images on which they were measured."""

    images: np.ndarray  # float32 [N, H, W, 3], preprocessed
    layers: dict[str, Curvature]  # by path, such as fire2/squeeze


def calibrate(
    network: Network,
    images: np.ndarray,
    samples: int = 2,
    on_batch: Callable[[], None] = lambda: None,
) -> Calibration:
    """Measures a network's curvatures on images without labels.

    Args:
      network: a classifier.
      images: preprocessed, float32 [N, H, W, 3].
      samples: random gradients an image.
      on_batch: called after each batch, `count_batches(len(images))` times.

    Raises:
      UserError: there are no images.
    """
    if not len(images):
        raise UserError("calibration needs at least one image, and there is none")
    graphdef, params, stats = split_model(network.module())
    shapes = _find_output_shapes(network)

    @jax.jit
    def sum_batch(params, stats, images, keys):
        model = nnx.merge(graphdef, params, stats)
        names = {id(layer): path for path, layer in find_layers(model).items()}

        def run(changes):
            seen = {}

            def observe(layer, x, compute):
                name = names[id(layer)]
                seen[name] = im2col(layer, x)
                return compute(x, layer.kernel[...]) + changes[name]

            with layers.intercept_layers(observe):
                return model(images), seen

        zeros = {
            name: jnp.zeros((len(images), *shape), jnp.float32) for name, shape in shapes.items()
        }
        logits, backward, seen = jax.vjp(run, zeros, has_aux=True)

        def sample(keys):
            (gradients,) = backward(_draw_directions(logits, keys))
            return {name: _gradient_moments(seen[name], gradients[name]) for name in shapes}

        sums = jax.tree.map(lambda each: each.sum(axis=0), jax.lax.map(sample, keys))
        moments = {}
        for name in shapes:
            weights, step = sample_positions(sums[name][-1])
            inputs = seen[name][:, ::step]
            moments[name] = [sum_outer_products(inputs, inputs, weights), *sums[name]]
        return moments

    sums, weights = {}, {name: [] for name in shapes}
    for start in range(0, len(images), BATCH):
        part = images[start : start + BATCH]
        keys = jnp.stack(
            [
                jax.random.split(jax.random.fold_in(jax.random.key(start), sample), len(part))
                for sample in range(samples)
            ]
        )
        for name, found in jax.device_get(sum_batch(params, stats, part, keys)).items():
            weights[name].append(found.pop() / samples)
            found = [np.asarray(moment, np.float64) for moment in found]
            sums[name] = (
                [a + b for a, b in zip(sums[name], found, strict=True)] if name in sums else found
            )
        on_batch()
    count = samples * len(images)
    curvatures = {
        name: Curvature._make(
            [*(moment / count for moment in moments), np.concatenate(weights[name])]
        )
        for name, moments in sums.items()
    }
    return Calibration(images, curvatures)


def _draw_directions(logits: jax.Array, keys: jax.Array) -> jax.Array:
    """Draws random vectors [N, classes] with the covariance diag(p) - p p'.

    This covariance is the Fisher information of the logits. The gradient at a label drawn from p
    has the same covariance, but is noisier: most draws are tiny and few are large.
    """
    p = jax.nn.softmax(logits)
    signs = jax.vmap(lambda key: jax.random.rademacher(key, p.shape[1:], p.dtype))(keys)
    parts = jnp.sqrt(p) * signs
    return parts - p * jnp.sum(parts, axis=-1, keepdims=True)


def count_batches(images: int) -> int:
    """Returns the number of times that `calibrate` calls `on_batch`."""
    return -(-images // BATCH)


def _find_output_shapes(network: Network) -> dict[str, tuple[int, ...]]:
    """Returns the output shapes of all layers for one image, in the order of execution."""
    shapes, model = {}, network.module()
    names = {id(layer): path for path, layer in find_layers(model).items()}

    def observe(layer, x, compute):
        y = compute(x, layer.kernel[...])
        shapes[names[id(layer)]] = y.shape[1:]
        return y

    with layers.intercept_layers(observe):
        jax.eval_shape(model, jax.ShapeDtypeStruct((1, *network.input_shape), jnp.float32))
    return shapes


def _gradient_moments(seen: jax.Array, gradient: jax.Array) -> list[jax.Array]:
    """Returns the fields of a `Curvature` after the first, summed over a batch but for the weights.

    Args:
      seen: `im2col` of the layer's input, [N, positions, blocks, k].
      gradient: of the outputs by the layer's output, [N, H', W', channels] or [N, channels].
    """
    n, positions, blocks, _ = seen.shape
    weights = jnp.mean(gradient**2, axis=-1).reshape(n, positions)
    biases = jnp.sum(gradient.reshape(n, positions, -1).sum(axis=1) ** 2, axis=0)
    if gradient.ndim == 2:  # dense: an image's gradient is one outer product, split by its rows
        squares = jnp.sum(seen**2, axis=-1)  # [n, 1, blocks]
        return [
            sum_outer_products(seen, seen, weights) * gradient.shape[-1],
            jnp.einsum("npb,no->bo", squares, gradient.reshape(n, -1) ** 2),
            biases,
            weights,
        ]
    each = jnp.einsum("npbk,npbo->nbko", seen, gradient.reshape(n, positions, blocks, -1))
    return [
        jnp.einsum("nbko,nblo->bkl", each, each),
        jnp.sum(each**2, axis=(0, 2)),
        biases,
        weights,
    ]


def sample_positions(weights: jax.Array) -> tuple[jax.Array, int]:
    """Returns weights for about `POSITIONS` of an image's positions, and the step between these.

    They stand for all: neighbours say much the same.

    Args:
      weights: [N, positions].
    """
    positions = weights.shape[1]
    step = max(positions // POSITIONS, 1)
    while math.gcd(step, positions) > 1:  # or only some columns of a square would be seen
        step += 1
    sampled = weights[:, ::step]
    return sampled * (positions / sampled.shape[1]), step


def sum_outer_products(x: jax.Array, y: jax.Array, weights: jax.Array) -> jax.Array:
    """Returns the weighted sum of outer products over images and positions, [blocks, k, k].

    Args:
      x: [N, positions, blocks, k].
      y: the same shape.
      weights: [N, positions].
    """
    weighted = x * weights[:, :, None, None]
    if x.shape[2] == 1:  # a plain matrix product is nearly twice as fast on a CPU
        return (weighted.reshape(-1, x.shape[-1]).T @ y.reshape(-1, y.shape[-1]))[None]
    return jnp.einsum("npbk,npbl->bkl", weighted, y)


def find_layers(model: nnx.Module) -> dict[str, LinearLayer]:
    """Returns a module's convolutions and dense layers by path, such as fire2/squeeze."""
    return {
        "/".join(map(str, path)): node
        for path, node in nnx.iter_graph(model)
        if isinstance(node, LinearLayer)
    }


def im2col(layer: LinearLayer, x: jax.Array, step: int = 1) -> jax.Array:
    """Returns the inputs of each output position, or of each `step`-th, [N, positions, blocks, k].

    Args:
      layer: the layer.
      x: its input, [N, H, W, C] or [N, C].
      step: from one position to the next, row by row.
    """
    if isinstance(layer, layers.Dense):
        return x.reshape(len(x), 1, dense_blocks(x.shape[-1]), -1)
    kh, kw = layer.kernel[...].shape[:2]
    if step == 1:
        seen = cpu_lowering.im2col(x, (kh, kw), layer.stride, layer.padding, layer.groups)
        return seen.reshape(len(x), -1, *seen.shape[3:])
    x = jnp.pad(x, ((0, 0), *layer.padding, (0, 0)))
    height, width = (
        (size - window) // layer.stride + 1
        for size, window in zip(x.shape[1:3], (kh, kw), strict=True)
    )
    positions = np.divmod(np.arange(0, height * width, step), width)
    rows, columns = layer.stride * np.stack(positions)
    patches = x[
        :,
        rows[:, None, None] + np.arange(kh)[:, None],
        columns[:, None, None] + np.arange(kw),
    ]  # [N, positions, kh, kw, Cin]
    patches = patches.reshape(*patches.shape[:2], kh * kw, layer.groups, -1)
    return jnp.moveaxis(patches, 3, 2).reshape(*patches.shape[:2], layer.groups, -1)


def to_matrices(layer: LinearLayer, kernel: np.ndarray) -> np.ndarray:
    """Returns a kernel as matrices [blocks, k, outputs], with the inputs in the order of `im2col`.

    Args:
      layer: the layer.
      kernel: an array of the shape of the layer's kernel.
    """
    if isinstance(layer, layers.Dense):
        return kernel.reshape(dense_blocks(len(kernel)), -1, kernel.shape[-1])
    return np.moveaxis(kernel.reshape(math.prod(kernel.shape[:-1]), layer.groups, -1), 1, 0)


def from_matrices(layer: LinearLayer, blocks: np.ndarray) -> np.ndarray:
    """Returns the kernel of matrices [blocks, k, outputs]; undoes `to_matrices`."""
    shape = layer.kernel[...].shape
    if isinstance(layer, layers.Dense):
        return blocks.reshape(shape)
    return np.ascontiguousarray(np.moveaxis(blocks, 0, 1)).reshape(shape)


def dense_blocks(inputs: int) -> int:
    """Returns the least number of equal blocks of a dense layer's inputs.

    No block exceeds `LARGEST_BLOCK`.
    """
    return next(
        blocks for blocks in range(-(-inputs // LARGEST_BLOCK), inputs + 1) if inputs % blocks == 0
    )
