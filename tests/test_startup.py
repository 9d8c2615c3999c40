"""The first second of a command, and what earlier runs of it keep."""

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from squeeze_jax import startup, zoo
from squeeze_jax.cli import launch
from squeeze_jax.errors import UserError
from squeeze_jax.train.decoded_weights import decode_once
from squeeze_jax.train.weights import load_sqz_file

ROOT = Path(__file__).parents[1]


def test_a_terminal_shows_something_before_jax_is_there():
    terminal, stderr = pty.openpty()
    command = [sys.executable, "-m", "squeeze_jax", "summary", "squeezenet_v1_1"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr)
    os.close(stderr)
    assert os.read(terminal, 1000).strip() == b"squeeze-jax summary: loading JAX ..."
    assert process.poll() is None  # it has said so before its result
    output, _ = process.communicate()
    assert process.returncode == 0 and b"conv10" in output


def test_a_quick_command_says_nothing_but_its_result(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(startup, "_PATIENCE", 0.05)
    with startup.announced("data"):
        pass
    time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_programs_are_not_kept_where_nothing_can_be_written(monkeypatch, tmp_path):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(startup, "CACHE", tmp_path / "file" / "cache")
    startup.keep_programs()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


def test_a_cache_that_cannot_be_asked_for_is_none(monkeypatch, tmp_path):
    """As a folder that may not be entered, which a test that runs as root cannot make."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "restored by pytest")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setattr(startup, "CACHE", tmp_path / ("too long" * 100) / "cache")
    startup.keep_programs()


def test_studies_keep_programs_where_other_commands_do(monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/elsewhere")
    assert launch._define_flags([])["compilation_cache"].default == "/elsewhere"
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    assert launch._define_flags([])["compilation_cache"].default == str(startup.CACHE)


def test_weights_are_decoded_once(request, compilation_cache, tmp_path):
    """The kept ones are those of the file, bit for bit; damaged ones are decoded again."""
    request.addfinalizer(
        lambda: jax.config.update("jax_compilation_cache_dir", str(compilation_cache))
    )
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    path = zoo.FOLDER / "cifar10-48k.sqz"
    first = load_sqz_file(path)
    [kept] = (tmp_path / "decoded").glob("*.npz")

    def unexpected():
        raise UserError("decoded twice")

    again = decode_once(path.read_bytes(), unexpected)
    assert again.metadata() == first.metadata()
    for tree in ("params", "stats"):
        jax.tree.map(np.testing.assert_array_equal, getattr(again, tree), getattr(first, tree))
    content = bytearray(kept.read_bytes())
    content[len(content) // 2] ^= 1
    kept.write_bytes(content)
    with pytest.raises(UserError, match="decoded twice"):
        decode_once(path.read_bytes(), unexpected)
