"""A perfect network evaluates to 100 %, whatever its file and its classes' names and order."""

import dataclasses
import json
import os
import unicodedata

import numpy as np
import pytest
from PIL import Image

from squeeze_jax import api, cli
from squeeze_jax.configs import base
from squeeze_jax.convert import import_network
from squeeze_jax.data import ArraySource, DataConfig, open_data
from squeeze_jax.errors import UserError
from squeeze_jax.network import Network, Preprocessing, build_model, imagenet, split_model
from squeeze_jax.train import TrialConfig, describe_start
from squeeze_jax.train.checkpoint import save_network
from squeeze_jax.train.finetune import starting_weights

TINY = dict(
    num_fire=0, conv1_filters=6, conv1_kernel=1, conv1_stride=1, pool_after=(), conv10_relu=False
)
PLAIN = Preprocessing(16, 16, "squash", "rgb", (127.5,) * 3, (127.5,) * 3)
LETTERS = ("cat", "dog", "emu")


def colours(count):
    """One colour a class, far from the others."""
    return [(60 + 60 * (i % 3), 60 + 60 * (i // 3 % 3), 60 + 60 * (i // 9)) for i in range(count)]


def nearest_colour(count, preprocessing):
    """A linear classifier by the nearest colour: conv1 passes x and -x through ReLUs."""
    mean, std = np.float32(preprocessing.mean), np.float32(preprocessing.std)
    centres = (np.float32(colours(count)) - mean) / std
    conv1 = np.concatenate([np.eye(3), -np.eye(3)], 1).astype(np.float32)
    return {
        "conv1": {"kernel": conv1[None, None], "bias": np.zeros(6, np.float32)},
        "conv10": {
            "kernel": 2 * np.concatenate([centres.T, -centres.T])[None, None],
            "bias": -(centres**2).sum(1),
        },
    }


def perfect(*names):
    """A net that knows colour i as class i of these names."""
    model = {"name": "squeezenet_v1_1", **TINY}
    params = nearest_colour(len(names), PLAIN)
    _, like, stats = split_model(build_model(model, len(names)))
    assert {layer: {k: v.shape for k, v in leaves.items()} for layer, leaves in like.items()} == {
        layer: {k: v.shape for k, v in leaves.items()} for layer, leaves in params.items()
    }
    return Network(model, names, PLAIN, params, stats)


@pytest.fixture
def save(tmp_path):
    def save(network):
        save_network(network, tmp_path / "net")
        return tmp_path / "net"

    return save


@pytest.fixture
def folder(tmp_path):
    """Makes a folder of images: folder(("cat", 0), ("dog", 1)) shows colours 0 and 1."""

    def make(*classes):
        for name, index in classes:
            (tmp_path / "images" / name).mkdir(parents=True)
            for number in range(2):
                Image.new("RGB", (16, 16), colours(27)[index]).save(
                    tmp_path / "images" / name / f"{number}.png"
                )
        return tmp_path / "images"

    return make


@pytest.fixture
def run(capsys):
    def call(*arguments):
        code = cli.main([*map(str, arguments)])
        return code, *capsys.readouterr()

    return call


def top1(run, net, folder, *flags):
    """What evaluate prints, and what it says besides."""
    code, out, err = run(
        "evaluate", net, "--data", "folder", "--data-dir", folder, "--format", "json", *flags
    )
    assert code == 0, err
    return json.loads(out)["top1"], err


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (("no tumor", "tumor"), (("no tumor", 0), ("tumor", 1))),
        (("bell pepper", "pepper"), (("pepper", 1), ("bell pepper", 0))),
        (("apple", "banana", "cherry"), (("Banana", 1), ("apple", 0), ("cherry", 2))),
        (("crème", "zoo"), ((unicodedata.normalize("NFD", "crème"), 0), ("zoo", 1))),
        (("n01440764 tench", "n01443537 goldfish"), (("goldfish", 1), ("n01440764", 0))),
        (("emu", "cat", "dog"), (("cat", 1), ("dog", 2))),
        # Trained here on folders of these names.
        (tuple(sorted(map(str, range(12)))), (("10", 2), ("2", 4), ("0", 0))),
    ],
)
def test_classes_are_matched_by_name(run, save, folder, names, classes):
    assert top1(run, save(perfect(*names)), folder(*classes)) == (100, "")


def test_few_images_have_a_wide_interval_and_few_classes_no_top5(run, save, folder):
    net, images = save(perfect("cat", "dog")), folder(("cat", 0), ("dog", 1))
    code, out, _ = run("evaluate", net, "--data", "folder", "--data-dir", images)
    # Of n right answers among n, Wilson's interval starts at n / (n + 1.96²).
    assert code == 0 and "4 images, top-1 100.00 % (95 % interval 51.0 to 100.0)" in out
    assert "top-5" not in out


def test_a_split_without_data_is_one_of_the_training_data(run, save, folder, tmp_path):
    net, images = save(perfect("cat", "dog")), folder(("cat", 0), ("dog", 1))
    for split, shown in (("train", (0, 1)), ("val", (0, 1)), ("test", (0, 0))):
        for name, index in zip(("cat", "dog"), shown, strict=True):
            path = tmp_path / "split" / split / name / "0.png"
            path.parent.mkdir(parents=True)
            path.write_bytes((images / ("cat", "dog")[index] / "0.png").read_bytes())
    record = json.loads((net / "config.json").read_text())
    record["data"] |= {"name": "folder", "data_dir": str(tmp_path / "split")}
    (net / "config.json").write_text(json.dumps(record))
    for flags, expected in (((), 100), (("--split", "val"), 100), (("--split", "test"), 50)):
        code, out, _ = run("evaluate", net, "--format", "json", *flags)
        assert code == 0 and json.loads(out)["top1"] == expected
    for how in (("evaluate", net), ("compress", net, "-o", tmp_path / "x.sqz", "--max-loss", 1)):
        code, _, err = run(*how, "--split", "bogus")
        assert code == 2 and "has no split 'bogus'; it has train, val, test" in err


@pytest.mark.parametrize("suffix", ["", ".sqz", ".onnx", ".tflite", ".stablehlo"])
def test_every_kind_of_file(run, save, folder, tmp_path, suffix):
    net = file = save(perfect("no tumor", "tumor", "Banana"))
    images = folder(("tumor", 1), ("no tumor", 0), ("banana", 2))
    if suffix:
        pytest.importorskip(
            {".onnx": "onnxruntime", ".tflite": "ai_edge_litert"}.get(suffix, "jax")
        )
        file = tmp_path / f"net{suffix}"
        how = ("compress",) if suffix == ".sqz" else ("export", "--format", suffix[1:])
        assert run(*how, net, "-o", file)[0] == 0
    assert top1(run, file, images) == (100, "")


def test_sensitivity_reads_the_same_labels(run, save, folder):
    net, images = save(perfect("no tumor", "tumor")), folder(("tumor", 1), ("no tumor", 0))
    arguments = ("--data", "folder", "--data-dir", images, "--fractions", "0.9")
    _, out, _ = run("sensitivity", net, *arguments, "--format", "json")
    assert json.loads(out)["top1"] == 100


def test_other_names_are_refused_or_taken_in_order_on_request(run, save, folder):
    net, images = save(perfect(*LETTERS)), folder(("x", 0), ("y", 1), ("z", 2))
    for command in ("evaluate", "sensitivity"):
        code, out, err = run(command, net, "--data", "folder", "--data-dir", images)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "'x', 'y', 'z'; the network's others are 'cat', 'dog', 'emu'" in err
    found, err = top1(run, net, images, "--labels-by-position")
    assert found == 100 and err.count("\n") == 1
    assert "by position, as asked for: outputs 0 to 2 are 'x', 'y', 'z'" in err


def test_a_source_of_the_callers_is_matched_too(save, capsys):
    network = api.load(save(perfect("cat", "dog")))
    images = np.uint8([np.full((16, 16, 3), colours(2)[i]) for i in (1, 0)])
    labels = np.array([0, 1])
    assert network.evaluate(ArraySource("set", ("dog", "cat"), images, labels))["top1"] == 100
    with pytest.raises(UserError, match="'x'"):
        network.evaluate(ArraySource("set", ("x", "cat"), images, labels))
    assert not capsys.readouterr().err
    assert network.evaluate(ArraySource("set", (), images, labels))["top1"] == 0
    assert capsys.readouterr().err.count("no names") == 1


@pytest.fixture
def imported(run, tmp_path):
    """Imports a state dict of PyTorch that knows colour i as output i, and names no classes."""
    torch = pytest.importorskip("torch")

    def make(count, *arguments):
        weights = nearest_colour(count, imagenet.TORCH)
        state = {}
        for name, layer in (("features.0", "conv1"), ("classifier.1", "conv10")):
            kernel = weights[layer]["kernel"].transpose(3, 2, 0, 1)
            state[f"{name}.weight"] = torch.from_numpy(kernel.copy())
            state[f"{name}.bias"] = torch.from_numpy(weights[layer]["bias"])
        torch.save(state, tmp_path / "net.pth")
        flags = [flag for key, value in TINY.items() for flag in ("--set", f"{key}={value}")]
        code, _, err = run(
            "import", tmp_path / "net.pth", "-o", tmp_path / "net", "--model", "squeezenet_v1_1",
            *flags,
        )  # fmt: skip
        assert code == 0, err
        return tmp_path / "net"

    return make


@pytest.mark.parametrize("suffix", ["", ".sqz", ".stablehlo"])
def test_a_state_dict_trained_on_numbered_folders(run, imported, folder, tmp_path, suffix):
    """ImageFolder gave folder "10" the label 2, as it sorts folders as strings."""
    numbers = sorted(map(str, range(12)))
    net = file = imported(12)
    images = folder(*((name, place) for place, name in enumerate(numbers)))
    if suffix:
        file = tmp_path / f"net{suffix}"
        how = ("compress",) if suffix == ".sqz" else ("export", "--format", suffix[1:])
        assert run(*how, net, "-o", file)[0] == 0
    found, err = top1(run, file, images)
    assert found == 100 and err.count("\n") == 1
    assert "by position, since the network's have no names" in err and "'0', '1', '10'" in err


def test_a_state_dict_of_named_folders(run, imported, folder):
    images = folder(("Zebra", 0), ("ant", 1))  # as ImageFolder sorts them
    found, err = top1(run, imported(2), images)
    assert found == 100 and "'Zebra', 'ant'" in err


def test_a_numbered_net_of_another_number_of_classes_is_refused(run, imported, folder):
    images = folder(("0", 0), ("2", 2))
    code, _, err = run("evaluate", imported(3), "--data", "folder", "--data-dir", images)
    assert code == 2 and "2 classes and the network 3" in err


def test_an_import_of_an_older_version_is_numbered_too(run, imported, folder):
    """Its config.json does not tell that the classes have no names."""
    net = imported(12)
    record = json.loads((net / "config.json").read_text())
    assert "has_class_names" not in record and record["class_names"][:3] == ["0", "1", "2"]
    assert not api.load(net).has_class_names


def test_numbers_that_are_names_survive_a_file(save, tmp_path):
    named = dataclasses.replace(perfect("0", "1"), source="net.pth, PyTorch", has_class_names=True)
    file = tmp_path / "net.sqz"
    api.load(save(named)).compress(file)
    assert api.load(file).has_class_names and api.load(tmp_path / "net").has_class_names


def trial(init_from, images):
    config = base.get_config("folder", "test")
    config.model.update(name="squeezenet_v1_1", **TINY)
    config.train.init_from = str(init_from)
    config.data.update(data_dir=str(images), resize=16, image_size=16, holdout=0.5)
    config.data.update(mean=PLAIN.mean, std=PLAIN.std)
    parsed = TrialConfig.parse(config)
    return parsed, open_data(parsed.data)


def starting_top1(config, data):
    """Top-1 of the net that training starts from, on the held-out images."""
    model = config.model.to_mapping()
    _, params, stats = split_model(build_model(model, data.num_classes))
    params, stats = starting_weights(config, data)(params, stats)
    network = api.LoadedNetwork(None, Network(model, data.class_names, PLAIN, params, stats))
    return network.evaluate(data.eval_source)["top1"]


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (("no tumor", "tumor"), (("no tumor", 0), ("tumor", 1))),
        (("dog", "emu", "cat"), (("cat", 2), ("dog", 0), ("emu", 1))),
        (("apple", "banana"), (("Banana", 1), ("apple", 0))),
        (("n01440764 tench", "n01443537 goldfish"), (("goldfish", 1), ("n01440764", 0))),
    ],
)
def test_fine_tuning_takes_the_classifier_class_by_class(save, folder, names, classes):
    config, data = trial(save(perfect(*names)), folder(*classes))
    assert starting_top1(config, data) == 100 and not describe_start(config, data)


