"""The .net format, from an encoder of its own, and the released file where a folder has it."""

import os
from pathlib import Path

import numpy as np
import pytest

from squeeze_jax.convert import import_network, verify
from squeeze_jax.convert.importers import deep_compression
from squeeze_jax.errors import UserError
from squeeze_jax.network import imagenet
from tests.convert import encoders

LAYERS = encoders.squeezenet_layers(sparse=True)
SHAPES = [(weights.shape, biases.shape) for _, weights, biases in LAYERS]


def written(tmp_path, content):
    path = tmp_path / "small.net"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("sparse", [True, False])
def test_reads_what_was_encoded(tmp_path, sparse):
    layers = encoders.squeezenet_layers(sparse=sparse)
    path = written(tmp_path, encoders.deep_compressed([layer[1:] for layer in layers]))
    for (_, weights, biases), (found, found_biases) in zip(
        layers, deep_compression.read_layers(path, SHAPES), strict=True
    ):
        np.testing.assert_array_equal(found, weights)
        np.testing.assert_array_equal(found_biases, biases)


def test_a_layer_without_entries_is_zero(tmp_path):
    path = written(tmp_path, encoders.deep_compressed([(np.zeros((2, 3, 1, 1)), np.ones(2))]))
    ((weights, _),) = deep_compression.read_layers(path, [((2, 3, 1, 1), (2,))])
    assert not weights.any()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda b: b[:-1],
        lambda b: b + b"\0",
        lambda b: b"",
        lambda b: b[:10],
        lambda b: b"\xff" * len(b),
    ],
)
def test_a_length_that_is_not_that_of_the_counts(tmp_path, spoil):
    path = written(tmp_path, spoil(encoders.deep_compressed([layer[1:] for layer in LAYERS])))
    with pytest.raises(UserError, match="bytes are not what"):
        deep_compression.read_layers(path, SHAPES)


def test_an_entry_outside_its_layer(tmp_path):
    content = bytearray(encoders.deep_compressed([(np.ones((1, 3, 1, 1)), np.zeros(1))]))
    content[-1] = 9
    with pytest.raises(UserError, match="layer 1 has 3 weights, but an entry for number 12"):
        deep_compression.read_layers(written(tmp_path, bytes(content)), [((1, 3, 1, 1), (1,))])


@pytest.mark.slow
def test_the_released_file_gives_the_reference_logits():
    folder = os.environ.get("SQUEEZE_JAX_PRETRAINED")
    if not folder or not (Path(folder) / "compressed_SqueezeNet.net").is_file():
        pytest.skip(
            "SQUEEZE_JAX_PRETRAINED is not a folder with compressed_SqueezeNet.net "
            "and reference_logits.npz"
        )
    net = import_network(Path(folder) / "compressed_SqueezeNet.net")
    assert (net.model, net.preprocessing) == ({"name": "squeezenet_v1_0_released"}, imagenet.CAFFE)
    with pytest.raises(UserError, match="logits: give --model squeezenet_v1_0_released$"):
        import_network(Path(folder) / "compressed_SqueezeNet.net", "squeezenet_v1_0")
    with np.load(Path(folder) / "reference_logits.npz") as reference:
        images, expected = reference["inputs_uint8_bgr_chw"], reference["logits"]
    found = verify.logits(
        net,
        images.transpose(0, 2, 3, 1).astype(np.float32)
        - np.array(imagenet.CAFFE.mean, np.float32).reshape(1, 1, 1, 3),
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)
