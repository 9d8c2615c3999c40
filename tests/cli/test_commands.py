"""The squeeze-jax command, in process: what it prints and how it ends."""

import argparse
import csv
import dataclasses
import io
import json
import re
import shlex
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
import scipy.stats
from PIL import Image

from squeeze_jax import cli, models
from squeeze_jax.convert.state_dict import state_dict
from squeeze_jax.convert.verify import TOLERANCES
from squeeze_jax.network import Network, Preprocessing, build_model, imagenet, split_model
from squeeze_jax.train.checkpoint import load_network, save_network


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs `squeeze-jax ARGUMENTS`: (exit code, stdout, stderr)."""

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["squeeze-jax", *map(str, arguments)])
        code = cli.main()
        return code, *capsys.readouterr()

    return call


def test_list_names_the_registry_a_line_each(run):
    code, out, _ = run("summary", "--list")
    assert code == 0 and out.splitlines() == models.model_names()


def test_summary_as_text_is_table_1(run):
    """The SqueezeNet paper's Table 1, with the fire modules taken apart."""
    code, out, _ = run("summary", "squeezenet_v1_0")
    rows = [line.split() for line in out.splitlines()]
    assert code == 0
    assert ["conv1", "111x111x96", "7x7/2", "14,208", "173,873,952"] in rows
    assert ["max_pool1", "55x55x96", "3x3/2", "0", "0"] in rows
    assert ["fire9/expand3x3", "13x13x256", "3x3/1", "147,712", "24,920,064"] in rows
    assert rows[-3] == ["total", "1,248,424", "832,667,936"]
    assert rows[-2][:2] == ["int8", ".tflite:"]
    assert rows[-1] == ["export", "--format", "c:", "485,512", "bytes", "of", "RAM"]


def test_summary_as_json_and_csv_agree(run):
    _, text, _ = run(
        "summary",
        "squeezenet_v1_1",
        "--set",
        "squeeze_ratio=0.5",
        "--input-size",
        64,
        "--format",
        "json",
    )
    record = json.loads(text)
    assert record["params"] == sum(layer["parameters"] for layer in record["layers"])
    assert record["macs"] == sum(layer["macs"] for layer in record["layers"])
    _, text, _ = run(
        "summary",
        "squeezenet_v1_1",
        "--set",
        "squeeze_ratio=0.5",
        "--input-size",
        64,
        "--format",
        "csv",
    )
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(row["name"], int(row["macs"])) for row in rows] == [
        (layer["name"], layer["macs"]) for layer in record["layers"]
    ]
    assert rows[0]["output_shape"] == "1x31x31x64"


