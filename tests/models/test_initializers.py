"""Moments of the draws against the formulas, and the promises of the module's docstring."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from squeeze_jax import models
from squeeze_jax.models import initializers

SHAPE = (3, 3, 64, 96)


@pytest.mark.parametrize(
    ("init", "std", "bound"),
    [
        (initializers.fan_in(1.0, "uniform"), (1 / 576) ** 0.5, (3 / 576) ** 0.5),  # Caffe's xavier
        (
            initializers.fan_in(2.0, "uniform"),
            (2 / 576) ** 0.5,
            (6 / 576) ** 0.5,
        ),  # torchvision's kaiming_uniform
        (initializers.fan_in(2.0, "gaussian"), (2 / 576) ** 0.5, None),
        (initializers.gaussian(0.01), 0.01, None),
    ],
)
def test_moments(init, std, bound):
    draw = np.asarray(init(jax.random.key(0), SHAPE, jnp.float32))
    assert draw.dtype == np.float32
    assert abs(draw.mean()) < 4 * std / draw.size**0.5
    assert abs(draw.std() / std - 1) < 0.02
    if bound:
        assert 0.99 * bound < np.abs(draw).max() <= bound
    else:
        assert np.abs(draw).max() > 3.5 * std


def test_the_same_numbers_traced_and_not():
    init = initializers.fan_in(2.0, "gaussian")
    np.testing.assert_array_equal(
        init(jax.random.key(3), SHAPE), jax.jit(lambda key: init(key, SHAPE))(jax.random.key(3))
    )


def test_seeds_and_layers_differ():
    one, same, other = (models.create("squeezenet_v1_1", rngs=nnx.Rngs(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.conv1.kernel[...], same.conv1.kernel[...])
    assert not np.array_equal(one.conv1.kernel[...], other.conv1.kernel[...])
    assert not np.array_equal(one.fire2.expand3x3.kernel[...], one.fire3.expand3x3.kernel[...])


def test_eval_shape_draws_nothing():
    def explode(generator, shape):
        raise AssertionError("drawn")

    shapes = jax.eval_shape(lambda: initializers.from_numpy(explode)(jax.random.key(0), SHAPE))
    assert shapes.shape == SHAPE
