"""Training on a grid: a net that was decoded from a lossy file is trained on, and its file stays as small.

The straight-through estimator (arXiv 1308.3432): gradients are those at the grid's weights, and act on latent weights, of which the net
sees the nearest on the grid.
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

LIMIT = (
    2**12 - 1
)  # magnitude of a level: its products with either half of a step's 24 bits are exact


class GridState(NamedTuple):
    """What training on a grid remembers."""

    latent: Tree  # float32, like the weights
    grids: Tree  # what `find` made of each weight at the start


def keep_on_grid() -> optax.GradientTransformation:
    """Keeps kernels that start as multiples of one step multiples of it, and what else starts as float16 float16; the rest trains freely.

    It stands last in a chain, where updates are what is added to the weights. The sum is exact to the bit, so that a lossless file finds
    the levels again. After `prune.keep_zeros` levels of 0 stay 0.
    """
    others = optax.masked(
        _straight_through(_is_half, _next_half),
        lambda params: jax.tree.map(lambda kernel: not kernel, kernels(params)),
    )
    return optax.chain(optax.masked(_straight_through(_find_step, _next_multiple), kernels), others)


def check_on_grid(params: Tree) -> None:
    """Raises UserError unless a kernel is on a grid."""
    found = (
        find_uniform_scale(np.asarray(leaf))
        for path, leaf in leaves_by_path(params).items()
        if leaves_by_path(kernels(params))[path]
    )
    if not any(levels and max(levels.below, levels.above) <= LIMIT for levels in found):
        raise UserError(
            "train.qat: no kernel is multiples of one step; start from what `squeeze-jax decompress` made of a lossy .sqz file"
        )


def _straight_through(
    find: Callable[[jax.Array], jax.Array],
    project: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
) -> optax.GradientTransformation:
    """Makes the updates those of the latent weights' projections.

    Args:
      find: weights at the start -> their grid; 0 or False: none.
      project: (latent weights, weights now, grid) -> weights next.
    """

    def init(params):
        return GridState(params, jax.tree.map(find, params))

    def update(updates, state, params=None):
        latent = jax.tree.map(jnp.add, state.latent, updates)

        def moved(update, latent, weights, grid):
            return jnp.where(grid > 0, project(latent, weights, grid) - weights, update)

        return jax.tree.map(moved, updates, latent, params, state.grids), GridState(
            latent, state.grids
        )

    return optax.GradientTransformation(init, update)


def _find_step(weights: jax.Array) -> jax.Array:
    """The step of a kernel's grid, float32 []; 0: it is on none."""
    step = find_step(weights, jnp)
    return jnp.where(jnp.max(jnp.abs(weights)) <= LIMIT * step, step, 0)


def _next_multiple(latent: jax.Array, weights: jax.Array, step: jax.Array) -> jax.Array:
    """The multiples nearest to the latent weights, each at most one step away from where it is.

    Neighbours differ by no more than a factor of 2, or one of them is 0: their difference is exact in float32 (Sterbenz's lemma), and so
    is what adding it to the one makes of it. Weights that are to move further do so over some updates.
    """
    level, aim = jnp.round(weights / step), jnp.clip(jnp.round(latent / step), -LIMIT, LIMIT)
    level += jnp.clip(aim - level, -1, 1)
    # In two exact products, since a compiler may fuse one product with the difference to come, and then rounds otherwise.
    high = lax.reduce_precision(step, exponent_bits=8, mantissa_bits=11)
    return level * high + level * (step - high)


def _is_half(weights: jax.Array) -> jax.Array:
    return jnp.all(_half(weights) == weights)


def _next_half(latent: jax.Array, weights: jax.Array, grid: Any) -> jax.Array:
    return _half(latent)


def _half(x: jax.Array) -> jax.Array:
    """The nearest float16, as float32: a compiler may leave out a conversion there and back."""
    tiny = jnp.round(x * 2.0**24) * 2.0**-24  # subnormal in float16, and a multiple of the smallest
    return jnp.where(
        jnp.abs(x) < 2.0**-14, tiny, lax.reduce_precision(x, exponent_bits=5, mantissa_bits=10)
    )
