"""LiteRT files in integers and float16, and the metadata that LiteRT's tools read."""

import re
from dataclasses import replace

import numpy as np
import pytest

from squeeze_jax.convert import activation_ranges, adapt, metadata, verify
from squeeze_jax.convert.activation_ranges import LEVELS, Range, best_range, find_ranges
from squeeze_jax.convert.exporters import tflite
from squeeze_jax.errors import UserError
from squeeze_jax.network import build_model, imagenet, split_model
from tests.convert.random_networks import random_net, with_dead_channels

pytest.importorskip("litert_converter")
pytest.importorskip("ai_edge_litert")
pytest.importorskip("ai_edge_quantizer")

SMALL = {
    "name": "squeezenet_v1_1", "num_fire": 2, "squeeze_ratio": 0.5, "base_e": 8, "incr_e": 8,
    "batch_norm": True, "pool_after": ("conv1",),
}  # fmt: skip
BGR = replace(imagenet.CAFFE, image_size=32, std=(50.0, 60.0, 70.0))


def fresh_net(model):
    _, params, stats = split_model(build_model(model, 4))
    return replace(random_net(model, num_classes=4, preprocessing=BGR), params=params, stats=stats)


@pytest.fixture(scope="module")
def net():
    return fresh_net(SMALL)


@pytest.fixture(scope="module")
def images(net):
    """Smooth pixels, preprocessed."""
    pixels = np.random.default_rng(2).integers(0, 256, (6, 4, 4, 3)).repeat(8, 1).repeat(8, 2)
    mean, std = (np.reshape(getattr(BGR, key), (1, 1, 1, 3)) for key in ("mean", "std"))
    return ((pixels[..., ::-1] - mean) / std).astype(np.float32)


def written(net, images, precision, **options):
    defaults = dict(batch=1, precision=precision, float_io=False, pixels=False)
    return tflite.write(net, {**defaults, "calibration": images, **options})


@pytest.fixture(scope="module")
def int8(net, images):
    return written(net, images, "int8")


def test_the_best_range_beats_that_of_the_outliers():
    """By the error of rounding and clipping, computed without the histogram."""
    values = np.random.default_rng(0).standard_t(2, 20_000).astype(np.float32)

    def error(found: Range) -> float:
        step = (found.high - found.low) / LEVELS
        zero = np.round(found.low / step)
        levels = np.clip(np.round(values / step), zero, zero + LEVELS)
        return float(np.mean((values - levels * step) ** 2))

    found = find_ranges(lambda batch: {"x": batch}, values.reshape(-1, 10, 10, 2))["x"]
    ends = Range(float(values.min()), float(values.max()))
    assert ends.low <= found.low < 0 < found.high <= ends.high
    assert error(found) < error(ends)
    grid = [Range(a * ends.low, b * ends.high) for a in (0.3, 0.6, 1) for b in (0.3, 0.6, 1)]
    assert error(found) <= 1.02 * min(map(error, grid))


def test_ranges_without_values_on_one_side():
    counts = np.ones(activation_ranges.BINS, np.int64)
    assert best_range(counts, Range(0.0, 2.0)).low == 0
    dead = find_ranges(lambda batch: {"x": 0 * batch}, np.ones((2, 4, 4, 3), np.float32))["x"]
    assert dead.low == 0 < dead.high


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "options", "bound"),
    [
        ("int8", {}, 0.1),
        ("int8", {"float_io": True}, 0.1),
        ("int8", {"pixels": True}, 0.1),
        ("int16", {}, 0.05),
        ("float16", {}, 0.01),
        ("float32", {"pixels": True}, 1e-4),
        ("int8", {"batch": 4}, 0.1),
    ],
)
def test_every_precision_computes_what_the_net_computes(net, images, precision, options, bound):
    classifier = tflite.open(written(net, images, precision, **options))
    assert verify.check(net, adapt(classifier, net), images, precision) <= bound


