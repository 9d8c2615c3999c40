"""Tests AlexNet, VGG, MobileNet and Tiny Darknet.

The tests cover shapes, Caffe's normalisation and accepted image sizes.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from squeeze_jax import models
from squeeze_jax.models import functional


def test_local_response_norm_is_caffes():
    x = np.random.default_rng(0).standard_normal((1, 2, 2, 9)).astype(np.float32) * 20
    expected = np.empty_like(x)
    for c in range(9):
        window = x[..., max(0, c - 2) : c + 3]
        expected[..., c] = (
            x[..., c] / (1 + 1e-4 / 5 * (window.astype(np.float64) ** 2).sum(-1)) ** 0.75
        )
    np.testing.assert_allclose(functional.local_response_norm(jnp.asarray(x)), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "name", ["alexnet", "alexnet_torchvision", "vgg16", "vgg19", "mobilenet_v1", "tiny_darknet"]
)
def test_logits_have_the_classes(name):
    size = models.find(name)[1].input_size
    model = nnx.eval_shape(lambda: models.create(name, rngs=nnx.Rngs(0), num_classes=7))
    graphdef, state = nnx.split(model)
    logits = jax.eval_shape(
        lambda state, x: nnx.merge(graphdef, state)(x),
        state,
        jax.ShapeDtypeStruct((2, size, size, 3), jnp.bfloat16),
    )
    assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)


def test_dropout_masks_of_the_two_layers_differ():
    keys = jax.random.split(jax.random.key(0), 3)
    six, seven = (jax.random.key_data(functional.fold_in(keys, salt)) for salt in (6, 7))
    assert not np.array_equal(six, seven)
    np.testing.assert_array_equal(jax.random.key_data(functional.fold_in(keys[1], 6)), six[1])


def test_another_image_size_is_named():
    with pytest.raises(ValueError, match="need 6x6 positions, got 5x5"):
        functional.flatten(jnp.zeros((1, 5, 5, 3)), (6, 6))