def test_summary_of_a_trial(run, tmp_path):
    config = {
        "model": {"name": "squeezenet_v1_1", "squeeze_ratio": None, "base_e": 64},
        "num_classes": 10,
        "class_names": list("0123456789"),
        "data": imagenet.CAFFE.to_metadata() | {"image_size": 96},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    _, text, _ = run("summary", tmp_path, "--format", "json")
    layers = json.loads(text)["layers"]
    assert layers[0]["input_shape"] == [1, 96, 96, 3] and layers[-1]["output_shape"] == [1, 10]


def test_hardware_as_json_adds_up(run):
    _, text, _ = run("hardware", "squeezenext_23_v5", "--format", "json")
    record = json.loads(text)
    for name in ("cycles", "energy", "dram_bytes", "macs"):
        assert sum(layer[name] for layer in record["layers"]) == pytest.approx(
            record[name], rel=1e-4
        )
    assert sum(record["energy_by_level"].values()) == pytest.approx(record["energy"], rel=1e-4)
    assert record["cycles"] == pytest.approx(1.245e6, rel=0.1)  # arXiv 1803.10615, Fig. 8


def test_hardware_takes_other_arrays_and_dataflows(run):
    def cycles(*arguments):
        return json.loads(run("hardware", "squeezenet_v1_1", "--format", "json", *arguments)[1])[
            "cycles"
        ]

    best = cycles("--array", "8x8", "--buffer-kb", "32")
    assert best > cycles()
    assert best <= min(
        cycles("--array", "8x8", "--buffer-kb", "32", "--dataflow", flow) for flow in ("ws", "os")
    )


def test_hardware_as_text_and_roofline(run, tmp_path):
    code, out, _ = run("hardware", "squeezenet_v1_0", "--roofline", tmp_path / "roof.svg")
    lines = dict(re.split("  +", line, maxsplit=1) for line in out.splitlines())
    assert code == 0 and lines["array"].startswith("16x16 ") and lines["buffer"] == "128 KB"
    assert lines["zero weights"].startswith("40% of each layer, assumed")
    assert lines["MACs"].startswith("832,667,936, ")
    figure = (tmp_path / "roof.svg").read_text()
    labels = (
        "MACs per byte of DRAM traffic",
        "array: 256 MACs a cycle",
        "DRAM: 16 bytes",
        "conv10",
    )
    assert all(label in figure for label in labels)
    _, longer, _ = run("hardware", "squeezenet_v1_0", "--layers")
    assert longer.startswith(out)
    rows = [line.split() for line in longer.removeprefix(out).splitlines()]
    assert rows[3][:3] == ["conv1", "os", "array"] and rows[-1][0] == "total"
    assert "%, zeros skipped" in longer  # a utilisation above 100 %


def test_hardware_of_a_checkpoint_has_its_own_zeros(run, checkpoint, tmp_path):
    """Of a third of conv1's weights kept, two thirds are skipped; other layers have no zeros."""
    network = load_network(checkpoint)
    pruned = network.params | {"conv1": dict(network.params["conv1"])}
    kernel = np.array(pruned["conv1"]["kernel"])
    kernel.reshape(-1)[: 2 * kernel.size // 3] = 0
    pruned["conv1"]["kernel"] = kernel
    save_network(dataclasses.replace(network, params=pruned), tmp_path / "pruned")

    def energy(path):
        record = json.loads(run("hardware", path, "--format", "json", "--dataflow", "os")[1])
        assert record["has_own_zeros"]
        densities = {layer["name"]: layer["density"] for layer in record["layers"]}
        return record["layers"][0]["energy"], densities

    (before, whole), (after, third) = energy(checkpoint), energy(tmp_path / "pruned")
    assert set(whole.values()) == {1.0} and after < before
    assert third["conv1"] == pytest.approx(1 / 3) and third | {"conv1": 1.0} == whole
    assert "0% to 67% of a layer, the network's own" in run("hardware", tmp_path / "pruned")[1]
    other = run("hardware", tmp_path / "pruned", "--set", "base_e=16")[1]
    assert "40% of each layer, assumed" in other and "the network's own" not in other


def test_summary_takes_a_bundled_network_and_the_classes_of_data(run):
    _, text, _ = run("summary", "cifar10-48k", "--format", "json")
    assert json.loads(text)["layers"][-1]["output_shape"] == [1, 10]
    small = ("--set", "num_fire=1", "--set", 'pool_after=("conv1",)', "--input-size", 32)
    command = ("summary", "squeezenet_v1_1", *small, "--format", "json")
    for data, classes in ((("--data", "digits"), 10), ((), 1000)):
        record = json.loads(run(*command, *data)[1])
        assert record["layers"][-1]["output_shape"] == [1, classes]


def test_version_names_jax_and_the_devices(run):
    code, out, _ = run("--version")
    assert code == 0 and f"jax {jax.__version__}" in out and "2 x cpu" in out


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_says_what_the_command_does_and_gives_an_example_that_parses(run, capsys, command):
    with pytest.raises(SystemExit) as ended:
        run(command, "--help")
    text, module = capsys.readouterr().out, cli.COMMANDS[command]
    assert ended.value.code == 0 and f"example: {module.EXAMPLE}" in text
    assert module.HELP[:10].lower() in text.lower()
    assert not re.findall(r" --[a-z]+_[a-z_]+", text)  # one style of flags
    program, name, *arguments = shlex.split(module.EXAMPLE)
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    assert (program, name) == ("squeeze-jax", command) and parser.parse_args(arguments)


def test_without_a_command_all_are_listed(run):
    code, out, _ = run()
    assert code == 0 and all(command.EXAMPLE in out for command in cli.COMMANDS.values())


def test_a_mistyped_command_is_told_which_was_meant(run, capsys):
    with pytest.raises(SystemExit) as ended:
        run("predcit")
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert err == "error: no command 'predcit'; did you mean predict?; see squeeze-jax --help\n"


def test_a_mistyped_choice_is_told_which_was_meant(run, capsys):
    with pytest.raises(SystemExit):
        run("export", "net", "--format", "onx", "-o", "net.onnx")
    assert "; did you mean onnx?; see" in capsys.readouterr().err


def test_an_image_without_a_network_is_told_what_is_missing(run):
    code, _, err = run("predict", "photo.jpg")
    assert code == 2 and "got photo.jpg alone: give a network and images" in err


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--data-dir=x", "no flag --data-dir; did you mean --config.data.data_dir?"),
        ("--epochs=3", "no flag --epochs; did you mean --config.train.epochs?"),
        ("--seeds=3", "no flag --seeds; did you mean --config.seeds?"),
        ("--wrokdir=x", "no flag --wrokdir; did you mean --workdir?"),
        ("--config.seeds=abc", "--config.seeds is an int; got 'abc'"),
        ("--config.train.momentum=abc", "--config.train.momentum is a float; got 'abc'"),
    ],
)
def test_a_flag_that_launch_lacks_is_told_as_the_key_it_is(flag, said, capsys):
    assert cli.main(["launch", "--config", "sr_sweep", flag]) == 2
    assert said in capsys.readouterr().err