@pytest.mark.parametrize("precision", ["int8", "int16"])
def test_biases_of_channels_without_weights_are_kept(images, precision):
    plain = random_net({**SMALL, "batch_norm": False}, num_classes=4, preprocessing=BGR)
    net, logits = with_dead_channels(plain)
    classifier = tflite.open(written(net, images, precision, float_io=True))
    found = classifier.run(images)
    # A step of 8 bits.
    np.testing.assert_allclose(
        found[:, :2], np.tile(logits, (len(images), 1)), atol=found.max() / 250
    )


def test_images_and_logits_are_integers_unless_asked_for(net, images, int8):
    from ai_edge_litert.interpreter import Interpreter

    def ends(content):
        call = Interpreter(model_content=content).get_signature_runner()
        first, last = call.get_input_details()["images"], call.get_output_details()["logits"]
        return first, last

    first, last = ends(int8)
    assert first["dtype"] == last["dtype"] == np.int8
    first, last = ends(written(net, images, "int8", float_io=True))
    assert first["dtype"] == last["dtype"] == np.float32
    first, _ = ends(written(net, images, "int8", pixels=True))
    assert first["quantization"] == (1, -128)  # a pixel less 128


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        SMALL | {"bypass": "complex"},
        {"name": "squeezenext_23", "blocks": (1, 1, 1, 1), "groups": 2},
        {"name": "squeezenet_v1_0_released", "base_e": 16, "incr_e": 8},
    ],
)
def test_tflite_micro_computes_what_litert_computes(model, images):
    """LiteRT's reference kernels, to one level of the logits; its fast ones round differently."""
    pytest.importorskip("tflite_micro")
    from ai_edge_litert.interpreter import Interpreter, OpResolverType
    from tflite_micro.python.tflite_micro import runtime

    content = written(fresh_net(model), images, "int8")
    interpreter = runtime.Interpreter.from_bytes(content, arena_size=1 << 22)
    details = interpreter.get_input_details(0)["quantization_parameters"]
    scale, zero = details["scales"].item(), details["zero_points"].item()
    levels = np.clip(np.round(images[:1] / np.float32(scale)) + zero, -128, 127).astype(np.int8)
    interpreter.set_input(levels, 0)
    interpreter.invoke()
    reference = Interpreter(
        model_content=content, experimental_op_resolver_type=OpResolverType.BUILTIN_REF
    )
    expected = reference.get_signature_runner()(images=levels)["logits"]
    np.testing.assert_allclose(interpreter.get_output(0).astype(int), expected, atol=1)


@pytest.mark.slow
def test_onnx_has_the_same_ranges(net, images, int8):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from ai_edge_litert.interpreter import Interpreter

    from squeeze_jax.convert.exporters import onnx as exporter

    options = dict(batch=None, opset=17, precision="int8", calibration=images)
    model = onnx.load_from_string(exporter.write(net, options))
    values = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    theirs = {
        float(values[node.input[1]])
        for node in model.graph.node
        if node.op_type == "QuantizeLinear"
    }
    interpreter = Interpreter(model_content=int8)
    ours = {
        float(tensor["quantization"][0])
        for tensor in interpreter.get_tensor_details()
        if len(tensor["shape"]) == 4 and len(tensor["quantization_parameters"]["scales"]) == 1
    }
    assert len(theirs) > 5
    assert all(min(abs(scale / other - 1) for other in ours) < 1e-4 for scale in theirs)


