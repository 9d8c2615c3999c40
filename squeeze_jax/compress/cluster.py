"""Clusters weights: each kernel's weights take few values, which are trained on (Deep Compression, arXiv 1510.00149, section 3)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from squeeze_jax.compress.prune import kernels
from squeeze_jax.network import Tree, leaves_by_path, replace_leaves

ITERATIONS = 1000  # of k-means at most; the kernels of SqueezeNet need a few hundred


def cluster_weights(params: Tree, bits: int) -> Tree:
    """Weights of which each kernel has at most 2^bits values, zero being one of them: what was pruned stays so.

    Kernels that have no more values already are left as they are; biases and BatchNorm are not shared.
    """
    arrays = leaves_by_path(params)
    shared = {
        path: cluster(np.asarray(arrays[path]), 2**bits - 1)
        for path, kernel in leaves_by_path(kernels(params)).items()
        if kernel
    }
    return replace_leaves(params, arrays | shared)


def cluster(weights: np.ndarray, values: int) -> np.ndarray:
    """The weights with each but the zeros replaced by the mean of its cluster, of `values` clusters at most.

    One-dimensional k-means from centroids spread evenly between the smallest and the largest weight (section 3.2). A cluster is a
    stretch of the sorted weights, so prefix sums give all means at once.

    Args:
      weights: float32 [...].
      values: clusters.
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
        # A centroid without weights stays where it is: still in order, and free to take some later.
        centroids = np.where(count, np.diff(sums[edges]) / np.maximum(count, 1), centroids)
    found = centroids[np.searchsorted(borders, weights, side="right")].astype(np.float32)
    return np.where(
        weights == 0, np.float32(0), found + np.float32(0)
    )  # + 0: no file's codebook holds -0.0


def tie_gradients() -> optax.GradientTransformation:
    """Keeps those weights of a kernel equal that are equal at the start, and the zeros zero.

    A weight's gradient becomes the sum over all weights of its value, which is the gradient of that shared value (section 3.3). It
    stands first in a chain: clipping and momentum then see the same for all of them. A kernel of zeros alone is left to be trained.
    """

    def init(params):
        return jax.tree.map(_groups, params)

    def update(updates, state, params=None):
        return jax.tree.map(_group_sums, updates, state), state

    return optax.masked(optax.GradientTransformation(init, update), kernels)


def _groups(weights: jax.Array) -> jax.Array:
    """The number of each weight's value among all values, int32 [...]; the zeros' is the array's size, which is no group's."""
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


def _group_sums(gradient: jax.Array, groups: jax.Array) -> jax.Array:
    """For each weight the sum of its group's gradients, 0 for the zeros."""
    sums = jnp.zeros(gradient.size, gradient.dtype).at[groups].add(gradient, mode="drop")
    return sums.at[groups].get(mode="fill", fill_value=0)