def test_old_names_of_flags_work_and_say_todays(run, checkpoint, tmp_path):
    arguments = ("--bits", 6, "--calibrate", "digits", "--calibration-images=4")
    code, _, err = run("compress", checkpoint, "-o", tmp_path / "net.sqz", *arguments)
    assert (code, err) == (0, "--calibrate is called --data now\ncalibrating on 4 images\n")


def test_unreadable_images_among_others_are_named_and_the_others_predicted(
    run, checkpoint, picture, tmp_path
):
    (tmp_path / "broken.png").write_bytes(picture.read_bytes()[:60])
    shutil.copy(picture, tmp_path / "whole.png")
    for images in ([tmp_path], [tmp_path / "broken.png", tmp_path / "whole.png"]):
        code, out, err = run("predict", checkpoint, *images, "--top", 2)
        assert code == 1 and err.count("\n") == 1 and "broken.png" in err
        assert out.splitlines()[0] == str(tmp_path / "whole.png") and len(out.splitlines()) == 3


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weight_files_are_pointed_to_import(run, picture, tmp_path, suffix):
    (tmp_path / f"net{suffix}").write_bytes(b"x")
    code, _, err = run("predict", tmp_path / f"net{suffix}", picture)
    assert code == 2 and "`squeeze-jax import`" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("summary",), "which model?"),
        (("summary", "resnet50"), "no model 'resnet50'; there are squeezenet_v1_0"),
        (
            ("summary", "squeezenet_v1.0"),
            "no model 'squeezenet_v1.0'; did you mean squeezenet_v1_0",
        ),
        (("hardware", "cifar10-48"), "no model 'cifar10-48'; did you mean cifar10-48k"),
        (("predict", "squeezenet_v1_0", "x.png"), "is a model without weights: train it"),
        (("data", "nowhere"), "no such image folder: data_dir='nowhere'"),
        (("summary", "squeezenet_v1_0", "--set", "sr=1"), "no option sr"),
        (("summary", "squeezenet_v1_0", "--set", "bypass"), "OPTION=VALUE"),
        (
            ("summary", "squeezenet_v1_0", "--input-size", "16"),
            "squeezenet_v1_0 at 16x16: .*use larger images",
        ),
        (("report", "/nonexistent"), "no study.json"),
        (
            ("sensitivity", "squeezenet_v1_0", "--fractions", "0.1,nan,0.5"),
            "--fractions are numbers between 0 and 1",
        ),
        (("hardware", "squeezenet_v1_0", "--array", "16"), "'16' is not ROWSxCOLUMNS"),
        (("hardware", "squeezenet_v1_0", "--array", "0x4"), "rows must be positive"),
        (("hardware", "squeezenet_v1_0", "--buffer-kb", "0.01"), "too small"),
        (
            ("hardware", "squeezenet_v1_0", "--roofline", "roof.gif"),
            ".png and .svg, not 'roof.gif'",
        ),
    ],
)
def test_errors_are_one_line(run, arguments, words):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1 and err.startswith("error: ")
    assert re.search(words, err)


