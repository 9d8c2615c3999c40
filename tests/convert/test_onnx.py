"""An exported ONNX file computes what the Flax net computes, and is the graph that a person would
have drawn.
"""

import dataclasses
import json
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import squeeze_jax.network as nets
from squeeze_jax.errors import UserError
from squeeze_jax.models import conv_backend, functional, initializers, layers
from squeeze_jax.network import imagenet
from tests.convert import random_networks

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from squeeze_jax.convert.exporters import onnx_graph  # noqa: E402
from squeeze_jax.convert.exporters import onnx_model as exporter  # noqa: E402

TOLERANCE = 1e-4  # of the largest logit


def random_net(name: str, size: int) -> nets.Network:
    """A registered model with random weights, biases and BatchNorm statistics, for images of this
    size.
    """
    return random_networks.random_net(
        {"name": name}, 7, preprocessing=dataclasses.replace(imagenet.CAFFE, image_size=size)
    )


def noise(count: int, size: int) -> np.ndarray:
    """Images [count, size, size, 3]."""
    return np.random.default_rng(1).normal(0, 1, (count, size, size, 3)).astype(np.float32)


def flax_logits(net: nets.Network, images: np.ndarray) -> np.ndarray:
    """The module's, its weights an argument: as constants, AlexNet's would take long to compile."""
    graphdef, params, stats = nets.split_model(net.module())
    with conv_backend.conv_backend("native"):
        return np.asarray(
            jax.jit(lambda *arguments: nets.forward(graphdef, *arguments)[0])(params, stats, images)
        )


def deviation(net: nets.Network, model: "onnx.ModelProto", images: np.ndarray) -> float:
    """Largest deviation of the file from the net, relative to the largest logit."""
    expected, found = (
        flax_logits(net, images),
        exporter.make_runner(model.SerializeToString())(images),
    )
    assert found.shape == expected.shape and found.dtype == np.float32
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def operators(model: "onnx.ModelProto") -> Counter:
    """How many of each."""
    return Counter(node.op_type for node in model.graph.node)


FAMILIES = {
    "squeezenet_v1_0": (
        64,
        dict(Conv=26, Relu=26, MaxPool=3, Concat=8, GlobalAveragePool=1, Flatten=1),
    ),
    "squeezenet_v1_0_released": (
        47,
        dict(Pad=1, Conv=26, Relu=26, MaxPool=3, Concat=8, GlobalAveragePool=1, Flatten=1),
    ),
    "squeezenet_v1_1": (
        50,
        dict(Conv=26, Relu=26, MaxPool=3, Concat=8, GlobalAveragePool=1, Flatten=1),
    ),
    "squeezenet_simple_bypass": (
        64,
        dict(Conv=26, Relu=26, MaxPool=3, Concat=8, GlobalAveragePool=1, Flatten=1, Add=4),
    ),
    "squeezenet_complex_bypass": (
        64,
        dict(Conv=30, Relu=26, MaxPool=3, Concat=8, GlobalAveragePool=1, Flatten=1, Add=8),
    ),
    "squeezenext_23": (
        64,
        dict(Conv=111, Relu=132, MaxPool=1, GlobalAveragePool=1, Flatten=1, Gemm=1, Add=21),
    ),
    "squeezenext_23_v5": (
        64,
        dict(Conv=111, Relu=132, MaxPool=1, GlobalAveragePool=1, Flatten=1, Gemm=1, Add=21),
    ),
    "squeezenext_23_g": (
        64,
        dict(Conv=111, Relu=132, MaxPool=1, GlobalAveragePool=1, Flatten=1, Gemm=1, Add=21),
    ),
    "squeezenext_23_ida": (
        64,
        dict(
            Conv=114,
            Relu=135,
            MaxPool=1,
            GlobalAveragePool=1,
            Flatten=1,
            Gemm=1,
            Add=21,
            Slice=3,
            Concat=3,
        ),
    ),
    "alexnet": (227, dict(Conv=5, Relu=7, MaxPool=3, LRN=2, Flatten=1, Gemm=3)),
    "alexnet_torchvision": (224, dict(Conv=5, Relu=7, MaxPool=3, Flatten=1, Gemm=3)),
    "mobilenet_v1": (64, dict(Conv=27, Relu=27, GlobalAveragePool=1, Flatten=1, Gemm=1)),
    "tiny_darknet": (64, dict(Conv=16, LeakyRelu=15, MaxPool=4, GlobalAveragePool=1, Flatten=1)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(name):
    """The same logits at batch 1 and 3, by the operators one expects.

    A bias in its convolution, nothing transposed.
    """
    size, expected = FAMILIES[name]
    net = random_net(name, size)
    model = exporter.to_onnx(net)
    assert operators(model) == expected
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    expected, run = (
        flax_logits(net, noise(3, size)),
        exporter.make_runner(model.SerializeToString()),
    )
    for found, rows in ((run(noise(3, size)), slice(3)), (run(noise(3, size)[:1]), slice(1))):
        assert np.abs(found - expected[rows]).max() <= TOLERANCE * np.abs(expected).max()


def test_vgg_is_traced():
    """It is too large to run here: its graph only, without weights."""
    graphdef, params, _ = nets.split_model(
        nnx.eval_shape(lambda: nets.build_model({"name": "vgg16"}, 7))
    )
    params = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), params)
    values = onnx_graph.trace(
        lambda params, images: nets.forward(graphdef, params, {}, images)[0], params, (224, 224, 3)
    )
    assert Counter(value.op for value in values) == dict(
        Input=1, Conv=13, Relu=15, MaxPool=5, Flatten=1, Gemm=3
    )


