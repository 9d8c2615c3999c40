"""Files are written whole or not at all."""

import fcntl
import os
import subprocess
import sys

import pytest

from squeeze_jax.errors import UserError
from squeeze_jax.files import new_folder, write_atomically


def test_a_write_leaves_no_trace(tmp_path):
    write_atomically(tmp_path / "deep/a.json", "1")
    write_atomically(tmp_path / "deep/a.json", b"2")
    assert [(path.name, path.read_text()) for path in (tmp_path / "deep").iterdir()] == [
        ("a.json", "2")
    ]


def test_a_failed_write_leaves_nothing(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        write_atomically(tmp_path / "folder", "1")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_new_folder_is_whole_or_not_there(tmp_path):
    with new_folder(tmp_path / "deep/net") as folder:
        (folder / "config.json").write_text("{}")
    assert (tmp_path / "deep/net/config.json").read_text() == "{}"
    with pytest.raises(KeyError), new_folder(tmp_path / "deep/other") as folder:
        (folder / "config.json").write_text("{}")
        raise KeyError
    with pytest.raises(UserError, match="exists already"), new_folder(tmp_path / "deep/net"):
        pass
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["net"]


def test_what_killed_processes_left_is_removed(tmp_path):
    """Of the same path alone, and not of a process that still writes, here or elsewhere."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f".net.squeeze_jax-{dead.pid}").mkdir()
    (tmp_path / f".net.squeeze_jax-{dead.pid}/config.json").touch()
    zombie = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody was told
    (tmp_path / f".net.squeeze_jax-{zombie.pid}").touch()
    (tmp_path / f".net.squeeze_jax-{os.getppid()}").touch()
    (tmp_path / f".net.{dead.pid}").touch()  # the user's own
    (tmp_path / f".other.squeeze_jax-{dead.pid}").touch()
    with (tmp_path / f".net.squeeze_jax-{dead.pid}0").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        write_atomically(tmp_path / "net", "1")
        left = {path.name for path in tmp_path.iterdir()}
    zombie.wait()
    assert left == {
        f".net.{dead.pid}",
        *(
            "net",
            f".net.squeeze_jax-{os.getppid()}",
            f".other.squeeze_jax-{dead.pid}",
            f".net.squeeze_jax-{dead.pid}0",
        ),
    }