# ---------------------------------------------------------------- trained nets


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """An untrained narrow SqueezeNet for 32x32 digits."""
    model = dict(
        name="squeezenet_v1_1",
        base_e=8,
        incr_e=8,
        conv1_filters=8,
        num_fire=2,
        pool_after=("conv1",),
    )
    _, params, stats = split_model(build_model(model, 10))
    preprocessing = Preprocessing(32, 32, "squash", "rgb", (77.8,) * 3, (95.9,) * 3)
    folder = tmp_path_factory.mktemp("net") / "net"
    save_network(
        Network(model, tuple(str(label) for label in range(10)), preprocessing, params, stats),
        folder,
    )
    return folder


def test_images_to_calibrate_on_are_refused_where_nothing_is_calibrated(run, checkpoint, tmp_path):
    for command in (
        ("export", checkpoint, "--format", "safetensors", "-o", tmp_path / "net.safetensors"),
        ("compress", checkpoint, "-o", tmp_path / "net.sqz"),
        ("serve-demo", checkpoint, "-o", tmp_path / "page"),
    ):
        code, _, err = run(*command, "--calibration-images", 7)
        assert (code, err) == (
            2,
            "error: --calibration-images has no effect here: nothing is calibrated\n",
        )
    assert not list(tmp_path.iterdir())


def test_a_net_without_finite_outputs_predicts_nothing(run, checkpoint, picture, tmp_path):
    network = load_network(checkpoint)
    params = jax.tree.map(lambda leaf: leaf * np.nan, network.params)
    save_network(dataclasses.replace(network, params=params), tmp_path / "net")
    code, out, err = run("predict", tmp_path / "net", picture)
    assert (code, out) == (2, "") and "outputs are not finite" in err


@pytest.fixture(scope="session")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)).save(path)
    return path


@pytest.mark.slow
def test_evaluate_as_text_and_json(run, checkpoint):
    code, out, _ = run("evaluate", checkpoint, "--data", "digits", "--format", "json")
    record = json.loads(out)
    assert code == 0 and record["images"] == 360 and 0 <= record["top1"] <= record["top5"] <= 100
    worst = min(record["classes"], key=lambda each: each["top1"])
    commonest = max(count for label, answer, count in record["confusion"] if label != answer)
    _, out, _ = run("evaluate", checkpoint, "--data", "digits")
    first, _, head, _, row, *_, last = out.splitlines()
    right = scipy.stats.binomtest(round(3.6 * record["top1"]), 360)
    low, high = right.proportion_ci(method="wilson")
    assert first == (
        f"digits/eval: 360 images, top-1 {record['top1']:.2f} % (95 % interval {100 * low:.1f} to "
        f"{100 * high:.1f}), top-5 {record['top5']:.2f} %, "
        f"expected calibration error {record['calibration_error']:.2f} %"
    )
    assert head.split("  ")[0] == "Class" and f"{worst['top1']:.1f}" in row.split()
    assert last.startswith("commonest confusions: ") and f"({commonest})" in last


def test_predict_as_text_and_json(run, checkpoint, picture):
    code, out, _ = run("predict", checkpoint, picture, "--format", "json")
    [record] = json.loads(out)
    assert code == 0 and record["image"] == str(picture) and len(record["predictions"]) == 5
    probabilities = [prediction["probability"] for prediction in record["predictions"]]
    assert probabilities == sorted(probabilities, reverse=True) and sum(probabilities) <= 1 + 1e-6
    assert record["predictions"][0]["class"] == str(record["predictions"][0]["label"])
    _, out, _ = run("predict", checkpoint, picture)
    assert out.splitlines()[1] == f"  {probabilities[0]:6.1%}  {record['predictions'][0]['class']}"


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "stablehlo"])
def test_an_exported_file_is_used_like_a_checkpoint(run, checkpoint, picture, tmp_path, format):
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    file = tmp_path / f"net.{format}"
    assert run("export", checkpoint, "--format", format, "-o", file)[0] == 0
    assert run("predict", file, picture) == run("predict", checkpoint, picture)
    found, expected = (
        json.loads(run("evaluate", net, "--data", "digits", "--format", "json")[1])
        for net in (file, checkpoint)
    )
    for key in ("classes", "confusion"):
        assert found.pop(key) == expected.pop(key)
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-3)