def test_fine_tuning_of_numbered_classes_takes_them_by_position_and_says_so(imported, folder):
    numbers = sorted(map(str, range(12)))
    images = folder(*((name, place) for place, name in enumerate(numbers)))
    net = imported(12)
    config, data = trial(net, images)
    assert "by position" in describe_start(config, data)
    _, fresh, stats = split_model(build_model(config.model.to_mapping(), 12))
    params, _ = starting_weights(config, data)(fresh, stats)
    given = import_network(net.parent / "net.pth", "squeezenet_v1_1", TINY).params["conv10"][
        "kernel"
    ]
    np.testing.assert_array_equal(params["conv10"]["kernel"], given)


def test_fine_tuning_on_other_classes_draws_the_classifier_anew(save, folder):
    config, data = trial(save(perfect("cat", "dog")), folder(("x", 0), ("y", 1)))
    assert not describe_start(config, data)
    _, fresh, stats = split_model(build_model(config.model.to_mapping(), 2))
    params, _ = starting_weights(config, data)(fresh, stats)
    np.testing.assert_array_equal(params["conv10"]["kernel"], fresh["conv10"]["kernel"])


@pytest.mark.slow
def test_calibration_uses_no_labels(run, save, folder, tmp_path):
    pytest.importorskip("onnxruntime")
    net, images = save(perfect("cat", "dog")), folder(("x", 0), ("y", 1), ("z", 2))
    data = ("--data-dir", images, "--calibration-images", 6)
    file = tmp_path / "net.onnx"
    code, _, err = run(
        "export",
        net,
        "--format",
        "onnx",
        "--precision",
        "int8",
        "-o",
        file,
        "--data",
        "folder",
        *data,
    )
    assert code == 0, err
    code, _, err = run(
        "compress", net, "-o", tmp_path / "net.sqz", "--bits", 8, "--data", "folder", *data
    )
    assert code == 0, err


