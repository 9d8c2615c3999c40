"""Pruning by magnitude: the smallest weights of each layer become zero and stay so (Deep Compression, arXiv 1510.00149, section 2)."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from squeeze_jax.errors import UserError
from squeeze_jax.network import (
    Tree,
    check_layer_patterns,
    layer_name,
    leaves_by_path,
    matches_layer,
    replace_leaves,
)

# Pairs of a layer pattern and the fraction of its kernel's weights that stays; the first match counts.
Densities = Sequence[tuple[str, float]]


def kernels(params: Tree) -> Tree:
    """Whether each parameter is a kernel: biases and BatchNorm are neither pruned nor shared."""
    return replace_leaves(
        params, {path: path.endswith("/kernel") for path in leaves_by_path(params)}
    )


def kept_fractions(params: Tree, densities: Densities) -> dict[str, float]:
    """The fraction that stays of each kernel that `densities` speaks of, by path; shapes will do for `params`.

    Raises:
      UserError: not pairs of a pattern and a fraction in (0, 1], a pattern that matches no layer, or none that an earlier one left.
    """
    for pair in densities:
        if not (
            isinstance(pair, tuple | list)
            and len(pair) == 2
            and isinstance(pair[0], str)
            and isinstance(pair[1], int | float)
        ):
            raise UserError(
                f"train.prune_density is pairs such as (('conv10', 0.2), ('fire*', 0.33)); got {pair!r} among them"
            )
        if not 0 < pair[1] <= 1:
            raise UserError(
                f"train.prune_density: a fraction in (0, 1] is kept, of {pair[0]!r} {pair[1]}"
            )
    paths = [path for path, kernel in leaves_by_path(kernels(params)).items() if kernel]
    check_layer_patterns(
        "train.prune_density",
        [pattern for pattern, _ in densities],
        [layer_name(path) for path in paths],
    )
    first = {
        path: next(
            (
                i
                for i, (pattern, _) in enumerate(densities)
                if matches_layer(layer_name(path), [pattern])
            ),
            None,
        )
        for path in paths
    }
    if idle := [pattern for i, (pattern, _) in enumerate(densities) if i not in first.values()]:
        raise UserError(
            f"train.prune_density: the first pattern that matches a layer counts, and earlier ones leave none for {idle[0]!r}"
        )
    return {path: densities[i][1] for path, i in first.items() if i is not None}


def prune(params: Tree, densities: Densities) -> Tree:
    """Weights of which only the largest are left in each kernel, the others being exactly 0.

    Args:
      params: of any net.
      densities: (layer pattern, fraction) pairs; a layer goes by the first pattern that matches it or one that it is part of, and stays as
        it is where none does. The count of weights kept is rounded up, as in Table 1 of the SqueezeNet paper.

    Raises:
      UserError: see `kept_fractions`.
    """
    fractions, arrays = kept_fractions(params, densities), leaves_by_path(params)
    return replace_leaves(
        params,
        arrays
        | {
            path: pruned(np.asarray(arrays[path]), fraction) for path, fraction in fractions.items()
        },
    )


def pruned(weights: np.ndarray, fraction: float) -> np.ndarray:
    """An array of which the `fraction` of largest magnitude is left; of equal ones the earlier."""
    # Rounded before it is rounded up: 0.07 * 100 is a little more than 7.
    dropped = np.argsort(-np.abs(weights), axis=None, kind="stable")[
        math.ceil(round(fraction * weights.size, 6)) :
    ]
    result = weights.copy()
    result.reshape(-1)[dropped] = 0
    return result


def keep_zeros() -> optax.GradientTransformation:
    """Keeps zero those weights of kernels that are zero at the start, so that a pruned net carries its own mask.

    It takes their gradients away, so it stands first in a chain: neither a norm nor momentum then knows of them, and weight decay of 0
    is 0. A kernel of zeros alone is one that starts so, and is left to be trained.
    """

    def init(params):
        return jax.tree.map(lambda w: (w != 0) | ~jnp.any(w != 0), params)

    def update(updates, state, params=None):
        return jax.tree.map(lambda u, mask: jnp.where(mask, u, 0), updates, state), state

    return optax.masked(optax.GradientTransformation(init, update), kernels)