def test_weights_are_inside_and_aligned(int8):
    """As TFLM and 32-bit devices need them."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(int8, 0)
    buffers = [model.Buffers(i) for i in range(model.BuffersLength())]
    assert {buffer.Offset() for buffer in buffers} == {0}
    found = [buffer._tab.Vector(buffer._tab.Offset(4)) for buffer in buffers if buffer.DataLength()]
    assert len(found) > 10 and {start % 16 for start in found} == {0}


def test_metadata_name_normalisation_and_labels(net, int8):
    """Read field by field with the FlatBuffers library, as the schema numbers them."""
    from ai_edge_litert import schema_py_generated as schema
    from flatbuffers import number_types
    from flatbuffers.table import Table

    model = schema.Model.GetRootAs(int8, 0)
    entries = {model.Metadata(i).Name(): model.Metadata(i) for i in range(model.MetadataLength())}
    content = model.Buffers(entries[b"TFLITE_METADATA"].Buffer()).DataAsNumpy().tobytes()
    assert content[4:8] == b"M001"

    def child(table, slot, index=None):
        offset = table.Offset(4 + 2 * slot)
        at = table.Vector(offset) + 4 * index if index is not None else table.Pos + offset
        return Table(table.Bytes, table.Indirect(at))

    def floats(table, slot):
        offset = table.Offset(4 + 2 * slot)
        return table.GetVectorAsNumpy(number_types.Float32Flags, offset)

    root = Table(content, int.from_bytes(content[:4], "little"))
    subgraph = child(root, 3, 0)
    normalisation = child(child(child(subgraph, 2, 0), 4, 0), 1)
    np.testing.assert_allclose(floats(normalisation, 0), BGR.mean)
    np.testing.assert_allclose(floats(normalisation, 1), BGR.std)
    labels = child(child(subgraph, 3, 0), 6, 0)
    assert labels.String(labels.Pos + labels.Offset(4)) == metadata.LABELS.encode()
    assert metadata.read(int8)["class_names"] == list(net.class_names)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_mediapipe_classifies_with_it(net, images, tmp_path, precision):
    mp = pytest.importorskip("mediapipe")
    from mediapipe.tasks.python import BaseOptions, vision

    content = written(net, images, precision, pixels=True, float_io=precision == "int8")
    (tmp_path / "net.tflite").write_bytes(content)
    options = vision.ImageClassifierOptions(
        base_options=BaseOptions(model_asset_path=str(tmp_path / "net.tflite"))
    )
    pixels = np.random.default_rng(3).integers(0, 256, (32, 32, 3), np.uint8)
    with vision.ImageClassifier.create_from_options(options) as classifier:
        image = mp.Image(image_format=mp.ImageFormat.SRGB, data=pixels)
        found = classifier.classify(image).classifications[0].categories
    expected = tflite.open(content).run(pixels[None].astype(np.float32))[0]
    for category in found:
        assert category.category_name == net.class_names[category.index]
        assert category.score == pytest.approx(float(expected[category.index]), abs=1e-3)


def test_what_is_missing_is_said(net, images):
    with pytest.raises(UserError, match="int16 is calibrated on real images"):
        written(net, None, "int16")
    with pytest.raises(UserError, match="--float-io is for int8 and int16"):
        written(net, images, "float16", float_io=True)


@pytest.mark.slow
def test_commands_take_the_file(net, images, tmp_path, monkeypatch, capsys):
    """export tells the accuracy on other images, evaluate and predict run the file."""
    from PIL import Image

    from squeeze_jax import cli
    from squeeze_jax.train.checkpoint import save_network

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["squeeze-jax", *map(str, arguments)])
        assert cli.main() == 0, capsys.readouterr().err
        return capsys.readouterr().out

    save_network(net, tmp_path / "net")
    random = np.random.default_rng(4)
    for name in net.class_names:
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(5):
            pixels = random.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{i}.png")
    data = ("--data", "folder", "--data-dir", tmp_path / "data")
    file = tmp_path / "net.tflite"
    out = run(
        "export", tmp_path / "net", "--format", "tflite", "--precision", "int8", "-o", file,
        "--calibration-images", 4, *data,
    )  # fmt: skip
    assert re.search(
        r"bytes, logits within .+ of the net's, top-1 \S+ %, the net's \S+ %, "
        r"on 16 images that did not calibrate it\n",
        out,
    )
    assert "20 images" in run("evaluate", file, *data)
    assert "class " in run("predict", file, tmp_path / "data" / "class 1" / "0.png")
