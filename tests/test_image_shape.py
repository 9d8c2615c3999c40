"""Images that are not square, in grey: from a folder of colour photos to every exported file."""

import json
import re
import subprocess

import jax
import numpy as np
import pytest
from PIL import Image

from squeeze_jax import api, cli
from squeeze_jax.convert import open_exported
from squeeze_jax.convert.c_engine import host, integer_net, reference
from squeeze_jax.cost import design_costs
from squeeze_jax.data import load_split, sample
from squeeze_jax.errors import UserError
from squeeze_jax.models import layers
from squeeze_jax.network import ModelConfig
from squeeze_jax.network.preprocessing import preprocess
from tests.convert.random_networks import same_weights
from tests.launching import TINY, completed, rows

HEIGHT, WIDTH = 40, 27
SHAPE = (
    f"--config.data.resize=({HEIGHT + 4},{WIDTH + 3})",
    f"--config.data.image_size=({HEIGHT},{WIDTH})",
    "--config.data.channel_order=grey",
    "--config.data.mean=(117.0,)",
    "--config.data.std=(58.0,)",
)
AUGMENTATIONS = ("color_jitter", "trivial_augment", "random_erasing")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of two classes of photos in colour, wide and tall."""
    root, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for label, name in enumerate(("cat", "dog")):
        (root / name).mkdir()
        for i in range(20):
            size = (70, 50) if i % 2 else (48, 66)
            coarse = random.integers(0, 120, (5, 4, 3), np.uint8) + np.uint8(120 * label)
            Image.fromarray(coarse).resize(size).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def study(images, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("study") / "work"
    flags = (f"--config.data.data_dir={images}", f"--config.data.augment={AUGMENTATIONS}")
    flags += ("--config.train.batch_size=4", "--config.seeds=1", f"--workdir={workdir}")
    completed("configs/squeezenet.py:folder", *TINY, *SHAPE, *flags, "--config.train.steps=2")
    return workdir


@pytest.fixture(scope="module")
def trial(study):
    (path,) = (study / "trials").iterdir()
    return path


@pytest.fixture(scope="module")
def network(trial):
    return api.load(trial).whole()


@pytest.fixture(scope="module")
def photos(images, network):
    source = load_split("folder", str(images), None)
    return sample(source, network.preprocessing, 12)


def squeeze(capsys, *arguments) -> str:
    assert cli.main([str(each) for each in arguments]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def count_by_running(network, photo) -> tuple[int, int]:
    """Multiplications and parameters of a real forward pass."""
    macs = []

    def count(layer, x, compute):
        y = compute(x, layer.kernel[...])
        macs.append(y.size * layer.kernel[...][..., 0].size)
        return y

    with layers.intercept_layers(count):
        network.module()(photo)
    return sum(macs), sum(leaf.size for leaf in jax.tree.leaves(network.params))


@pytest.mark.slow
def test_what_is_recorded_and_counted(study, trial, network, photos):
    (row,) = rows(study)
    record = json.loads((trial / "config.json").read_text())
    assert record["data"]["image_size"] == [HEIGHT, WIDTH] and record["model"]["in_channels"] == 1
    assert network.input_shape == (HEIGHT, WIDTH, 1) and photos.shape[1:] == network.input_shape
    macs, params = count_by_running(network, photos[:1])
    assert (int(row["macs"]), int(row["params"])) == (macs, params)
    costs = design_costs(network.model, 2, network.input_shape)
    assert {key: float(row[key]) for key in costs} == costs


@pytest.mark.slow
def test_commands_take_it(trial, network, photos, images, tmp_path, capsys):
    """The summary, evaluation, prediction of a colour photo, and a .sqz file."""
    macs, params = count_by_running(network, photos[:1])
    summary = json.loads(squeeze(capsys, "summary", trial, "--format=json"))
    model = [f"--set={key}={value}" for key, value in network.model.items() if key != "name"]
    named = squeeze(
        capsys,
        "summary",
        network.model["name"],
        *model,
        "--set=num_classes=2",
        f"--input-size={HEIGHT}x{WIDTH}",
        "--format=json",
    )
    assert json.loads(named) == summary
    totals = [sum(each[key] for each in summary["layers"]) for key in ("macs", "parameters")]
    assert totals == [macs, params]
    assert "images, top-1" in squeeze(capsys, "evaluate", trial)
    assert "cycles" in squeeze(capsys, "hardware", trial)
    with Image.open(images / "dog" / "3.png") as photo:
        grey = np.asarray(photo.convert("L"))
    (ours,) = api.load(trial).predict(images / "dog" / "3.png")
    expected = network.classifier().run(
        preprocess(np.repeat(grey[..., None], 3, axis=-1), network.preprocessing)[None]
    )
    assert ours[0].class_name == network.class_names[int(expected.argmax())]
    squeeze(capsys, "compress", trial, "-o", tmp_path / "net.sqz")
    again = api.load(tmp_path / "net.sqz").whole()
    assert same_weights(again, network) and again.metadata() == network.metadata()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "flags", "tolerance"),
    [
        ("net.onnx", (), 1e-4),
        ("int8.onnx", ("--precision=int8",), 0.2),
        ("net.tflite", (), 1e-4),
        ("int8.tflite", ("--precision=int8",), 0.2),
        ("pixels.tflite", ("--precision=int8", "--pixels"), 0.2),
        ("net.stablehlo", (), 1e-4),
        ("net.safetensors", (), 0),
        ("net.pth", (), 0),
    ],
)
def test_exported_files_compute_what_the_net_computes(
    trial, network, photos, tmp_path, capsys, name, flags, tolerance
):
    path = tmp_path / name
    needed = {
        ".tflite": ("litert_converter", "ai_edge_litert", "ai_edge_quantizer"),
        ".onnx": ("onnx", "onnxruntime"),
        ".pth": ("torch",),
    }
    for library in needed.get(path.suffix, ()):
        pytest.importorskip(library)
    format = path.suffix.removeprefix(".")
    squeeze(capsys, "export", trial, "-o", path, f"--format={format}", *flags)
    if tolerance == 0:
        squeeze(capsys, "import", path, "-o", tmp_path / "imported")
        again = api.load(tmp_path / "imported").whole()
        assert same_weights(again, network)
        assert again.preprocessing == network.preprocessing
        return
    classifier, expected = open_exported(path), network.classifier().run(photos)
    given = photos
    if classifier.preprocessing != network.preprocessing:  # pixels, whose luma the file computes
        assert classifier.preprocessing.channel_order == "rgb"
        given = np.repeat(photos * 58 + 117, 3, axis=-1).astype(np.float32)
    found = classifier.run(given)
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.skipif(host.find_compiler() is None, reason="there is no C compiler")
def test_the_c_project_computes_the_integer_reference(trial, network, photos, tmp_path, capsys):
    folder = tmp_path / "c"
    squeeze(capsys, "export", trial, "-o", folder, "--format=c")
    header = (folder / "net.h").read_text()
    for name, value in (("HEIGHT", HEIGHT), ("WIDTH", WIDTH), ("CHANNELS", 1)):
        assert f"#define NET_{name} {value}\n" in header
    tested = subprocess.run(["make", "-C", folder, "test"], capture_output=True, text=True)
    assert tested.returncode == 0, tested.stdout + tested.stderr
    net = integer_net.quantize(network, photos)
    levels = np.stack([reference.run(net, image) for image in net.input_scale.quantize(photos)])
    deviation = np.abs(net.output_scale.values(levels) - network.classifier().run(photos))
    assert deviation.max() < 0.2 * np.abs(network.classifier().run(photos)).max()


@pytest.mark.slow
def test_finetuning_takes_the_shape_from_the_checkpoint(trial, images, tmp_path):
    flags = (f"--config.train.init_from={trial}", f"--config.data.data_dir={images}")
    flags += ("--config.train.batch_size=4", "--config.train.steps=2", "--config.seeds=1")
    completed("configs/finetune.py:folder", *flags, f"--workdir={tmp_path / 'work'}")
    (path,) = (tmp_path / "work" / "trials").iterdir()
    assert api.load(path).whole().input_shape == (HEIGHT, WIDTH, 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["summary", "alexnet", "--input-size=227x120"], "alexnet at 227x120: .*6x6"),
        (["summary", "vgg16", "--input-size=224x112"], "vgg16 at 224x112: .*7x7"),
        (["summary", "squeezenet_v1_1", "--input-size=0x64"], "--input-size is 1 to 4,096"),
    ],
)
def test_what_cannot_be_is_one_line(arguments, words, capsys):
    assert cli.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(words, line)


def test_a_module_of_other_channels_is_refused():
    grey = ModelConfig("squeezenet_v1_1").for_channels(1)
    assert grey.to_mapping() == {"name": "squeezenet_v1_1", "in_channels": 1}
    assert ModelConfig("squeezenet_v1_1").for_channels(3).to_mapping() == {
        "name": "squeezenet_v1_1"
    }
    with pytest.raises(UserError, match="model.in_channels is 1, but the images have 3"):
        grey.for_channels(3)
