"""The C engine: its integers are the reference's, bit for bit, and near those of other engines."""

import io
import json
import subprocess
import zipfile
from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import nnx

from squeeze_jax.compress.sqz.quantized_tensor import find_codebook
from squeeze_jax.convert import export_network, verify
from squeeze_jax.convert.activation_ranges import Range
from squeeze_jax.convert.c_engine import fixed_point, host, integer_net, project, reference
from squeeze_jax.convert.options import complete_options
from squeeze_jax.cost.engine import make_plan, trace
from squeeze_jax.errors import UserError
from squeeze_jax.models import functional, layers
from squeeze_jax.network import Network, imagenet, leaves_by_path, split_model
from squeeze_jax.network.preprocessing import in_grey
from tests.convert.random_networks import random_net

needs_compiler = pytest.mark.skipif(host.find_compiler() is None, reason="there is no C compiler")
SANITIZERS = ("-O1", "-g", "-fsanitize=undefined", "-fno-sanitize-recover=all")


def small_net(name, size=32, **options):
    preprocessing = replace(imagenet.TORCH, image_size=size)
    return random_net(
        {"name": name, **options},
        num_classes=10,
        preprocessing=in_grey(preprocessing) if "in_channels" in options else preprocessing,
    )


def some_images(net, count, seed=1):
    shape = (count, *net.input_shape)
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def check_same_bits(network, net, images, coded):
    """The C code, compiled with a sanitizer, gives what the reference gives."""
    plan, levels = make_plan(net.graph, coded), net.input_scale.quantize(images)
    library = host.Library(project.write(network, net, plan, levels[:1]), SANITIZERS)
    for image in levels:
        expected = reference.run(net, image)
        np.testing.assert_array_equal(library.run(image), expected)
        assert len(np.unique(expected)) > 1  # not all clipped


@pytest.mark.parametrize("bits", [3, 8])
def test_a_channel_that_batch_norm_scales_by_0_has_no_weights(bits):
    """Also where its kernel lies on a grid, whose levels the engine keeps (`_find_levels`)."""
    network = small_net("squeezenet_v1_1", num_fire=1, pool_after=("conv1",), batch_norm=True)
    conv1 = network.params["conv1"]
    step = np.abs(conv1["kernel"]).max() / 2 ** (bits - 1)
    conv1["kernel"] = np.float32(np.round(conv1["kernel"] / step) * step)
    conv1["bn"]["scale"][:3] = 0
    net = integer_net.quantize(network, some_images(network, 2))
    weights = net.convolutions["conv1/kernel"].weights
    assert not weights[:3].any() and weights[3:].any(axis=(1, 2, 3)).all()


def test_a_codebook_of_many_values_is_no_grid():
    """As of half-precision weights: a channel of small ones has a step of its own."""
    values = np.random.default_rng(0).integers(-300, 301, (128, 80))
    weights = np.float32(values / 1024 * np.where(np.arange(80) % 2, 0.25, 1))
    assert find_codebook(weights) is not None
    levels, steps = integer_net._find_levels(weights, weights.astype(np.float64))
    assert (np.abs(levels).max(axis=0) == integer_net.LARGEST).all()
    assert steps == pytest.approx(np.abs(weights).max(axis=0) / integer_net.LARGEST)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("coded", [False, True], ids=["plain", "coded"])
@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("squeezenet_v1_0", 35, {"num_fire": 3, "pct3x3": 0.3, "pool_after": ["conv1", "fire3"]}),
        ("squeezenet_v1_1", 33, {"batch_norm": True, "num_fire": 4, "conv10_pad": 1}),
        (
            "squeezenet_complex_bypass",
            32,
            {"num_fire": 4, "base_e": 18, "incr_e": 12, "pool_after": ["fire2", "fire5"]},
        ),
        ("squeezenet_simple_bypass", 32, {"num_fire": 5, "pool_after": ["conv1", "fire3"]}),
        ("squeezenext_23", 32, {"blocks": (1, 2, 1, 1)}),
        ("squeezenext_23_ida", 32, {"blocks": (1, 1, 1, 1), "groups": 2}),
        ("mobilenet_v1", 32, {"width": 0.1}),
        ("squeezenet_v1_0", (28, 41), {"num_fire": 3, "pool_after": ["conv1", "fire3"]}),
        ("squeezenet_v1_1", (46, 33), {"num_fire": 4, "in_channels": 1}),
        ("squeezenext_23", (39, 64), {"blocks": (1, 1, 1, 1), "in_channels": 1}),
        ("mobilenet_v1", (40, 33), {"width": 0.1, "in_channels": 1}),
    ],
)
def test_c_computes_what_the_reference_computes(name, size, options, coded):
    network = small_net(name, size, **options)
    images = some_images(network, 2)
    check_same_bits(network, integer_net.quantize(network, images), images, coded)