@pytest.mark.parametrize("coder", ["arithmetic", "huffman"])
def test_a_sqz_file_is_used_like_a_checkpoint(run, checkpoint, picture, tmp_path, coder):
    file = tmp_path / "net.sqz"
    code, out, _ = run("compress", checkpoint, "-o", file, "--coder", coder)
    assert code == 0 and f"{file.stat().st_size:,} bytes" in out
    assert run("predict", file, picture) == run("predict", checkpoint, picture)
    assert run("decompress", file, "-o", tmp_path / "again")[0] == 0
    assert run("predict", tmp_path / "again", picture) == run("predict", checkpoint, picture)


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [("--target-bytes", 900), ("--max-loss", 1e-8), ("--bits", 6), ("--bits", 6, "--base", "NET")],
)
def test_compress_does_what_it_says(run, checkpoint, tmp_path, how):
    file, how = (
        tmp_path / "net.sqz",
        [checkpoint if argument == "NET" else argument for argument in how],
    )
    code, out, err = run(
        "compress", checkpoint, "-o", file, *how, "--data", "digits", "--calibration-images", 8
    )
    found = re.fullmatch(
        r".*: ([\d,]+) bytes, ([\d.]+) bits a weight, outputs diverge by (.+) nats "
        r"from the net's own on 8 images that .*\n",
        out,
    )
    size, nats = file.stat().st_size, float(found[3])
    assert code == 0 and int(found[1].replace(",", "")) == size
    assert ("tried: " in err) == ("--bits" not in how)
    if "--target-bytes" in how:
        assert 800 < size <= 900
    if "--max-loss" in how:
        assert 1e-9 < nats <= 1e-8
    if "--base" in how:  # nothing differs
        assert size < 1000 and nats < 1e-15


def test_a_weight_file_leaves_and_comes_back(run, checkpoint, picture, tmp_path):
    """export --format safetensors, import, and the same prediction."""
    assert (
        run("export", checkpoint, "--format", "safetensors", "-o", tmp_path / "net.safetensors")[0]
        == 0
    )
    code, out, _ = run("import", tmp_path / "net.safetensors", "-o", tmp_path / "again")
    assert code == 0 and "squeezenet_v1_1, 10 classes" in out
    assert run("predict", tmp_path / "again", picture)[1] == run("predict", checkpoint, picture)[1]


@pytest.mark.parametrize(
    ("precision", "least"), [("float32", 0), ("float16", 1e-6), ("int8", 1e-4)]
)
def test_onnx_says_how_near_it_comes(run, checkpoint, tmp_path, precision, least):
    pytest.importorskip("onnxruntime")
    arguments = ("--data", "digits", "--calibration-images", 20) if precision == "int8" else ()
    code, out, _ = run(
        "export",
        checkpoint,
        "--format",
        "onnx",
        "--precision",
        precision,
        "-o",
        tmp_path / "net.onnx",
        *arguments,
    )
    pattern = r".*/net\.onnx: ([\d,]+) bytes, logits within (\S+) of the net's(.*)\n"
    found = re.fullmatch(pattern, out)
    assert code == 0 and int(found[1].replace(",", "")) == (tmp_path / "net.onnx").stat().st_size
    assert least <= float(found[2]) <= TOLERANCES[precision]
    assert bool(found[3]) == (precision == "int8")


def test_int8_is_calibrated_on_images_of_any_classes(run, checkpoint, tmp_path):
    for label in ("cat", "dog"):
        (tmp_path / "images" / label).mkdir(parents=True)
        pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
        for index, image in enumerate(pixels):
            Image.fromarray(image).save(tmp_path / "images" / label / f"{index}.png")
    command = ("export", checkpoint, "--format", "onnx", "--precision", "int8")
    data = ("--data", "folder", "--data-dir", tmp_path / "images", "-o", tmp_path / "net.onnx")
    code, out, err = run(*command, *data)
    assert (code, err) == (0, "") and "net.onnx" in out


@pytest.mark.parametrize("format", ["onnx", "safetensors"])
def test_a_net_whose_logits_are_all_zero_is_exported(run, checkpoint, tmp_path, format):
    net = load_network(checkpoint)
    params = jax.tree.map(np.zeros_like, net.params)
    save_network(dataclasses.replace(net, params=params), tmp_path / "zero")
    code, out, err = run(
        "export", tmp_path / "zero", "--format", format, "-o", tmp_path / f"net.{format}"
    )
    assert (code, err) == (0, "") and "logits within 0.0e+00" in out


