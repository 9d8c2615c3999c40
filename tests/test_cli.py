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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("summary",), "which model?"),
        (("summary", "resnet50"), "no model 'resnet50'; there are squeezenet_v1_0"),
        (("summary", "squeezenet_v1_0", "--set", "sr=1"), "no option sr"),
        (("summary", "squeezenet_v1_0", "--set", "bypass"), "OPTION=VALUE"),
        (("summary", "squeezenet_v1_0", "--input-size", "16"), "squeezenet_v1_0 at 16x16: .*use larger images"),
        (("report", "/nonexistent"), "no study.json"),
    ],
)
def test_errors_are_one_line(run, arguments, words):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1 and err.startswith("error: ")
    assert re.search(words, err)
