"""Trains quantized weights, so that a network from a lossy file stays as small after training.

Uses the straight-through estimator (arXiv 1308.3432): gradients are computed at the quantized
weights and applied to latent weights, and the network uses the quantized values nearest to those.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from squeeze_jax.compress.prune import kernels
from squeeze_jax.compress.sqz.quantized_tensor import find_step, find_uniform_scale
from squeeze_jax.errors import UserError
from squeeze_jax.network import Tree, leaves_by_path

# Largest magnitude of a level; products with either half of a step's 24 bits are exact.
LIMIT = 2**12 - 1


class LatentState(NamedTuple):
    """Holds the state of quantization-aware training."""

    latent: Tree  # float32, in the shapes of the parameters
    quantization: Tree  # what `find` returned for each initial parameter


def keep_quantized() -> optax.GradientTransformation:
    """Keeps kernels on their initial quantization steps, and float16 values in float16.

    A kernel that starts as multiples of one step stays multiples of it. Other parameters that start
    as float16 values stay so. The rest trains freely.

    Put this transformation last in a chain: its updates are added to the weights, and the sums are
    exact, so that a lossless file finds the levels again. After `prune.keep_zeros`, levels of 0
    stay 0.
    """
    others = optax.masked(
        _straight_through(_is_half, _round_latent_to_half),
        lambda params: jax.tree.map(lambda kernel: not kernel, kernels(params)),
    )
    return optax.chain(optax.masked(_straight_through(_find_step, _round_to_step), kernels), others)


def check_quantized(params: Tree) -> None:
    """Rejects parameters without a quantized kernel.

    Raises:
      UserError: no kernel consists of multiples of one step.
    """
    found = (
        find_uniform_scale(np.asarray(leaf))
        for path, leaf in leaves_by_path(params).items()
        if leaves_by_path(kernels(params))[path]
    )
    if not any(levels and max(levels.below, levels.above) <= LIMIT for levels in found):
        raise UserError(
            "train.qat: no kernel is a multiple of one step; start from what "
            "`squeeze-jax decompress` writes for a lossy .sqz file"
        )


def _straight_through(
    find: Callable[[jax.Array], jax.Array],
    project: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
) -> optax.GradientTransformation:
    """Updates latent weights, and moves the weights to the projections of those.

    Args:
      find: initial weights -> their quantization; 0 or False where there is none.
      project: (latent weights, current weights, quantization) -> next weights.
    """

    def init(params):
        return LatentState(params, jax.tree.map(find, params))

    def update(updates, state, params=None):
        latent = jax.tree.map(jnp.add, state.latent, updates)

        def move(update, latent, weights, found):
            return jnp.where(found > 0, project(latent, weights, found) - weights, update)

        return jax.tree.map(move, updates, latent, params, state.quantization), LatentState(
            latent, state.quantization
        )

    return optax.GradientTransformation(init, update)


def _find_step(weights: jax.Array) -> jax.Array:
    """Returns the quantization step of a kernel, float32 []; 0 if it has none."""
    step = find_step(weights, jnp)
    return jnp.where(jnp.max(jnp.abs(weights)) <= LIMIT * step, step, 0)


def _round_to_step(latent: jax.Array, weights: jax.Array, step: jax.Array) -> jax.Array:
    """Returns the multiples nearest to the latent weights, at most one step from the weights.

    Adjacent levels differ by a factor of at most 2, or one of them is 0. So their difference, and
    its sum with either, are exact in float32 (Sterbenz's lemma). Larger moves take several updates.
    """
    level, aim = jnp.round(weights / step), jnp.clip(jnp.round(latent / step), -LIMIT, LIMIT)
    level += jnp.clip(aim - level, -1, 1)
    # Both products are exact. A compiler might fuse a single product with the subtraction that
    # follows, which would round differently.
    high = lax.reduce_precision(step, exponent_bits=8, mantissa_bits=11)
    return level * high + level * (step - high)


def _is_half(weights: jax.Array) -> jax.Array:
    return jnp.all(_round_to_half(weights) == weights)


def _round_latent_to_half(latent: jax.Array, weights: jax.Array, found: Any) -> jax.Array:
    return _round_to_half(latent)


def _round_to_half(x: jax.Array) -> jax.Array:
    """Returns the nearest float16 values, as float32.

    Does not convert to float16 and back, which a compiler may drop.
    """
    tiny = jnp.round(x * 2.0**24) * 2.0**-24  # float16's subnormals are multiples of 2^-24
    return jnp.where(
        jnp.abs(x) < 2.0**-14, tiny, lax.reduce_precision(x, exponent_bits=5, mantissa_bits=10)
    )
