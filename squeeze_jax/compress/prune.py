"""Prunes by magnitude: the smallest weights of each layer become zero and stay so.

See Deep Compression (arXiv 1510.00149), section 2.
"""

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

# Pairs of a layer pattern and the fraction of its kernel's weights to keep; the first match counts.
Densities = Sequence[tuple[str, float]]


def kernels(params: Tree) -> Tree:
    """Returns whether each parameter is a kernel; others are neither pruned nor clustered."""
    return replace_leaves(
        params, {path: path.endswith("/kernel") for path in leaves_by_path(params)}
    )


def kept_fractions(params: Tree, densities: Densities) -> dict[str, float]:
    """Returns the fraction of weights to keep of each kernel that `densities` matches, by path.

    Args:
      params: of any network; shapes suffice.
      densities: (layer pattern, fraction) pairs.

    Raises:
      UserError: an entry is not a pattern and a fraction in (0, 1], a pattern matches no layer, or
        earlier patterns match all of its layers.
    """
    for pair in densities:
        if not (
            isinstance(pair, tuple | list)
            and len(pair) == 2
            and isinstance(pair[0], str)
            and isinstance(pair[1], int | float)
        ):
            raise UserError(
                "train.prune_density is pairs such as (('conv10', 0.2), ('fire*', 0.33)); "
                f"got {pair!r} among them"
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
            "train.prune_density: the first pattern that matches a layer counts, "
            f"and earlier ones leave none for {idle[0]!r}"
        )
    return {path: densities[i][1] for path, i in first.items() if i is not None}


def prune(params: Tree, densities: Densities) -> Tree:
    """Returns weights with all but the largest of each kernel set to 0.

    Args:
      params: of any network.
      densities: (layer pattern, fraction) pairs. The first pattern that matches a layer, or a
        module that contains it, applies; layers that match none are unchanged. The number of
        weights kept is rounded up, as in Table 1 of the SqueezeNet paper.

    Raises:
      UserError: see `kept_fractions`.
    """
    fractions, arrays = kept_fractions(params, densities), leaves_by_path(params)
    return replace_leaves(
        params,
        arrays
        | {
            path: prune_array(np.asarray(arrays[path]), fraction)
            for path, fraction in fractions.items()
        },
    )


def prune_array(weights: np.ndarray, fraction: float) -> np.ndarray:
    """Returns an array with all but the `fraction` of largest magnitude set to 0.

    Of equal magnitudes the earlier is kept.
    """
    # Round before rounding up: 0.07 * 100 is slightly more than 7.
    dropped = np.argsort(-np.abs(weights), axis=None, kind="stable")[
        math.ceil(round(fraction * weights.size, 6)) :
    ]
    result = weights.copy()
    result.reshape(-1)[dropped] = 0
    return result


def keep_zeros() -> optax.GradientTransformation:
    """Keeps kernel weights zero that are zero at the start, so that pruned weights are the mask.

    This transformation masks gradients and is the first of a chain, so that norms and momentum do
    not see them; weight decay of 0 is 0. A kernel of only zeros trains freely.
    """

    def init(params):
        return jax.tree.map(lambda w: (w != 0) | ~jnp.any(w != 0), params)

    def update(updates, state, params=None):
        return jax.tree.map(lambda u, mask: jnp.where(mask, u, 0), updates, state), state

    return optax.masked(optax.GradientTransformation(init, update), kernels)
