"""The squeeze-jax command, in process: what it prints and how it ends."""

import csv
import io
import json
import re

import pytest

from squeeze_jax import cli, models


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
    assert code == 0 and out.splitlines() == list(models.REGISTRY)


def test_summary_as_text_is_table_1(run):
    """The SqueezeNet paper's Table 1, with the fire modules taken apart."""
    code, out, _ = run("summary", "squeezenet_v1_0")
    rows = [line.split() for line in out.splitlines()]
    assert code == 0
    assert ["conv1", "111x111x96", "7x7/2", "14,208", "173,873,952"] in rows
    assert ["max_pool1", "55x55x96", "3x3/2", "0", "0"] in rows
    assert ["fire9/expand3x3", "13x13x256", "3x3/1", "147,712", "24,920,064"] in rows
    assert rows[-1] == ["total", "1,248,424", "832,667,936"]


def test_summary_as_json_and_csv_agree(run):
    _, text, _ = run("summary", "squeezenet_v1_1", "--set", "squeeze_ratio=0.5", "--input-size", 64, "--format", "json")
    record = json.loads(text)
    assert record["params"] == sum(layer["parameters"] for layer in record["layers"])
    assert record["macs"] == sum(layer["macs"] for layer in record["layers"])
    _, text, _ = run("summary", "squeezenet_v1_1", "--set", "squeeze_ratio=0.5", "--input-size", 64, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(row["name"], int(row["macs"])) for row in rows] == [(layer["name"], layer["macs"]) for layer in record["layers"]]
    assert rows[0]["output_shape"] == "1x31x31x64"


def test_summary_of_a_trial(run, tmp_path):
    config = {"model": {"name": "squeezenet_v1_1", "squeeze_ratio": None, "base_e": 64}, "num_classes": 10, "data": {"image_size": 96}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    _, text, _ = run("summary", tmp_path, "--format", "json")
    layers = json.loads(text)["layers"]
    assert layers[0]["input_shape"] == [1, 96, 96, 3] and layers[-1]["output_shape"] == [1, 10]


def test_hardware_as_json_adds_up(run):
    _, text, _ = run("hardware", "squeezenext_23_v5", "--format", "json")
    record = json.loads(text)
    for name in ("cycles", "energy", "dram_bytes", "macs"):
        assert sum(layer[name] for layer in record["layers"]) == pytest.approx(record[name], rel=1e-4)
    assert sum(record["energy_by_level"].values()) == pytest.approx(record["energy"], rel=1e-4)
    assert record["cycles"] == pytest.approx(1.245e6, rel=0.1)  # arXiv 1803.10615, Fig. 8


def test_hardware_takes_other_arrays_and_dataflows(run):
    def cycles(*arguments):
        return json.loads(run("hardware", "squeezenet_v1_1", "--format", "json", *arguments)[1])["cycles"]

    best = cycles("--array", "8x8", "--buffer-kb", "32")
    assert best > cycles()
    assert best <= min(cycles("--array", "8x8", "--buffer-kb", "32", "--dataflow", flow) for flow in ("ws", "os"))


def test_hardware_as_text_and_roofline(run, tmp_path):
    code, out, _ = run("hardware", "squeezenet_v1_0", "--roofline", tmp_path / "roof.svg")
    rows = [line.split() for line in out.splitlines()]
    assert code == 0 and rows[2][:3] == ["conv1", "os", "array"] and rows[-1][0] == "total"
    assert "MACs a byte of DRAM traffic" in (tmp_path / "roof.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("summary",), "which model?"),
        (("summary", "resnet50"), "no model 'resnet50'; there are squeezenet_v1_0"),
        (("summary", "squeezenet_v1_0", "--set", "sr=1"), "no option sr"),
        (("summary", "squeezenet_v1_0", "--set", "bypass"), "OPTION=VALUE"),
        (("summary", "squeezenet_v1_0", "--input-size", "16"), "squeezenet_v1_0 at 16x16: .*use larger images"),
        (("report", "/nonexistent"), "no study.json"),
        (("hardware", "squeezenet_v1_0", "--array", "16"), "'16' is not ROWSxCOLUMNS"),
        (("hardware", "squeezenet_v1_0", "--array", "0x4"), "rows must be positive"),
        (("hardware", "squeezenet_v1_0", "--buffer-kb", "0.01"), "too small"),
        (("hardware", "squeezenet_v1_0", "--roofline", "roof.gif"), ".png and .svg, not 'roof.gif'"),
    ],
)
def test_errors_are_one_line(run, arguments, words):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1 and err.startswith("error: ")
    assert re.search(words, err)
