"""Random keys of the images of a batch."""

import jax


def fold_in_each(key: jax.Array, numbers: jax.Array) -> jax.Array:
    """Returns a key for each of `numbers`, int32 [N]: `key` with the number folded in, [N]."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)
