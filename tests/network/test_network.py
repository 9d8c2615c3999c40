"""A net as a value: what it predicts does not depend on how a batch is worked on."""

import jax
import numpy as np
import pytest

from squeeze_jax.errors import UserError
from squeeze_jax.models import conv_backend
from squeeze_jax.network import (
    ModelConfig,
    Network,
    build_model,
    forward,
    imagenet,
    network,
    num_microbatches,
    predict,
    split_model,
)


@pytest.mark.slow
def test_a_batch_in_parts_has_the_logits_of_the_whole():
    graphdef, params, stats = split_model(
        build_model({"name": "squeezenet_v1_1", "batch_norm": True}, 10)
    )
    images = jax.numpy.asarray(
        np.random.default_rng(0).standard_normal((30, 160, 160, 3), np.float32)
    )
    with conv_backend.conv_backend("matmul"):
        parts, whole = (
            jax.jit(run, static_argnums=0)(graphdef, params, stats, images)
            for run in (lambda *net: predict(*net), lambda *net: forward(*net)[0])
        )
        # fire2's 3x3 filters have the largest patches. 16 MiB, which is more than the weights take,
        # hold those of 19 images; 4 MiB hold those of four.
        seen = 39 * 39 * 3 * 3 * 16 * 4
        assert (16 * 2**20 // seen, 4 * 2**20 // seen) == (19, 4) and sum(
            leaf.nbytes for leaf in jax.tree.leaves(params)
        ) < 4 * 2**20
        assert num_microbatches(graphdef, params, stats, images, train=False) == 2
        assert num_microbatches(graphdef, params, stats, images, train=True) == 10
    np.testing.assert_allclose(parts, whole, rtol=1e-4, atol=1e-4 * float(np.abs(whole).max()))


@pytest.mark.slow
def test_weights_compiled_into_a_net_or_handed_to_it_give_the_same_logits(monkeypatch):
    model = {"name": "squeezenet_v1_1", "batch_norm": True}
    _, params, stats = split_model(build_model(model, 10))
    images = np.random.default_rng(0).standard_normal((2, 67, 67, 3), np.float32)
    logits = []
    for limit in (network.CONSTANT_BYTES, 0):
        monkeypatch.setattr(network, "CONSTANT_BYTES", limit)
        logits.append(
            Network(model, tuple("abcdefghij"), imagenet.CAFFE, params, stats)
            .classifier()
            .run(images)
        )
    np.testing.assert_allclose(*logits, rtol=0, atol=1e-5 * np.abs(logits[0]).max())


def test_a_model_config_and_its_mapping():
    mapping = {"name": "squeezenet_v1_1", "freq": 2, "bypass": None}
    config = ModelConfig.from_mapping(mapping)
    assert config == ModelConfig("squeezenet_v1_1", {"freq": 2})
    assert ModelConfig.from_mapping(config.to_mapping()) == config
    with pytest.raises(UserError, match="model.name"):
        ModelConfig.from_mapping({"freq": 2})
