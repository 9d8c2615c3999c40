"""Measures what the weights of each layer mean to a net's outputs, measured on images: the model by which weights are rounded.

A small change E of a layer's weights, as a matrix [inputs, outputs], moves the net's output distribution by a KL divergence of
1/2 vec(E)' F vec(E), where F is the Fisher information. F is taken as inputs by inputs times a diagonal of outputs, in the manner of
K-FAC (arXiv 1503.05671). Two moments stand for the inputs' side: that of the gradients, in which the positions of an image add up, is
the right one but noisy; that of what the positions see, each by itself, is what GPTQ (arXiv 2210.17323) has, and is not.
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
from squeeze_jax.network import Network, split_model

LARGEST_BLOCK = 4608  # inputs of a layer that are seen together; a larger fully connected layer has several blocks of them
BATCH = 8  # images at a time

Layer = layers.Conv | layers.Dense


class Curvature(NamedTuple):
    """One layer's. Its weights are blocks of matrices, independent of one another: a convolution has one for each of its groups."""

    inputs: np.ndarray  # float64 [blocks, k, k]: second moment of what a position sees, weighted by `weights`, summed over an image
    gradients: (
        np.ndarray
    )  # float64 [blocks, k, k]: second moment of an image's gradient, summed over outputs
    outputs: np.ndarray  # float64 [blocks, outputs]: the same summed over inputs
    weights: (
        np.ndarray
    )  # float32 [N, positions]: squared gradient of the layer's output, mean over channels


class Calibration(NamedTuple):
    """A net's curvatures, and the images on which they were measured."""

    images: np.ndarray  # float32 [N, H, W, 3], preprocessed
    layers: dict[str, Curvature]  # by path, such as fire2/squeeze


def calibrate(
    net: Network, images: np.ndarray, samples: int = 2, on_batch: Callable[[], None] = lambda: None
) -> Calibration:
    """Measures a net's curvatures. The images need no labels.

    Args:
      net: a classifier.
      images: preprocessed, float32 [N, H, W, 3].
      samples: gradients of each image, in random directions.
      on_batch: called `batches(len(images), samples)` times, as it gets on.

    Raises:
      UserError: there are no images.
    """
    if not len(images):
        raise UserError("there are no images to calibrate on")
    graphdef, params, stats = split_model(net.module())
    shapes = _output_shapes(net)

    @jax.jit
    def moments(params, stats, images, keys):
        model = nnx.merge(graphdef, params, stats)
        names = {id(layer): path for path, layer in linear_layers(model).items()}

        def loss(changes):
            seen = {}

            def observe(layer, x, compute):
                name = names[id(layer)]
                seen[name] = patches(layer, x)
                return compute(x, layer.kernel[...]) + changes[name]

            with layers.intercept_layers(observe):
                logits = model(images)
            return jnp.sum(logits * _directions(jax.lax.stop_gradient(logits), keys)), seen

        zeros = {
            name: jnp.zeros((len(images), *shape), jnp.float32) for name, shape in shapes.items()
        }
        gradients, seen = jax.grad(loss, has_aux=True)(zeros)
        return {name: _moments(seen[name], gradients[name]) for name in shapes}

    sums, weights = {}, {name: [] for name in shapes}
    for start in range(0, len(images), BATCH):
        part = images[start : start + BATCH]
        for sample in range(samples):
            keys = jax.random.split(jax.random.fold_in(jax.random.key(start), sample), len(part))
            for name, found in jax.device_get(moments(params, stats, part, keys)).items():
                weights[name].append(found.pop())
                found = [np.asarray(moment, np.float64) for moment in found]
                sums[name] = (
                    [a + b for a, b in zip(sums[name], found, strict=True)]
                    if name in sums
                    else found
                )
            on_batch()
    count = samples * len(images)
    curvatures = {
        name: Curvature(*(moment / count for moment in sums[name]), _means(weights[name], samples))
        for name in sums
    }
    return Calibration(images, curvatures)


def _directions(logits: jax.Array, keys: jax.Array) -> jax.Array:
    """Random vectors [N, classes] whose covariance is the Fisher information of the logits, diag(p) - p p'.

    A label drawn from p gives such a vector too, but one that is nearly always next to nothing and now and then huge.
    """
    p = jax.nn.softmax(logits)
    signs = jax.vmap(lambda key: jax.random.rademacher(key, p.shape[1:], p.dtype))(keys)
    parts = jnp.sqrt(p) * signs
    return parts - p * jnp.sum(parts, axis=-1, keepdims=True)


