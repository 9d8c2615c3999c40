"""`squeeze-jax firmware`: from a folder of images to C code that classifies them."""

import argparse
import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import squeeze_jax
from squeeze_jax.cli import firmware, main
from squeeze_jax.convert.c_engine import host
from squeeze_jax.errors import UserError


@pytest.fixture
def photos(tmp_path):
    """Two classes that differ in colour."""
    random = np.random.default_rng(0)
    for label, colour in enumerate([(180, 60, 60), (60, 60, 180)]):
        folder = tmp_path / "photos" / f"class{label}"
        folder.mkdir(parents=True)
        for i in range(40):
            pixels = np.clip(random.normal(colour, 40, (40, 48, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "photos"


def test_a_setting_has_a_key_and_a_value():
    assert firmware.parse_setting("widths=(16,32)") == ("widths", "(16,32)")
    for text in ("seeds", "=3"):
        with pytest.raises(argparse.ArgumentTypeError, match="a setting is KEY=VALUE"):
            firmware.parse_setting(text)


def test_bytes_are_counted_in_powers_of_two():
    assert [firmware.parse_bytes(text) for text in ("100", "256K", "1.5MB", "8k")] == [
        100, 256 * 1024, 3 * 2**19, 8192
    ]  # fmt: skip
    with pytest.raises(argparse.ArgumentTypeError, match="like 262144, 256K or 1M; got '5X'"):
        firmware.parse_bytes("5X")


@pytest.mark.parametrize(("sizes", "fits"), [((900,), True), ((1050, 1040), False)])
def test_each_of_the_attempts_is_looked_at(tmp_path, monkeypatch, sizes, fits):
    left = [2000, *[1100] * (firmware.ATTEMPTS - len(sizes)), *sizes]

    class Net:
        def training_sources(self):
            return [], None

        def calibrated_bytes(self, *arguments, **options):
            return bytes(left.pop(0)), 0.0, None

        def compress(self, path, target_bytes):
            return SimpleNamespace(path=path, num_bytes=target_bytes)

    monkeypatch.setattr("squeeze_jax.api.load", lambda path: Net())
    monkeypatch.setattr(firmware, "engine_record", lambda content: {"constant_bytes": len(content)})
    monkeypatch.setattr("squeeze_jax.convert.exporters.save", lambda *arguments: None)
    if fits:
        assert firmware.export_within(Net(), tmp_path, 1000).num_bytes == sizes[-1]
    else:
        with pytest.raises(UserError, match="coded weights of at most 1,000 bytes"):
            firmware.export_within(Net(), tmp_path, 1000)
    assert not left


@pytest.mark.slow
@pytest.mark.skipif(host.find_compiler() is None, reason="there is no C compiler")
def test_the_project_fits_and_a_second_budget_trains_nothing_again(photos, tmp_path, capsys):
    """With coded weights where a byte a weight is too much; both keep the accuracy."""
    output = tmp_path / "out"
    command = ["firmware", str(photos), "-o", str(output), "--search-epochs=4", "--epochs=6"]
    command += ["--config.train.min_steps=0", "--config.image_sizes=(32,)", "--config.widths=(8,)"]
    for flash, coded in ((64, False), (13, True)):
        assert main([*command, f"--flash={flash}K", "--ram=32K"]) == 0
        out, err = capsys.readouterr()
        engine = json.loads((output / "firmware" / "net.json").read_text())["engine"]
        assert engine["constant_bytes"] + firmware.CODE_BYTES <= flash * 1024
        assert engine["ram_bytes"] + firmware.STACK_BYTES <= 32 * 1024
        assert (output / "net.sqz").exists() == coded
        after, before = re.search(r"C code ([\d.]+) %, of the float net ([\d.]+) %", out).groups()
        assert float(after) >= 90 and abs(float(after) - float(before)) <= 10
        assert ("images/s" in err) != coded
        assert main([*command, f"--flash={flash}K", "--ram=32K"]) == 2
        assert "firmware exists already; move it away" in capsys.readouterr().err
        shutil.rmtree(output / "firmware")
    (workdir,) = (output / "training").iterdir()
    assert squeeze_jax.read_study(workdir)[0]["engine_ram_bytes"] == engine["ram_bytes"]