@pytest.fixture(scope="module")
def small() -> nets.Network:
    """SqueezeNet v1.1 on small images whose pools overhang."""
    return random_net("squeezenet_v1_1", 50)


@pytest.mark.parametrize("opset", (13, 17, exporter.OPSETS[-1]))
def test_opsets(small, opset):
    """The oldest, the default and the newest; the IR version is the oldest that knows them."""
    model = exporter.to_onnx(small, opset=opset)
    assert model.opset_import[0].version == opset
    assert opset != 17 or model.ir_version == 8
    assert deviation(small, model, noise(2, 50)) <= TOLERANCE


@pytest.mark.parametrize("opset", (12, exporter.OPSETS[-1] + 1))
def test_other_opsets_are_refused(small, opset):
    """With the range in the message."""
    with pytest.raises(UserError, match="13 to"):
        exporter.to_onnx(small, opset=opset)


def test_fixed_batch(small):
    """The file asks for that many; the runner fills up what is left over."""
    model = exporter.to_onnx(small, batch=2)
    assert [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim] == [
        2,
        3,
        50,
        50,
    ]
    assert deviation(small, model, noise(3, 50)) <= TOLERANCE


def test_names_attributes_and_metadata(small):
    """What a reader of the file sees."""
    model = exporter.to_onnx(small)
    nodes = {node.name: node for node in model.graph.node}
    assert len(nodes) == len(model.graph.node)
    assert list(nodes["fire2/squeeze"].input) == [
        "max_pool1",
        "fire2/squeeze/kernel",
        "fire2/squeeze/bias",
    ]
    assert {
        "conv1",
        "conv1/relu",
        "fire9/expand3x3/relu",
        "fire9/concat",
        "max_pool3",
        "mean_pool",
    } < nodes.keys()
    assert list(model.graph.node[-1].output) == ["logits"]
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    assert shapes["fire2/expand3x3/kernel"] == (64, 16, 3, 3)
    for node in model.graph.node:
        if node.op_type == "Conv":
            assert {a.name for a in node.attribute} == {
                "kernel_shape",
                "strides",
                "pads",
                "dilations",
                "group",
            }
    props = {prop.key: prop.value for prop in model.metadata_props}
    again = nets.Network.from_metadata(json.loads(props["squeeze_jax"]), small.params, small.stats)
    assert again.metadata() == small.metadata()
    assert model.producer_name == "squeeze_jax" and model.producer_version
    assert "BGR" in model.doc_string and "squashed to 256x256" in model.doc_string


@pytest.mark.slow
def test_float16(small):
    """Half the bytes, nearly the same logits, float32 at either end."""
    full, half = exporter.to_onnx(small), exporter.to_onnx(small, dtype="float16")
    assert operators(half) == operators(full) + Counter(Cast=2)
    assert {tensor.data_type for tensor in half.graph.initializer} == {onnx.TensorProto.FLOAT16}
    assert len(half.SerializeToString()) < 0.55 * len(full.SerializeToString())
    assert 0 < deviation(small, half, noise(2, 50)) < 0.01


