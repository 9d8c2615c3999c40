"""A study in a bucket: killed, resumed and shared as on a disk, and equal to one on a disk."""

import contextlib
import signal
import subprocess
from pathlib import Path

import pytest

from squeeze_jax import cli, storage
from squeeze_jax.study import Workdir
from squeeze_jax.train.checkpoint import Checkpoints
from tests.gcs import bucket  # noqa: F401
from tests.launching import NET, communicated, completed, finished_lines, launch
from tests.test_resume import SEEDS, assert_same, checkpoint_step, start, stop_when

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Sharding info not provided"),
]

FLAGS = (
    *(f"--config.{setting}" for setting in (*NET, "model.dropout=0.3", "seeds=2")),
    *(
        f"--config.train.{setting}"
        for setting in ("steps=60", "batch_size=16", "log_every=7", "eval_every=30")
    ),
    "--config.train.checkpoint_every=10",
    "--config.compress.coders=('huffman',)",
)


def downloaded(workdir: str, to: Path) -> Path:
    """A copy on the disk of a folder in the bucket."""
    path = storage.as_path(workdir)
    storage._file_system(path).get(f"{workdir}/", f"{to}/", recursive=True)
    return to


def _finished(stderr: str) -> list[str]:
    """The trials that ended; TensorStore complains on stderr that the server needs no password."""
    lines = finished_lines(subprocess.CompletedProcess([], 0, "", stderr))
    return [name for name in lines if name in SEEDS]


@pytest.fixture(scope="module")
def untouched(tmp_path_factory, cache) -> Path:
    """A run on the disk that nobody disturbed."""
    workdir = tmp_path_factory.mktemp("untouched")
    completed("configs/squeezenet.py", cache, *FLAGS, f"--workdir={workdir}")
    return workdir


def test_a_folder_of_checkpoints_outlasts_what_a_kill_left_in_it(bucket):  # noqa: F811
    """Orbax removes it in the background, and lists the folder again."""
    directory = storage.as_path(f"{bucket}/run/checkpoints")
    (directory / "5.orbax-checkpoint-tmp" / "half").write_bytes(b"written")
    with Checkpoints(directory) as checkpoints:
        assert checkpoints.latest_step is None
        for path in directory.glob("*.orbax-checkpoint-tmp"):
            with contextlib.suppress(FileNotFoundError):  # it came first
                path.rmtree()
        assert checkpoints.latest_step is None and directory.is_dir() and list(directory.iterdir())


def test_killed_twice_and_reported(bucket, untouched, tmp_path, cache):  # noqa: F811
    workdir = f"{bucket}/killed"
    flags, (first, second) = (cache, *FLAGS, f"--workdir={workdir}"), SEEDS
    remote = storage.as_path(workdir)
    for name in (first, second):
        code, _ = stop_when(lambda: checkpoint_step(remote, name) >= 10, signal.SIGKILL, *flags)
        assert code == -signal.SIGKILL
        assert Workdir(workdir).status(name) == "pending" and checkpoint_step(remote, name) < 60
    process = completed("configs/squeezenet.py", *flags)
    assert _finished(process.stderr) == [second]
    assert workdir in process.stdout
    assert not list(Path.cwd().glob("gs:*"))
    copy = downloaded(workdir, tmp_path / "copy")
    assert_same(copy, untouched)
    (remote / "report.html").unlink()
    assert cli.main(["report", workdir]) == 0
    assert (remote / "report.html").read_bytes() == (copy / "report.html").read_bytes()


def test_two_launchers_share_the_work(bucket, untouched, tmp_path, cache):  # noqa: F811
    workdir = f"{bucket}/shared"
    processes = [start(cache, *FLAGS, f"--workdir={workdir}") for _ in range(2)]
    outputs = communicated(processes)
    assert [process.returncode for process in processes] == [0, 0], outputs
    finished = [name for _, stderr in outputs for name in _finished(stderr)]
    assert sorted(finished) == sorted(SEEDS)
    assert_same(downloaded(workdir, tmp_path / "copy"), untouched)


def test_a_wrong_bucket_is_told_before_anything(bucket, cache):  # noqa: F811
    process = launch("configs/squeezenet.py", cache, *FLAGS, "--workdir=gs://nobody-has-this/run")
    assert process.returncode == 2
    assert process.stderr == (
        "error: cannot write gs://nobody-has-this/run: there is no bucket gs://nobody-has-this\n"
    )
    assert not Path("gs:").exists()