def test_what_a_weight_file_does_not_tell_is_set_by_flags(run, tmp_path):
    model = {"name": "squeezenet_v1_1"}
    _, params, stats = split_model(build_model(model, 3))
    preprocessing = Preprocessing(32, 32, "squash", "rgb", (0.0,) * 3, (1.0,) * 3)
    net = Network(model, tuple("abc"), preprocessing, jax.device_get(params), stats)
    safetensors.numpy.save_file(state_dict(net, "torchvision"), tmp_path / "net.safetensors")
    (tmp_path / "names.txt").write_text("one cat\ntwo\nthrée\n", encoding="utf-8")
    command = ("import", tmp_path / "net.safetensors", "-o")
    code, out, _ = run(*command, tmp_path / "assumed")
    line = out.splitlines()[1]
    assert code == 0 and line.startswith("assumed, as the file does not tell: --image-size 224")
    flags = [
        "--image-size",
        "32",
        "--resize",
        "36",
        "--channel-order",
        "bgr",
        "--mean",
        "104,117,123",
        "--std",
        "2",
    ]
    names = ("--class-names", tmp_path / "names.txt", "--num-classes", 3, "--resize-mode", "squash")
    code, out, _ = run(*command, tmp_path / "told", *flags, *names)
    assert code == 0 and len(out.splitlines()) == 1
    found = load_network(tmp_path / "told")
    assert found.class_names == ("one cat", "two", "thrée")
    expected = Preprocessing(32, 36, "squash", "bgr", (104.0, 117.0, 123.0), (2.0,) * 3)
    assert found.preprocessing == expected
    # What is printed can be given.
    printed = line.split(": ")[1].split(", class")[0].split()
    assert run(*command, tmp_path / "again", *printed)[0] == 0
    assert load_network(tmp_path / "again").preprocessing == imagenet.TORCH


