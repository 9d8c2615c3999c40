"""Clusters weights: each kernel takes few distinct values, its centroids, which are trained.

Implements section 3 of Deep Compression (arXiv 1510.00149).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from squeeze_jax.compress.prune import kernels
from squeeze_jax.network import Tree, leaves_by_path, replace_leaves

ITERATIONS = 1000  # most iterations of k-means; SqueezeNet's kernels need a few hundred


def cluster_weights(params: Tree, bits: int) -> Tree:
    """Returns parameters with at most 2^bits distinct values in each kernel.

    One of the values is zero, so that pruned weights stay pruned. Kernels that have no more values
    already, biases and BatchNorm are unchanged.
    """
    arrays = leaves_by_path(params)
    clustered = {
        path: cluster(np.asarray(arrays[path]), 2**bits - 1)
        for path, kernel in leaves_by_path(kernels(params)).items()
        if kernel
    }
    return replace_leaves(params, arrays | clustered)


def cluster(weights: np.ndarray, values: int) -> np.ndarray:
    """Replaces each non-zero weight by the centroid of its cluster.

    Runs one-dimensional k-means from centroids spaced evenly between the smallest and the largest
    weight (section 3.2). A cluster is a range of the sorted weights, so that prefix sums give all
    means at once.

    Args:
      weights: float32 [...].
      values: largest number of clusters.
    """
    ordered = np.sort(weights[weights != 0]).astype(np.float64)
    if np.count_nonzero(np.diff(ordered)) < values:
        return weights
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    centroids = np.linspace(ordered[0], ordered[-1], values)
    edges = None
    borders = (centroids[1:] + centroids[:-1]) / 2
    for _ in range(ITERATIONS):
        before, borders = edges, (centroids[1:] + centroids[:-1]) / 2
        edges = np.concatenate([[0], np.searchsorted(ordered, borders), [len(ordered)]])
        if before is not None and (edges == before).all():
            break
        count = np.diff(edges)
        # An empty cluster keeps its centroid: the order holds, and it may receive weights later.
        centroids = np.where(count, np.diff(sums[edges]) / np.maximum(count, 1), centroids)
    found = centroids[np.searchsorted(borders, weights, side="right")].astype(np.float32)
    # Adding 0 turns -0.0, which no file's codebook holds, into 0.0.
    return np.where(weights == 0, np.float32(0), found + np.float32(0))


def tie_gradients() -> optax.GradientTransformation:
    """Keeps equal weights of a kernel equal, and its zeros zero.

    A weight's gradient becomes the sum over all weights of its cluster, which is the gradient of
    the cluster's centroid (section 3.3). Put this transformation first in a chain, so that clipping
    and momentum treat all weights of a cluster alike. A kernel of only zeros trains freely.
    """
    return _by_groups(_sum_groups)


def tie_updates() -> optax.GradientTransformation:
    """Makes a weight's update the mean over all weights of its cluster; zeros stay zero.

    Put this transformation after an optimizer that does not move equal weights alike even if their
    gradients are equal.
    """
    return _by_groups(_average_groups)


def _by_groups(
    combine: Callable[[jax.Array, jax.Array], jax.Array],
) -> optax.GradientTransformation:
    """Combines the updates of each kernel's clusters, which are those of the initial weights."""

    def init(params):
        return jax.tree.map(_rank_values, params)

    def update(updates, state, params=None):
        return jax.tree.map(combine, updates, state), state

    return optax.masked(optax.GradientTransformation(init, update), kernels)


def _rank_values(weights: jax.Array) -> jax.Array:
    """Returns the rank of each weight's value among the kernel's distinct values, int32 [...].

    Zeros get the kernel's size, which is out of range. In a kernel of only zeros each weight gets a
    rank of its own.
    """
    flat = weights.reshape(-1)
    order = jnp.argsort(flat)
    ordered = flat[order]
    numbers = (
        jnp.zeros(flat.size, jnp.int32)
        .at[order[1:]]
        .set(jnp.cumsum(ordered[1:] != ordered[:-1], dtype=jnp.int32))
    )
    groups = jnp.where(flat == 0, flat.size, numbers)
    return jnp.where(jnp.any(flat != 0), groups, jnp.arange(flat.size)).reshape(weights.shape)


def _sum_groups(gradient: jax.Array, groups: jax.Array) -> jax.Array:
    """Returns for each weight the sum of its cluster's gradients, and 0 for zeros."""
    sums = jnp.zeros(gradient.size, gradient.dtype).at[groups].add(gradient, mode="drop")
    return sums.at[groups].get(mode="fill", fill_value=0)


def _average_groups(update: jax.Array, groups: jax.Array) -> jax.Array:
    """Returns for each weight the mean of its cluster's updates, and 0 for zeros."""
    sizes = jnp.maximum(1, _sum_groups(jnp.ones_like(update), groups))
    return _sum_groups(update, groups) / sizes
