"""The networks that travel with the package."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import squeeze_jax
from squeeze_jax import cli, zoo
from squeeze_jax.train.weights import open_weights

NAME = "cifar10-48k"


@pytest.fixture
def photo(tmp_path):
    """An image file."""
    path = tmp_path / "photo.jpg"
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_each_tells_where_it_comes_from():
    assert NAME in zoo.names()
    for name in zoo.names():
        network = squeeze_jax.load(name).whole()
        assert "% top-1" in network.source and "launch" in network.source
        assert all(place not in network.source for place in ("workdir", "data_dir"))


@pytest.mark.parametrize("name", zoo.names())
def test_the_name_tells_the_size(name):
    size = (zoo.FOLDER / f"{name}.sqz").stat().st_size
    most = 1000 * int(name.rpartition("-")[2].removesuffix("k"))
    assert 0.95 * most <= size <= most


@pytest.mark.slow
def test_a_name_is_used_like_a_file(photo, capsys):
    assert cli.main(["predict", NAME, str(photo), "--format", "json"]) == 0
    best = json.loads(capsys.readouterr().out)[0]["predictions"][0]
    expected = squeeze_jax.load(zoo.FOLDER / f"{NAME}.sqz").predict([photo])[0][0]
    assert (best["class"], best["label"]) == (expected.class_name, expected.label)


@pytest.mark.slow
def test_one_is_decompressed_by_name(tmp_path):
    assert cli.main(["decompress", NAME, "-o", str(tmp_path / "net")]) == 0
    written, bundled = squeeze_jax.load(tmp_path / "net").whole(), squeeze_jax.load(NAME).whole()
    assert jax.tree.all(jax.tree.map(np.array_equal, written.params, bundled.params))


def test_training_starts_from_one():
    weights, by_name = (open_weights(path) for path in (zoo.FOLDER / f"{NAME}.sqz", Path(NAME)))
    np.testing.assert_array_equal(
        by_name.params["conv1"]["kernel"], weights.params["conv1"]["kernel"]
    )


def test_a_file_of_that_name_goes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).mkdir()
    assert zoo.locate(Path(NAME)) == Path(NAME)


def test_they_are_listed(capsys):
    assert cli.main(["summary", "--bundled"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == zoo.names()
