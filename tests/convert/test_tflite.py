"""LiteRT files: the operators they are made of, and that they compute what Flax does."""

import sys
from collections import Counter
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from squeeze_jax.convert import metadata, verify
from squeeze_jax.convert.exporters import stablehlo, tflite
from squeeze_jax.cost import trace
from squeeze_jax.errors import UserError
from squeeze_jax.network import imagenet
from squeeze_jax.network.preprocessing import in_grey, preprocess
from tests.convert.random_networks import random_net

pytest.importorskip("litert_converter")
pytest.importorskip("ai_edge_litert")


def small_net(name, size=64, **options):
    preprocessing = replace(imagenet.TORCH, image_size=size)
    return random_net(
        {"name": name, **options},
        num_classes=10,
        preprocessing=in_grey(preprocessing) if "in_channels" in options else preprocessing,
    )


def some_images(net, count):
    return np.random.default_rng(1).normal(0, 1, (count, *net.input_shape)).astype(np.float32)


@pytest.fixture(scope="module")
def net():
    return small_net("squeezenet_v1_1")


@pytest.fixture(scope="module")
def model(net):
    return tflite.to_litert(net)


def test_squeezenet_is_its_convolutions_joins_and_pools(model):
    """Nothing is transposed or copied, and every ReLU is part of the convolution before it."""
    assert tflite.operators(model) == Counter(CONV_2D=26, CONCATENATION=8, MAX_POOL_2D=3, MEAN=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("squeezenet_v1_0", 64, {}),
        ("squeezenet_v1_1", 67, {"batch_norm": True}),
        ("squeezenet_complex_bypass", 64, {}),
        (
            "squeezenet_v1_1",
            64,
            {"pct3x3": 1.0, "conv10_relu": False, "conv10_pad": 1, "num_fire": 4},
        ),
        ("squeezenext_23", 64, {}),
        ("squeezenext_23_ida", 64, {"blocks": (1, 1, 1, 1), "groups": 2}),
        ("mobilenet_v1", 64, {}),
        ("tiny_darknet", 64, {}),
        ("squeezenet_v1_0", (71, 40), {"num_fire": 4, "pool_after": ("conv1", "fire4")}),
        ("squeezenet_v1_1", (46, 61), {"in_channels": 1}),
        ("mobilenet_v1", (64, 47), {"in_channels": 1}),
    ],
)
def test_computes_what_flax_computes(name, size, options):
    """With random BatchNorm statistics, and on odd and even sizes, where pools do and don't hang
    over the edge.
    """
    net = small_net(name, size, **options)
    data = tflite.to_litert(net)
    assert verify.check(net, tflite.make_runner(data), some_images(net, 1)) <= 1e-4
    assert not {"TRANSPOSE", "RELU", "CUSTOM"} & set(tflite.operators(data))


@pytest.mark.parametrize("size", [(9, 6), (6, 9), (12, 9)])
def test_a_pool_padded_along_one_axis_pools_along_each(size):
    """The converter would pad both, and give another size."""
    stem = dict(conv1_filters=4, conv1_kernel=1, conv1_stride=1, pool_after=("conv1",))
    net = small_net("squeezenet_v1_1", size, num_fire=0, **stem)
    data = tflite.to_litert(net)
    assert tflite.operators(data) == Counter(CONV_2D=2, MAX_POOL_2D=2, MEAN=1)
    assert verify.check(net, tflite.make_runner(data), some_images(net, 1)) <= 1e-4
    predicted = trace.trace_module(net.module, net.input_shape).operators.operators
    assert Counter(op.name for op in predicted) == tflite.operators(data)