def test_an_export_that_deviates_is_refused(run, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(TOLERANCES, "float32", -1.0)
    code, _, err = run(
        "export", checkpoint, "--format", "stablehlo", "-o", tmp_path / "net.stablehlo"
    )
    assert (
        code == 2 and "deviates from the net" in err and not (tmp_path / "net.stablehlo").exists()
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("evaluate", "NET"), "which data"),
        (("evaluate", "NET", "--data", "digits", "--split", "val"), "train and test, not 'val'"),
        (
            ("evaluate", "NET", "--data", "digits", "--batch-size", 0),
            "--batch-size is 1 to 1,048,576",
        ),
        (("evaluate", "/nowhere", "--data", "digits"), "/nowhere: no such file or folder"),
        (
            ("predict", __file__, __file__),
            "test_commands.py is neither a checkpoint's folder nor .onnx",
        ),
        (("predict", "NET", "/nowhere.png"), "cannot read image /nowhere.png"),
        (("predict", "/nowhere.sqz", "/nowhere.png"), "/nowhere.sqz: no such file"),
        (("predict", "cifar10-48", "x.png"), "nor a bundled network; did you mean cifar10-48k?"),
        (("predict", __file__, "x.png"), "is neither a checkpoint"),
        (("predict", "NET", "x.png", "--top", 0), "--top is at least 1; got 0"),
        (("decompress", __file__, "-o", "x"), "test_commands.py: not a .sqz file"),
        (
            ("compress", "NET", "-o", "x.sqz", "--target-bytes", 1000),
            "which data? Give --data NAME",
        ),
        (("compress", "NET", "-o", "x.sqz", "--max-loss", 0), "--max-loss is above 0; got 0"),
        (("compress", "NET", "-o", "x.sqz", "--max-loss", "inf"), "--max-loss is above 0; got inf"),
        (("compress", "NET", "-o", "x.sqz", "--max-loss", "nan"), "--max-loss is above 0; got nan"),
        (("compress", "NET", "-o", "x.sqz", "--bits", 0), "--bits is 2 to 16; got 0"),
        (("compress", "NET", "-o", "x.sqz", "--bits", 17), "--bits is 2 to 16; got 17"),
        (("compress", "NET", "-o", "x.sqz", "--target-bytes", 0), "--target-bytes is at least 1"),
        (("compress", "NET", "-o", "x.bin"), "--output ends in .sqz, by which it is opened again"),
        (("export", "NET", "--format", "onnx", "-o", "x.tflite"), "--output ends in .onnx"),
        (("export", "NET", "--format", "pth", "-o", "x.onnx"), "--output ends in .pth or .pt"),
        (("export", "NET", "--format", "onnx", "-o", "x"), "--output ends in .onnx"),
        (("sensitivity", "NET", "--data", "digits", "--max-drop", "nan"), "is 0 to 100; got nan"),
        (
            ("import", __file__, "-o", "x", "--class-names", "/nowhere.txt"),
            "/nowhere.txt: No such file",
        ),
        (("import", __file__, "-o", "x", "--image-size", 0), "--image-size is 1 to 4,096; got 0"),
        (
            ("sensitivity", "NET", "--data", "digits", "--fractions", "nan"),
            "--fractions are numbers",
        ),
        (
            ("evaluate", "NET", "--data", "digits", "--batch-size", 10**12),
            "1 to 1,048,576; got 1000",
        ),
        (("serve-demo", "NET", "--port", 70000), "--port is 0 to 65,535; got 70000"),
        (("summary", "squeezenet_v1_1", "--input-size", 0), "--input-size is 1 to 4,096; got 0"),
        (("summary", "squeezenet_v1_1", "--set", "dropout=1.5"), "model.dropout is at least 0 and"),
        (
            ("summary", "squeezenet_v1_1", "--set", "base_e=abc"),
            "model.base_e is an int; got 'abc'",
        ),
        (("summary", "squeezenext_23", "--set", "width=1e999"), "at most 64; got inf"),
        (("hardware", "squeezenet_v1_0", "--buffer-kb", "nan"), "nan KB"),
        (("import", "/nowhere.pth", "-o", "x"), "no such file"),
        (
            ("export", "NET", "--format", "onnx", "--batch", 0, "-o", "x.onnx"),
            "--batch is 1 to 1,024; got 0",
        ),
        (
            ("export", "NET", "--format", "stablehlo", "--opset", 17, "-o", "x.stablehlo"),
            "--format stablehlo has no opset",
        ),
        (
            ("export", "NET", "--format", "onnx", "--precision", "int8", "-o", "x.onnx"),
            "which data",
        ),
        (("serve-demo", "NET", "--runtime", "/nowhere", "-o", "x"), "/nowhere"),
        (("firmware", ".", "--flash", "8K", "--ram", "9K", "-o", "x"), "8,192 bytes of flash"),
        (("firmware", ".", "--flash", "9K", "--ram", "1K", "-o", "x"), "1,024 of RAM"),
        (("firmware", ".", "--flash", "9K", "--ram", "9K", "--epochs", 0, "-o", "x"), "above 0"),
        (
            ("compress", "NET", "-o", "x.sqz", "--data", "digits"),
            "a lossless file is not calibrated",
        ),
        (
            ("compress", "NET", "-o", "x.sqz", "--bits", 4, "--data-dir", "/nowhere"),
            "which data are in /nowhere?",
        ),
        (
            ("export", "NET", "--format", "onnx", "-o", "x.onnx", "--data", "digits"),
            "float32 and float16 are not calibrated",
        ),
        (("serve-demo", "NET", "--split", "test", "-o", "x"), "name the data"),
        (("summary", "squeezenet_v1_0", "--set", "name=vgg16"), "has no option name"),
        (("summary", "squeezenet_v1_0", "--set", "rngs=1"), "has no option rngs"),
        (("summary", "mobilenet_v1", "--set", "width=0.01"), "width 0.01 leaves no channel"),
        (("summary", "--list", "--format", "json"), "--list and --bundled are text"),
    ],
)
def test_errors_with_trained_nets_are_one_line(run, checkpoint, arguments, words):
    code, out, err = run(*(checkpoint if argument == "NET" else argument for argument in arguments))
    assert code == 2 and out == "" and err.count("\n") == 1 and words in err


@pytest.mark.parametrize("command", ["summary", "hardware"])
@pytest.mark.parametrize("content", ['{"architectures": ["ViT"]}', '{"model": {"na'])
def test_a_folder_of_another_library_is_one_line(run, tmp_path, command, content):
    (tmp_path / "config.json").write_text(content)
    code, out, err = run(command, tmp_path)
    assert code == 2 and out == "" and err.count("\n") == 1
    assert "config.json is damaged, or no trial's" in err
