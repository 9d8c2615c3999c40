"""A disk that is full: one line that names the file and what to do, and nothing half-written."""

import errno
import re
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from squeeze_jax import cli
from squeeze_jax.files import WriteError, append, find_write_error, write_errors
from squeeze_jax.network import Network, Preprocessing, build_model, split_model
from squeeze_jax.study.workdir import Workdir
from squeeze_jax.train.checkpoint import save_network
from tests.launching import NET

KB = 1024
SPACE = "free some space or write elsewhere"
AGAIN = "free some space and run the same command again to continue"
LAUNCH = (
    *("launch", "squeezenet"),
    *(f"--config.{setting}" for setting in (*NET, "seeds=2", "train.batch_size=16")),
    *(f"--config.train.{setting}" for setting in ("steps=4", "checkpoint_every=2")),
)


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """Makes a folder a disk of `size` bytes.

    Where nothing can be mounted, no file can be longer than that: another error code, but the same
    path through every library.
    """
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], capture_output=True
    )
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        if mounted.returncode:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        if not mounted.returncode:
            subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def last_line(capsys):
    """Runs `squeeze-jax ARGUMENTS`, which must fail; the last line of stderr."""

    def call(*arguments: str | Path) -> str:
        assert cli.main([str(argument) for argument in arguments]) == 2
        err = capsys.readouterr().err
        assert "Traceback" not in err
        return err.splitlines()[-1]

    return call


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def net(tmp_path_factory) -> Path:
    """A checkpoint, and the same net as net.sqz and net.safetensors, of more than 8 KB each."""
    folder = tmp_path_factory.mktemp("net")
    model = {"name": "squeezenet_v1_1", "num_fire": 2, "pool_after": ("conv1",), "base_e": 32}
    _, params, stats = split_model(build_model(model, 10))
    preprocessing = Preprocessing(32, 32, "squash", "rgb", (77.8,) * 3, (95.9,) * 3)
    classes = tuple(f"digit {label}" for label in range(10))
    save_network(Network(model, classes, preprocessing, params, stats), folder / "net")
    for command, name in (("export", "net.safetensors"), ("compress", "net.sqz")):
        words = ["--format", "safetensors"] if command == "export" else []
        assert not cli.main([command, str(folder / "net"), *words, "-o", str(folder / name)])
        assert (folder / name).stat().st_size > 8 * KB
    return folder


@pytest.mark.parametrize(
    ("written", "arguments"),
    [
        ("copy", ("import", "net.safetensors", "-o")),
        ("copy", ("decompress", "net.sqz", "-o")),
        ("page", ("serve-demo", "net", "-o")),
        ("new/net.safetensors", ("export", "net", "--format", "safetensors", "-o")),
        ("net.sqz", ("compress", "net", "-o")),
        ("roof.svg", ("hardware", "squeezenet_v1_0", "--roofline")),
    ],
)
def test_commands_leave_nothing(last_line, net, tmp_path, written, arguments):
    disk = tmp_path / "disk"
    words = [net / word if (net / word).exists() else word for word in arguments]
    with small_disk(disk, 4 * KB):
        line = last_line(*words, disk / written)
        assert not files(disk)
    # Where no tmpfs can be mounted, the file that an export is checked with meets the limit first.
    assert re.match(f"error: cannot write ({disk}/{written}|/.*/network.safetensors): ", line)
    assert line.endswith(SPACE)


@pytest.mark.slow
def test_a_study_stops_and_has_no_failed_trial(last_line, cache, tmp_path, monkeypatch):
    """At a small file; at a checkpoint, where others took the space meanwhile; at the report."""
    monkeypatch.setattr(Workdir, "free_bytes", lambda self: 10**9)
    work = tmp_path / "disk/work"
    with small_disk(tmp_path / "disk", KB):  # a tmpfs takes one page
        line = last_line(*LAUNCH, cache, f"--workdir={work}")
        assert re.match(f"error: cannot write {work}/(study.json|sweep.csv): .*; {AGAIN}$", line)
        assert files(work) in ([], ["study.json"])
    shutil.rmtree(tmp_path / "disk")
    with small_disk(tmp_path / "disk", 24 * KB):
        line = last_line(*LAUNCH, "--config.model.base_e=64", cache, f"--workdir={work}")
        # The checkpoint is written in the background, and leaves nothing for the log either.
        assert re.match(
            f"error: cannot write {work}/trials/seed=0/(checkpoints|metrics.jsonl): .*; {AGAIN}$",
            line,
        )
        assert Workdir(work).counts() == {"pending": 2}
        assert not files(work / "trials/seed=0/checkpoints")
        line = last_line("report", work)
        assert re.match(
            f"error: cannot write {work}/(sweep.png|sweep.svg|report.html): .*; {SPACE}$", line
        )
        assert not [path for path in files(work) if "/." in f"/{path}"]


def test_a_study_that_cannot_fit_is_refused(tmp_path, monkeypatch, cache, capsys):
    monkeypatch.setattr(Workdir, "free_bytes", lambda self: 0)
    work = tmp_path / "work"
    assert cli.main([*LAUNCH, cache, f"--workdir={work}"]) == 2
    assert "kB for checkpoints, and its disk has 0 kB left" in capsys.readouterr().err
    assert not work.exists()


def test_a_file_that_takes_nothing_is_named():
    with pytest.raises(WriteError, match="No space left on device: '/dev/full'"):
        append(Path("/dev/full"), "a line")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_what_libraries_raise(tmp_path, code):
    """TensorStore's words, in a group, as the cause of another exception."""
    words = f"RESOURCE_EXHAUSTED: Failed writing: \"d/c0\": Failed [os_error_code='{code}']"
    with pytest.raises(WriteError) as caught, write_errors(tmp_path):
        try:
            raise ExceptionGroup("saving", [KeyError("x"), ValueError(words)])
        except ExceptionGroup as group:
            raise RuntimeError("the checkpoint was not saved") from group
    assert (caught.value.errno, caught.value.filename) == (code, str(tmp_path))
    assert find_write_error(RuntimeError("no")) is None
    with pytest.raises(ValueError, match="other"), write_errors(tmp_path):
        raise ValueError("other [os_error_code='2']")


@pytest.mark.parametrize(
    ("command", "name"), [("export", "net.safetensors"), ("compress", "net.sqz")]
)
def test_a_folder_is_no_file(net, tmp_path, capsys, command, name):
    words = ["--format", "safetensors"] if command == "export" else []
    folder = tmp_path / name
    folder.mkdir()
    assert cli.main([command, str(net / "net"), *words, "-o", str(folder)]) == 2
    assert capsys.readouterr().err == f"error: cannot write {folder}: it is a folder; name a file\n"


@pytest.mark.parametrize("length", [254, 300])  # the first is long with a temporary file's suffix
def test_a_name_that_is_too_long(net, tmp_path, capsys, length):
    output = str(tmp_path / ("a" * (length - 4) + ".sqz"))
    assert cli.main(["compress", str(net / "net"), "-o", output]) == 2
    error = capsys.readouterr().err
    assert "File name too long" in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_no_workdir(tmp_path, capsys):
    (tmp_path / "notes").touch()
    for workdir in (tmp_path / "notes", tmp_path / "notes/study"):
        assert cli.main([*LAUNCH, f"--workdir={workdir}"]) == 2
        assert capsys.readouterr().err == (
            f"error: cannot write {workdir}/study.json: {tmp_path}/notes is no folder\n"
        )
