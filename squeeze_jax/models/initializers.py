"""Initialisers that draw with NumPy: a seed gives the same weights on every platform.

Nothing is compiled: a small trial would spend longer compiling `jax.random` for each of its
shapes than training.

An initialiser is called as those of `jax.nn.initializers`: `init(key, shape, dtype)`.
It can be traced; `nnx.eval_shape` draws nothing.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

Initializer = Callable[..., jax.Array | np.ndarray]


def from_numpy(
    draw: Callable[[np.random.Generator, Sequence[int]], np.ndarray],
) -> Initializer:
    """Returns the initialiser whose weights `draw(generator, shape)` draws."""

    def init(key: jax.Array, shape: Sequence[int], dtype=jnp.float32) -> jax.Array | np.ndarray:
        def callback(key_data) -> np.ndarray:
            philox = np.random.Philox(key=np.asarray(key_data)[:2].astype(np.uint64))
            return draw(np.random.Generator(philox), shape).astype(dtype)

        key_data = jax.random.key_data(key)
        if isinstance(key_data, Tracer):
            return jax.pure_callback(callback, jax.ShapeDtypeStruct(shape, dtype), key_data)
        return callback(key_data)

    return init


def gaussian(std: float) -> Initializer:
    """Returns the initialiser of mean 0 and standard deviation `std`."""
    return from_numpy(lambda generator, shape: std * generator.standard_normal(shape))


def fan_in(variance: float, distribution: Literal["gaussian", "uniform"]) -> Initializer:
    """Returns the initialiser of mean 0 and variance `variance / fan_in`.

    fan_in is the product of all axes but the last: kh * kw * Cin / groups.
    """

    def draw(generator: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
        std = math.sqrt(variance / math.prod(shape[:-1]))
        if distribution == "gaussian":
            return std * generator.standard_normal(shape)
        return std * generator.uniform(-(3**0.5), 3**0.5, shape)

    return from_numpy(draw)