def test_grey_nets_take_rgb_pixels_too():
    """The luma is computed in the file."""
    net = small_net("squeezenet_v1_1", (35, 46), num_fire=0, pool_after=("conv1",), in_channels=1)
    photographs = np.random.default_rng(0).integers(0, 256, (1, 35, 46, 3), np.uint8)
    grey = preprocess(photographs[0], replace(net.preprocessing, resize=(35, 46)))[None]
    run = tflite.make_runner(tflite.to_litert(net, pixels=True))
    np.testing.assert_allclose(
        run(photographs.astype(np.float32)), verify.logits(net, grey), rtol=0.02, atol=0.002
    )


def test_a_relu_stays_where_its_input_is_used_besides(net, monkeypatch):
    """Both what is joined and the join itself; moving the ReLU there would change the sums."""
    kernels = np.random.default_rng(0).normal(0, 1, (3, 1, 1, 3, 8)).astype(np.float32)

    def sums(images):
        a, b, c = (
            lax.conv_general_dilated(
                images, k, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            for k in kernels
        )
        whole, part = jnp.concatenate([a, b], axis=-1), jnp.concatenate([c, images], axis=-1)
        return jax.nn.relu(whole) + whole, jax.nn.relu(
            jnp.concatenate([part, c], axis=-1)
        ) - part.sum()

    def concat(images):
        return jnp.concatenate(sums(images), axis=-1)

    program = jax.export.export(jax.jit(concat))(
        jax.ShapeDtypeStruct((1, *net.input_shape), jnp.float32)
    )
    monkeypatch.setattr(stablehlo, "lower", lambda *_: program)
    data, images = tflite.to_litert(net), some_images(net, 1)
    np.testing.assert_allclose(
        tflite.make_runner(data)(images), concat(images), rtol=1e-3, atol=1e-2
    )
    assert tflite.operators(data)["RELU"] == 2


def test_inputs_and_outputs_have_names(net, model):
    from ai_edge_litert.interpreter import Interpreter

    call = Interpreter(model_content=model).get_signature_runner("serving_default")
    assert {name: tuple(each["shape"]) for name, each in call.get_input_details().items()} == {
        "images": (1, *net.input_shape)
    }
    assert {name: tuple(each["shape"]) for name, each in call.get_output_details().items()} == {
        "logits": (1, 10)
    }


def test_batches_are_filled(net, model):
    """A file for two images at a time takes three, and gives what one image at a time gives."""
    images = some_images(net, 3)
    in_pairs = tflite.make_runner(tflite.to_litert(net, batch=2))(images)
    np.testing.assert_allclose(in_pairs, tflite.make_runner(model)(images), rtol=1e-4, atol=1e-5)


def test_metadata_do_not_disturb_it(tmp_path, net, model):
    from ai_edge_litert.interpreter import Interpreter

    path, images = tmp_path / "net.tflite", some_images(net, 1)
    path.write_bytes(metadata.attach(model, net))
    found = Interpreter(model_path=str(path)).get_signature_runner()(images=images)["logits"]
    np.testing.assert_array_equal(found, tflite.make_runner(model)(images))
    assert tflite.operators(path.read_bytes()) == tflite.operators(model)


def test_another_version_of_the_converter_is_refused(net, monkeypatch):
    monkeypatch.setattr(tflite, "version", lambda name: "0.6.0")
    with pytest.raises(UserError, match=r"need litert-converter 0\.5\.0 .*; 0\.6\.0 is installed"):
        tflite.to_litert(net)


def test_a_converter_that_cannot_be_loaded_is_named(net, monkeypatch):
    monkeypatch.setitem(sys.modules, "litert_converter.mlir.ir", None)
    with pytest.raises(UserError, match="pip install litert-converter==0.5.0"):
        tflite.to_litert(net)


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: b"junk" * 100, lambda data: data[: len(data) // 2]]
)
def test_other_files_are_refused(model, damage):
    with pytest.raises(UserError, match="not a LiteRT export"):
        tflite.make_runner(damage(model))


def test_operators_of_other_files_are_refused():
    with pytest.raises(UserError, match="not a .tflite file"):
        tflite.operators(b"junk" * 100)
