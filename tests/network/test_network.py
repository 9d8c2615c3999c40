"""A net as a value: what it predicts does not depend on how a batch is worked on."""

import dataclasses

import jax
import numpy as np
import pytest

from squeeze_jax.errors import UserError
from squeeze_jax.models import conv_backend
from squeeze_jax.network import (
    Classifier,
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


def described(**changes):
    """Metadata of a network of three classes, without weights."""
    net = Network({"name": "squeezenet_v1_1"}, tuple("abc"), imagenet.CAFFE, {}, {})
    metadata = net.metadata()
    return metadata | {"data": metadata["data"] | changes}


@pytest.mark.parametrize(
    ("model", "preprocessing"),
    [
        ({"freq": 5000}, {}),
        ({"squeeze_ratio": 65.0}, {}),
        ({}, {"resize": 5000}),
        ({}, {"resize": 5000, "image_size": 5000}),
    ],
)
def test_what_no_reader_would_take_is_not_written(model, preprocessing):
    model = {"name": "squeezenet_v1_1", **model}
    kept = dataclasses.replace(imagenet.CAFFE, **preprocessing)
    with pytest.raises(UserError, match="no file can hold this network: its "):
        Network(model, tuple("abc"), kept, {}, {}).stored_metadata()


@pytest.mark.parametrize(
    "changes",
    [
        {"channel_order": "lab"},
        {"image_size": [1, 2, 3]},
        {"mean": ["x"] * 3},
        {"resize": 60_000},
        {"std": [0.0] * 3},
        {"background": None},
    ],
)
def test_an_exported_file_of_wrong_metadata_is_refused(changes):
    with pytest.raises(UserError, match="this is not the metadata of a network"):
        Classifier.from_metadata(described(**changes), lambda images: images)


def test_outputs_are_as_many_as_class_names():
    classifier = Classifier.from_metadata(described(), lambda images: np.zeros((len(images), 4)))
    with pytest.raises(UserError, match=r"outputs of shape \[4\] for 3 class names"):
        classifier.run(np.zeros((2, 227, 227, 3), np.float32))