def test_predict_says_the_name_of_the_output(run, save, folder):
    net, images = save(perfect("no tumor", "tumor")), folder(("?", 1))
    _, out, _ = run("predict", net, images / "?" / "0.png", "--format", "json")
    assert json.loads(out)[0]["predictions"][0]["class"] == "tumor"


def test_a_class_name_that_is_not_utf8_is_refused_before_training(folder, tmp_path):
    images = folder(("cat", 0), (os.fsdecode(b"d\xe9g"), 1))
    with pytest.raises(UserError, match=r"class name 'd\\udce9g' is not valid UTF-8"):
        open_data(DataConfig(name="folder", data_dir=str(images)))


def test_a_network_of_such_a_class_is_used_but_not_written(run, save, folder, tmp_path):
    """Older versions trained it."""
    net = save(perfect("cat", "dog"))
    record = json.loads((net / "config.json").read_text())
    (net / "config.json").write_text(json.dumps(record | {"class_names": ["cat", "d\udce9g"]}))
    code, out, _ = run("predict", net, folder(("?", 1)) / "?" / "0.png")
    assert code == 0 and r"d\udce9g" in out.splitlines()[1]
    for how in (("compress",), ("export", "--format", "stablehlo")):
        file = tmp_path / f"net.{'sqz' if how == ('compress',) else 'stablehlo'}"
        code, _, err = run(*how, net, "-o", file)
        assert code == 2 and "not valid UTF-8" in err and not file.exists()


def test_an_image_whose_path_is_not_utf8_is_classified(run, save, folder):
    images = folder((os.fsdecode(b"d\xe9g"), 1))
    path = images / os.fsdecode(b"d\xe9g") / "0.png"
    code, out, _ = run("predict", save(perfect("cat", "dog")), path)
    assert code == 0 and "dog" in out.splitlines()[1]