def batches(images: int, samples: int = 2) -> int:
    """How many times `calibrate` calls back."""
    return samples * -(-images // BATCH)


def _output_shapes(net: Network) -> dict[str, tuple[int, ...]]:
    """The shapes of all layers' outputs, of one image, in the order in which the net runs through them."""
    shapes, model = {}, net.module()
    names = {id(layer): path for path, layer in linear_layers(model).items()}

    def observe(layer, x, compute):
        y = compute(x, layer.kernel[...])
        shapes[names[id(layer)]] = y.shape[1:]
        return y

    with layers.intercept_layers(observe):
        jax.eval_shape(model, jax.ShapeDtypeStruct((1, *net.input_shape), jnp.float32))
    return shapes


def _moments(seen: jax.Array, gradient: jax.Array) -> list[jax.Array]:
    """The fields of a `Curvature`, summed over a batch.

    Args:
      seen: `patches` of the layer's input.
      gradient: of the loss, by the layer's output [N, H', W', channels] or [N, channels].
    """
    n, positions, blocks, _ = seen.shape
    weights = jnp.mean(gradient**2, axis=-1).reshape(n, positions)
    inputs = moment(seen, seen, weights)
    if positions == 1:  # every image's gradient is one outer product
        squares = jnp.sum(seen**2, axis=-1)  # [n, 1, blocks]
        return [
            inputs,
            inputs * gradient.shape[-1],
            jnp.einsum("npb,no->bo", squares, gradient.reshape(n, -1) ** 2),
            weights,
        ]
    each = jnp.einsum("npbk,npbo->nbko", seen, gradient.reshape(n, positions, blocks, -1))
    return [
        inputs,
        jnp.einsum("nbko,nblo->bkl", each, each),
        jnp.sum(each**2, axis=(0, 2)),
        weights,
    ]


def moment(x: jax.Array, y: jax.Array, weights: jax.Array) -> jax.Array:
    """Weighted sum over images and positions of the products: [N, positions, blocks, k], the same, [N, positions] -> [blocks, k, k]."""
    weighted = x * weights[:, :, None, None]
    if x.shape[2] == 1:  # a plain matrix product is nearly twice as fast on a CPU
        return (weighted.reshape(-1, x.shape[-1]).T @ y.reshape(-1, y.shape[-1]))[None]
    return jnp.einsum("npbk,npbl->bkl", weighted, y)


def _means(parts: list[np.ndarray], samples: int) -> np.ndarray:
    """[N, positions] of batches of it, `samples` of each one after another."""
    return np.concatenate(
        [np.mean(parts[i : i + samples], axis=0) for i in range(0, len(parts), samples)]
    )


def linear_layers(model: nnx.Module) -> dict[str, Layer]:
    """A module's convolutions and fully connected layers by path, such as fire2/squeeze."""
    return {
        "/".join(map(str, path)): node
        for path, node in nnx.iter_graph(model)
        if isinstance(node, Layer)
    }


def patches(layer: Layer, x: jax.Array) -> jax.Array:
    """What the positions of a layer's output see of its input x: [N, positions, blocks, k]."""
    if isinstance(layer, layers.Dense):
        return x.reshape(len(x), 1, dense_blocks(x.shape[-1]), -1)
    seen = cpu_lowering.im2col(x, layer.kernel.shape[:2], layer.stride, layer.padding, layer.groups)
    return seen.reshape(len(x), -1, *seen.shape[3:])


def matrices(layer: Layer, kernel: np.ndarray) -> np.ndarray:
    """A kernel of this layer as [blocks, k, outputs], the inputs in the order of `patches`."""
    if isinstance(layer, layers.Dense):
        return kernel.reshape(dense_blocks(len(kernel)), -1, kernel.shape[-1])
    return np.moveaxis(kernel.reshape(math.prod(kernel.shape[:-1]), layer.groups, -1), 1, 0)


def kernel(layer: Layer, blocks: np.ndarray) -> np.ndarray:
    """The kernel of which these are the `matrices`."""
    if isinstance(layer, layers.Dense):
        return blocks.reshape(layer.kernel.shape)
    return np.ascontiguousarray(np.moveaxis(blocks, 0, 1)).reshape(layer.kernel.shape)


def dense_blocks(inputs: int) -> int:
    """How many blocks of equal size the inputs of a fully connected layer are in: as few as `LARGEST_BLOCK` allows."""
    return next(
        blocks for blocks in range(-(-inputs // LARGEST_BLOCK), inputs + 1) if inputs % blocks == 0
    )
