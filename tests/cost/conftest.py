"""The networks of the SqueezeNext paper's Table 3, traced once."""

from functools import cache

import jax
import pytest

from squeeze_jax import models
from squeeze_jax.cost import trace


class OneKey:
    """Stands in for nnx.Rngs, whose counters take a third of the time of tracing a hundred layers.

    Only shapes matter here.
    """

    def params(self):
        return jax.random.key(0)


@pytest.fixture(scope="session")
def network():
    @cache
    def layers(name, input_size):
        return tuple(
            trace.trace_layers(
                lambda: models.create(name, rngs=OneKey()), (input_size, input_size, 3)
            )
        )

    return layers