def test_int8(small):
    """A quarter of the bytes, logits near.

    The float32 model and what it says about itself are kept.
    """
    full = exporter.to_onnx(small)
    before = full.SerializeToString()
    model = exporter.quantize(full, noise(20, 50), small.preprocessing)
    assert full.SerializeToString() == before
    assert len(model.SerializeToString()) < 0.4 * len(before)
    assert model.metadata_props == full.metadata_props and model.doc_string == full.doc_string
    assert model.producer_name == "squeeze_jax"
    assert deviation(small, model, noise(3, 50)) < 0.1
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    assert weights["fire2/expand3x3/kernel_quantized"].data_type == onnx.TensorProto.INT8
    assert weights["fire2/expand3x3/kernel_scale"].dims == [64]


def test_int8_keeps_the_biases_of_channels_without_weights(small):
    net, logits = random_networks.with_dead_channels(small)
    images = noise(20, 50)
    model = exporter.quantize(exporter.to_onnx(net), images, net.preprocessing)
    found = exporter.make_runner(model.SerializeToString())(images[:3])
    # A step of 8 bits.
    np.testing.assert_allclose(found[:, :2], np.tile(logits, (3, 1)), atol=found.max() / 250)


def run_module(module: nnx.Module, images: np.ndarray) -> np.ndarray:
    """A module's ONNX graph, made and run."""
    graphdef, params, stats = nets.split_model(module)

    def forward(params, images):
        return nets.forward(graphdef, params, stats, images)[0]

    graph = onnx_graph.make_graph(onnx_graph.trace(forward, params, images.shape[1:]), None)
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8
    )
    onnx.checker.check_model(model, full_check=True)
    return exporter.make_runner(model.SerializeToString())(images)


class Own(nnx.Module):
    """What no registered net has.

    Dense layers on positions, a gate, sigmoids, padding, arithmetic on a flattened map.
    """

    def __init__(self, rngs: nnx.Rngs):
        options = dict(kernel_init=initializers.fan_in(2.0, "gaussian"), rngs=rngs)
        self.conv = layers.Conv(3, 6, 3, padding=1, stride=2, batch_norm=True, **options)
        self.mix = layers.Dense(6, 4, bias=True, **options)
        self.gate = layers.Dense(4, 4, **options)
        self.classifier = layers.Dense(6 * 6 * 4, 5, bias=True, **options)

    def __call__(self, x, *, train=False, key=None):
        x = jax.nn.silu(self.conv(x))
        n, h, w, c = x.shape
        x = jax.nn.relu6(x @ self.mix.kernel[...] + self.mix.bias[...].reshape(1, 1, 1, -1))
        x = x * jax.nn.sigmoid(self.gate(functional.global_average_pool(x))).reshape(-1, 1, 1, 4)
        x = functional.flatten(jnp.pad(x, ((0, 0), (1, 1), (0, 2), (0, 0))), (6, 6))
        x = (x - jnp.linspace(0, 1, x.shape[1]).reshape(1, -1)) / 2
        return self.classifier(jnp.tanh(x) ** 2)


@pytest.mark.slow
def test_a_module_of_ones_own():
    """Not only the registry's."""
    module, images = Own(nnx.Rngs(0)), noise(2, 8)
    with conv_backend.conv_backend("native"):
        expected = np.asarray(module(images))
    np.testing.assert_allclose(run_module(module, images), expected, rtol=1e-4, atol=1e-5)


class Sorting(nnx.Module):
    """Computes something that ONNX export does not know."""

    def __call__(self, x, *, train=False, key=None):
        return jnp.sort(functional.global_average_pool(x), axis=-1)


class Map(nnx.Module):
    """Makes no logits."""

    def __call__(self, x, *, train=False, key=None):
        return x * 2


@pytest.mark.parametrize("module, message", [(Sorting, "sort"), (Map, r"logits \[N, classes\]")])
def test_what_cannot_be_exported_is_said(module, message):
    """By the primitive's name."""
    with pytest.raises(UserError, match=message):
        run_module(module(), noise(1, 8))
