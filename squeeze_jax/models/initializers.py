"""Initialisers that draw with NumPy: the same seed gives the same weights on every platform, and nothing is compiled.

A small trial would otherwise spend longer compiling `jax.random` for each of its shapes than training. Signature and use are
those of `jax.nn.initializers`: `init(key, shape, dtype)`; they also trace (under `nnx.eval_shape` nothing is drawn).
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

Initializer = Callable[..., jax.Array]


def _drawn(draw: Callable[[np.random.Generator, Sequence[int]], np.ndarray]) -> Initializer:
    def init(key: jax.Array, shape: Sequence[int], dtype=jnp.float32) -> jax.Array:
        def callback(key_data):
            generator = np.random.Generator(
                np.random.Philox(key=np.asarray(key_data).astype(np.uint64))
            )
            return draw(generator, shape).astype(dtype)

        key_data = jax.random.key_data(key)
        if isinstance(key_data, jax.core.Tracer):
            return jax.pure_callback(callback, jax.ShapeDtypeStruct(shape, dtype), key_data)
        return callback(key_data)

    return init


def gaussian(std: float) -> Initializer:
    """Normal of mean 0 and standard deviation `std`."""
    return _drawn(lambda generator, shape: std * generator.standard_normal(shape))


def fan_in(variance: float, distribution: Literal["gaussian", "uniform"]) -> Initializer:
    """Variance `variance / fan_in`, where fan_in is the product of all axes but the last (kh * kw * Cin / groups)."""

    def draw(generator: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
        std = math.sqrt(variance / math.prod(shape[:-1]))
        return std * (
            generator.standard_normal(shape)
            if distribution == "gaussian"
            else generator.uniform(-(3**0.5), 3**0.5, shape)
        )

    return _drawn(draw)