class Toy(nnx.Module):
    """Sums, pools and means that no convolution can take along, and a dense layer of an image."""

    def __init__(self, rngs):
        init = nnx.initializers.normal(0.3)
        conv = lambda *args, **more: layers.Conv(*args, kernel_init=init, rngs=rngs, **more)  # noqa: E731
        self.first, self.second = conv(3, 6, (3, 5), stride=2, padding=(2, 1)), conv(6, 6, 1)
        self.third = conv(6, 9, 3, stride=3, groups=3, padding=1)
        self.dense = layers.Dense(2 * 2 * 9, 7, bias=True, kernel_init=init, rngs=rngs)

    def __call__(self, x):
        a = jax.nn.relu(self.first(x))
        b = self.second(a)
        a = functional.max_pool(a + b, 2, 3) + functional.max_pool(b, 2, 3)
        return self.dense(functional.flatten(self.third(a), (2, 2)))


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("coded", [False, True], ids=["plain", "coded"])
def test_c_computes_operators_that_stand_alone(coded):
    graphdef, params, _ = split_model(Toy(nnx.Rngs(0)))
    leaves = {path: np.asarray(leaf) for path, leaf in leaves_by_path(params).items()}
    images = np.random.default_rng(0).normal(0, 1, (3, 26, 28, 3)).astype(np.float32)
    graph = trace(graphdef, params, images.shape[1:])
    assert {operator.kind for operator in graph.operators} == {"input", "conv", "add", "max_pool"}
    net = integer_net.quantize_graph(graph, leaves, leaves, images, Range(-4, 4))
    network = Network({"name": "toy"}, tuple("abcdefg"), imagenet.TORCH, {}, {})
    check_same_bits(network, net, images, coded)
    expected = nnx.merge(graphdef, params)(images)
    found = net.output_scale.values(
        np.stack([reference.run(net, image) for image in net.input_scale.quantize(images)])
    )
    assert np.abs(found - expected).max() < 0.03 * np.abs(expected).max()


def test_products_round_as_tensorflow_lite_rounds():
    """Against the definition in exact numbers: to the nearest, twice."""
    random = np.random.default_rng(0)
    for real in (0.5, 0.000123, 0.75, 1.7, 3e-5):
        factor = fixed_point.to_factor(real)
        values = random.integers(-(2**24), 2**24, 1000)
        found = fixed_point.multiply(values, factor)
        assert np.abs(found - values * real).max() <= 1
    half = fixed_point.to_factor(0.25)
    np.testing.assert_array_equal(
        fixed_point.multiply(np.array([-6, -2, 2, 6, 3, -3]), half), [-2, -1, 1, 2, 1, -1]
    )
    assert fixed_point.to_factor(2.0**-40).multiplier == 0


@pytest.mark.slow
def test_agrees_with_onnxruntime():
    """The logits of the integers lie as near the float net's as those of the int8 ONNX file."""
    onnx_model = pytest.importorskip("squeeze_jax.convert.exporters.onnx_model")
    network = small_net("squeezenet_v1_1", 64, num_fire=4)
    images = some_images(network, 8)
    expected = verify.logits(network, images)
    quantized = onnx_model.quantize(onnx_model.to_onnx(network), images, network.preprocessing)
    other = onnx_model.make_runner(quantized.SerializeToString())(images)
    net = integer_net.quantize(network, images)
    levels = [reference.run(net, image) for image in net.input_scale.quantize(images)]
    found = net.output_scale.values(np.stack(levels))
    step = net.output_scale.step
    assert np.abs(found - expected).mean() < np.abs(other - expected).mean() + 2 * step
    assert np.abs(found - other).max() < 0.1 * np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "model"),
    [
        ("squeezenet_complex_bypass", 32, {"num_fire": 4, "pool_after": ["fire2", "fire5"]}),
        ("squeezenext_23", 64, {"blocks": (1, 1, 1, 1)}),
    ],
)
def test_agrees_with_tflite_micro(name, size, model):
    """The .tflite file has the same scales; its logits lie a level away, seldom two."""
    pytest.importorskip("litert_converter")
    runtime = pytest.importorskip("tflite_micro.python.tflite_micro.runtime")
    from squeeze_jax.convert.exporters import tflite

    network = small_net(name, size, **model)
    images = some_images(network, 6)
    options = complete_options("tflite", tflite.OPTIONS, {"precision": "int8"})
    content = tflite.write(network, {**options, "calibration": images})
    interpreter = runtime.Interpreter.from_bytes(content, arena_size=1 << 22)
    net = integer_net.quantize(network, images)
    apart = []
    for image in net.input_scale.quantize(images):
        interpreter.set_input(image[None], 0)
        interpreter.invoke()
        other = interpreter.get_output(0)[0].astype(int)
        apart.append(np.abs(other - reference.run(net, image)))
    assert np.max(apart) <= 2 and np.mean(np.array(apart) > 1) < 0.05


@pytest.mark.slow
@needs_compiler
def test_export_writes_a_project_that_its_makefile_tests(tmp_path):
    network = small_net("squeezenet_v1_1", 32, num_fire=2, pool_after=["conv1"])
    images = some_images(network, 3)
    content, deviation = export_network(network, "c", {"calibration": images}, images)
    assert deviation < 0.1
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        archive.extractall(tmp_path)
    done = subprocess.run(["make", "-s", "test"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["output", "output", "arena", "wrong"]
    assert lines[-1] == "wrong outputs 0"
    engine = json.loads((tmp_path / "net.json").read_text())["engine"]
    assert engine["ram_bytes"] == int(lines[2].split()[1]) + 10
    header = (tmp_path / "images.h").read_text()
    (tmp_path / "images.h").write_text(header[: header.rindex("{")] + "{0}\n};\n#endif\n")
    assert subprocess.run(["make", "-s", "test"], cwd=tmp_path, capture_output=True).returncode


def test_int8_needs_images():
    network = small_net("squeezenet_v1_1")
    with pytest.raises(UserError, match="give --data NAME"):
        export_network(network, "c", {}, some_images(network, 1))
