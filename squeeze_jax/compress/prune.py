"""Prunes by magnitude: sets the smallest weights of each layer to zero and keeps them there.

Implements section 2 of Deep Compression (arXiv 1510.00149).
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
    is_kernel,
    layer_name,
    leaves_by_path,
    matches_layer,
    replace_leaves,
)

# Pairs of a layer pattern and the fraction of the kernel's weights to keep; the first match counts.
Densities = Sequence[tuple[str, float]]


def kernels(params: Tree) -> Tree:
    """Returns a tree of booleans: whether each parameter is a kernel.

    Other parameters are neither pruned nor clustered.
    """
    return replace_leaves(params, {path: is_kernel(path) for path in leaves_by_path(params)})


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
                "train.prune_density must be pairs such as (('conv10', 0.2), ('fire*', 0.33)), "
                f"not {pair!r}"
            )
        if not 0 < pair[1] <= 1:
            raise UserError(
                f"train.prune_density: the fraction to keep must be in (0, 1], not {pair[1]} "
                f"for {pair[0]!r}"
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
            f"train.prune_density: earlier patterns match all layers of {idle[0]!r}; "
            "put it before them, since the first match counts"
        )
    return {path: densities[i][1] for path, i in first.items() if i is not None}


def prune(params: Tree, densities: Densities) -> Tree:
    """Returns parameters with all but the largest weights of each kernel set to 0.

    Args:
      params: of any network.
      densities: (layer pattern, fraction) pairs. The first pattern that matches a layer, or a
        module that contains it, applies; layers that match none are unchanged. The number of
        weights to keep is rounded up, as in Table 1 of the SqueezeNet paper.

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

    Among equal magnitudes the earlier ones are kept.
    """
    # Rounding first keeps 0.07 * 100, which is slightly above 7, from becoming 8.
    dropped = np.argsort(-np.abs(weights), axis=None, kind="stable")[
        math.ceil(round(fraction * weights.size, 6)) :
    ]
    result = weights.copy()
    result.reshape(-1)[dropped] = 0
    return result


def keep_zeros() -> optax.GradientTransformation:
    """Keeps the kernel weights at zero that start at zero: the pruned weights are the mask.

    Put this transformation first in a chain, so that the masked gradients count in neither norms
    nor momentum. Weight decay does not move zeros. A kernel of only zeros trains freely.
    """

    def init(params):
        return jax.tree.map(lambda w: (w != 0) | ~jnp.any(w != 0), params)

    def update(updates, state, params=None):
        return jax.tree.map(lambda u, mask: jnp.where(mask, u, 0), updates, state), state

    return optax.masked(optax.GradientTransformation(init, update), kernels)
