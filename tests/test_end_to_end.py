"""launch.py and squeeze-jax as processes.

What a study leaves behind, and what each mistake is told.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.launching import (
    DEADLINE,
    ROOT,
    TINY,
    completed,
    environment,
    finished_lines,
    launch,
    rows,
)


@pytest.fixture
def study(tmp_path):
    """Writes a config file with the points of a sweep; returns its path."""

    def write(*points: dict, name: str = "study.py") -> str:
        path = tmp_path / name
        path.write_text(
            "from squeeze_jax.configs import base\n\n\n"
            "def get_config(preset='digits'):\n    return base.get_config(preset, 'tiny')\n\n\n"
            f"def sweep(config):\n    yield from {list(points)!r}\n"
        )
        return str(path)

    return write


@pytest.fixture
def images(tmp_path):
    """Writes a folder of two classes of small noise images; returns it."""
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(12):
            pixels = random.integers(0, 256, (20, 24, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    return tmp_path / "images"


# ---------------------------------------------------------------- what a study leaves behind


@pytest.fixture(scope="module")
def sweep(tmp_path_factory, cache):
    """The squeeze-ratio study, run once: (its workdir, its flags, the process)."""
    workdir = tmp_path_factory.mktemp("sweep") / "runs" / "sr"
    flags = (cache, *TINY, "--config.seeds=1", f"--workdir={workdir}")
    return workdir, flags, completed("configs/sr_sweep.py", *flags)


@pytest.mark.slow
def test_sweep_leaves_table_figure_and_report(sweep):
    """One row a trial, with its costs and its numbers; one line a trial while it runs."""
    workdir, _, process = sweep
    table = rows(workdir)
    columns = [
        "trial",
        "squeeze_ratio",
        "seed",
        "status",
        "params",
        "macs",
        "model_mb",
        "top1",
        "top5",
        "seconds",
        "images_per_second",
    ]
    assert set(columns) <= table[0].keys()
    assert [row["squeeze_ratio"] for row in table] == ["0.125", "0.25", "0.5", "0.75", "1.0"]
    for row in table:
        assert row["status"] in ("ok", "chance")
        assert 0 <= float(row["top1"]) <= float(row["top5"]) <= 100
        assert float(row["seconds"]) > 0 and float(row["images_per_second"]) > 0
    sizes = [[float(row[column]) for row in table] for column in ("params", "macs", "model_mb")]
    assert all(size == sorted(set(size)) for size in sizes)  # each grows with the squeeze ratio
    assert finished_lines(process) == [row["trial"] for row in table]
    head, _, *points, last = process.stdout.splitlines()
    assert head.split() == ["Design", "Top-1", "(%)", "Seeds", "Parameters"] and len(points) == 5
    assert str(workdir) in last


@pytest.mark.slow
def test_sweep_leaves_readable_pictures(sweep):
    """The figure as PNG and SVG, and the report as one HTML file."""
    workdir, _, _ = sweep
    with Image.open(workdir / "sweep.png") as picture:
        picture.load()
        assert min(picture.size) > 100
    assert "<svg" in (workdir / "sweep.svg").read_text()
    assert "squeeze_ratio=0.125,seed=0" in (workdir / "report.html").read_text()


@pytest.mark.slow
def test_second_launch_trains_nothing(sweep):
    """All trials are skipped and their files are left alone."""
    workdir, flags, _ = sweep
    before = {path: path.stat().st_mtime_ns for path in (workdir / "trials").rglob("*.json*")}
    table = (workdir / "sweep.csv").read_text()
    process = completed("configs/sr_sweep.py", *flags)
    assert process.stderr == f"0 of 5 trials to train in {workdir}\n"
    assert (workdir / "sweep.csv").read_text() == table
    assert {
        path: path.stat().st_mtime_ns for path in (workdir / "trials").rglob("*.json*")
    } == before


@pytest.mark.slow
def test_changed_config_is_told(sweep):
    """An old workdir is not mixed with trials of another config.

    The message names key, old and new value.
    """
    _, flags, _ = sweep
    message = error("configs/sr_sweep.py", *flags, "--config.train.momentum=0.5")
    assert "train.momentum was 0.9, is 0.5" in message


@pytest.mark.slow
def test_report_of_a_partial_sweep(sweep):
    """`squeeze-jax report` draws again what is there; a trial without a result is pending."""
    workdir, _, _ = sweep
    result = workdir / "trials" / "squeeze_ratio=0.5,seed=0" / "result.json"
    kept = result.read_text()
    result.unlink()
    for name in ("sweep.csv", "sweep.png", "sweep.svg", "report.html"):
        (workdir / name).unlink()
    try:
        process = report(workdir)
        assert process.returncode == 0, process.stderr
        written = process.stdout.partition("\n\n")[0].splitlines()  # the verdict follows
        assert {Path(line).name for line in written} == {
            "sweep.csv",
            "sweep.png",
            "sweep.svg",
            "report.html",
        }
        assert all(Path(line).stat().st_size for line in written)
        assert [row["status"] == "pending" for row in rows(workdir)] == [
            False,
            False,
            True,
            False,
            False,
        ]
    finally:
        result.write_text(kept)


def report(workdir: Path) -> subprocess.CompletedProcess:
    """Runs `squeeze-jax report`."""
    script = [
        sys.executable,
        "-c",
        "import sys; from squeeze_jax.cli import main; sys.exit(main())",
        "report",
        str(workdir),
    ]
    return subprocess.run(
        script, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=DEADLINE
    )


@pytest.mark.slow
def test_report_of_no_sweep(tmp_path):
    """One line says that the folder is no workdir."""
    process = report(tmp_path)
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr == f"error: {tmp_path} is not a sweep's workdir: it has no study.json\n"


@pytest.mark.slow
def test_folder_accumulation_and_bfloat16(images, tmp_path, cache):
    """Own images, a batch in two parts, computing in bfloat16."""
    flags = (
        "--config.train.grad_accum_steps=2",
        "--config.train.dtype=bfloat16",
        "--config.model.dropout=0.0",
    )
    data = (
        f"--config.data.data_dir={images}",
        "--config.data.resize=36",
        "--config.data.image_size=32",
    )
    workdir = tmp_path / "work"
    completed("configs/squeezenet.py:folder", cache, *TINY, *flags, *data, f"--workdir={workdir}")
    (row,) = rows(workdir)
    assert np.isfinite(float(row["loss"]))
    lines = [
        json.loads(line)
        for line in (workdir / "trials" / row["trial"] / "metrics.jsonl").read_text().splitlines()
    ]
    assert lines[-1]["step"] == 4


@pytest.mark.slow
def test_failed_trials_are_recorded_and_the_others_trained(study, tmp_path, cache):
    """One trial's net doesn't fit its images, another one meets a fault while it runs.

    The third is trained, the exit code is 1.
    """
    workdir = tmp_path / "work"
    config = study(*({"model.conv1_kernel": kernel} for kernel in (3, 33, 5)))
    broken = workdir / "trials" / "conv1_kernel=3" / "checkpoints"
    broken.parent.mkdir(parents=True)
    broken.write_text("a file where a folder belongs")
    flags = (cache, *TINY, f"--workdir={workdir}")
    process = launch(config, *flags)
    assert process.returncode == 1, process.stderr
    first, second, third = rows(workdir)
    assert (first["status"], second["status"], third["status"] in ("ok", "chance")) == (
        "failed",
        "failed",
        True,
    )
    assert "checkpoints" in first["reason"]
    assert "33x33 convolution needs at least that input, got 32x32" in second["reason"]
    assert "Traceback" in (broken.parent / "error.txt").read_text()
    assert finished_lines(process) == ["conv1_kernel=3", "conv1_kernel=33", "conv1_kernel=5"]
    broken.unlink()
    process = launch(config, *flags)
    assert [row["status"] in ("ok", "chance") for row in rows(workdir)] == [True, False, True]
    assert finished_lines(process) == [
        "conv1_kernel=3",
        "conv1_kernel=33",
    ]  # a failed trial is tried again


# ---------------------------------------------------------------- what the user can mend


def error(config: str, *flags: str, code: int = 2) -> str:
    """The message of a launch that must end with one line on stderr, perhaps after its first."""
    process = launch(config, *flags)
    assert process.returncode == code, process.stderr
    lines = [line for line in process.stderr.splitlines() if "trials to train in" not in line]
    assert len(lines) == 1 and lines[0].startswith("error: "), process.stderr
    return lines[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "flags", "told"),
    [
        pytest.param(
            "configs/sr_sweep.py",
            ["--config.trian.steps=4"],
            "the config has no key trian.steps; did you mean train.steps?",
            id="unknown key",
        ),
        pytest.param(
            "configs/sr_sweep.py", ["--config.train.steps=many"], "train.steps", id="wrong type"
        ),
        pytest.param("configs/sr_sweep.py", ["--wrokdir=x"], "wrokdir", id="unknown flag"),
        pytest.param(
            "configs/sr_sweep.py:mnist",
            [],
            "no preset 'mnist'; there are digits, cifar10",
            id="unknown preset",
        ),
        pytest.param(
            "configs/none.py",
            [],
            "there are ablation, alexnet, bypass_sweep",
            id="missing config file",
        ),
        pytest.param(
            "configs/sr_sweep.py",
            ["--config.model.squeeze_ratio=0.5"],
            "model.squeeze_ratio is swept",
            id="swept key",
        ),
        pytest.param(
            "configs/squeezenet.py",
            ["--config.train.batch_size=15"],
            "batch_size 15 cannot be divided over 2 device",
            id="batch",
        ),
        pytest.param(
            "configs/squeezenet.py",
            ["--config.model.name=lenet"],
            "no model 'lenet'",
            id="unknown model",
        ),
    ],
)
def test_wrong_setting_is_one_line(config, flags, told, tmp_path):
    """Settings that cannot be meant, found before anything is written."""
    assert told in error(config, *flags, f"--workdir={tmp_path / 'work'}")
    assert not (tmp_path / "work").exists()


@pytest.mark.slow
def test_missing_data_set_names_the_command(tmp_path):
    """CIFAR-10 that was never fetched."""
    message = error(
        "configs/squeezenet.py:cifar10",
        f"--config.data.data_dir={tmp_path}",
        f"--workdir={tmp_path / 'work'}",
    )
    assert "tfds build cifar10" in message and str(tmp_path) in message


@pytest.mark.slow
def test_corrupt_image_is_named(images, tmp_path):
    """A file that is no image, found while decoding."""
    corrupt = images / "dog" / "3.png"
    corrupt.write_bytes(corrupt.read_bytes()[:60])
    message = error(
        "configs/squeezenet.py:folder",
        f"--config.data.data_dir={images}",
        f"--workdir={tmp_path / 'work'}",
    )
    assert str(corrupt) in message


@pytest.mark.slow
def test_folder_without_classes(tmp_path):
    """The layout that was expected is part of the message."""
    (tmp_path / "images").mkdir()
    message = error(
        "configs/squeezenet.py:folder",
        f"--config.data.data_dir={tmp_path / 'images'}",
        f"--workdir={tmp_path / 'work'}",
    )
    assert "no class folders" in message and "<class>/<image>" in message


@pytest.mark.slow
def test_file_in_the_workdirs_place(tmp_path):
    """A workdir that cannot be made."""
    (tmp_path / "work").write_text("")
    assert str(tmp_path / "work") in error(
        "configs/squeezenet.py", *TINY, f"--workdir={tmp_path / 'work'}"
    )


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB; skipped where mounting is not allowed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk],
            capture_output=True,
            timeout=30,
        )
    except FileNotFoundError:
        pytest.skip("no mount command")
    if mounted.returncode:
        pytest.skip("mounting needs root")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True, timeout=30)


@pytest.mark.slow
@pytest.mark.parametrize("free", [4096, 65536])
def test_full_disk_is_one_line_and_the_same_command_completes(free, small_disk, tmp_path, cache):
    """The checkpoints do not fit, which is said before training; after making room all is there."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(
        bytes(os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize - free)
    )
    flags = (cache, *TINY, f"--workdir={small_disk / 'work'}")
    assert "free some space" in error("configs/squeezenet.py", *flags)
    ballast.unlink()
    completed("configs/squeezenet.py", *flags)
    (row,) = rows(small_disk / "work")
    assert row["status"] in ("ok", "chance")
