"""Several processes on one study: what each gets, what they say, and how they end."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from squeeze_jax.errors import UserError
from squeeze_jax.study.executors import jobs
from squeeze_jax.study.tpu_chips import chip_environment
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

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
several = pytest.mark.skipif(CORES < 2, reason="one core")


@pytest.fixture
def devices(monkeypatch):
    """Makes this machine one with other devices."""

    def have(cores, backend, count):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
        monkeypatch.setattr(
            subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=f"{backend} {count}\n")
        )
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    return have


def wait_until(condition):
    """Polls; fails when the deadline passes."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def script(text):
    """A command that runs some Python."""
    return [sys.executable, "-c", "import os, signal, sys, time\n" + text]


LET_THROUGH = "signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT, signal.SIGTERM])\n"


def test_cores_are_shared_alike_and_what_is_left_over_rests(devices):
    devices(cores=7, backend="cpu", count=1)
    assert jobs._shares(3) == [([0, 1], {}), ([2, 3], {}), ([4, 5], {})]
    with pytest.raises(UserError, match="8 jobs need as many CPU cores; there are 7"):
        jobs._shares(8)


def test_gpus_are_shared_alike_those_that_are_visible(devices, monkeypatch):
    devices(cores=8, backend="gpu", count=4)
    assert jobs._shares(2) == [
        ([0, 1, 2, 3], {"CUDA_VISIBLE_DEVICES": "0,1"}),
        ([4, 5, 6, 7], {"CUDA_VISIBLE_DEVICES": "2,3"}),
    ]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert [variables["CUDA_VISIBLE_DEVICES"] for _, variables in jobs._shares(2)] == ["3", "5"]
    with pytest.raises(UserError, match="4 jobs need as many GPUs; there are 2"):
        jobs._shares(4)


def test_tpu_chips_are_shared_each_job_a_slice_of_its_own(devices):
    devices(cores=8, backend="tpu", count=4)
    (_, first), (_, second) = jobs._shares(2)
    assert first == {
        "TPU_VISIBLE_CHIPS": "0,1",
        "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,2,1",
        "TPU_PROCESS_BOUNDS": "1,1,1",
        "TPU_PROCESS_ADDRESSES": "localhost:8476",
        "TPU_PROCESS_PORT": "8476",
        "CLOUD_TPU_TASK_ID": "0",
    }
    assert second["TPU_VISIBLE_CHIPS"] == "2,3" and second["TPU_PROCESS_PORT"] == "8478"
    assert [each["TPU_VISIBLE_CHIPS"] for _, each in jobs._shares(4)] == list("0123")
    with pytest.raises(UserError, match="5 jobs need as many TPU chips; there are 4"):
        jobs._shares(5)


def test_tpu_chips_that_form_no_rectangle_are_refused(devices):
    devices(cores=8, backend="tpu", count=7)
    with pytest.raises(UserError, match="1, 2, 4 or 8 TPU chips, not 3"):
        jobs._shares(2)


def test_a_job_gets_its_chips_in_its_environment(monkeypatch, capfd):
    monkeypatch.setattr(jobs, "_shares", lambda n: [([], chip_environment([i])) for i in range(n)])
    text = "print(os.environ['TPU_VISIBLE_CHIPS'], os.environ['TPU_PROCESS_PORT'], file=sys.stderr)"
    assert jobs.run_command(2, script(text)) == 0
    assert sorted(capfd.readouterr().err.splitlines()) == ["0 8476", "1 8477"]


@pytest.mark.slow
@several
def test_each_knows_its_place_and_runs_on_its_cores(capfd):
    code = jobs.run_command(
        2,
        script(
            "from squeeze_jax.study.executors.jobs import job_index; "
            "print(*job_index(), *os.sched_getaffinity(0), file=sys.stderr)"
        ),
    )
    said = sorted(
        [int(word) for word in line.split()] for line in capfd.readouterr().err.splitlines()
    )
    (first, _, *ours), (second, _, *theirs) = said
    assert code == 0 and (first, second) == (0, 1) and said[0][1] == said[1][1] == 2
    assert ours and len(ours) == len(theirs) and not set(ours) & set(theirs)
    assert jobs.job_index() == (0, 1) and len(os.sched_getaffinity(0)) == CORES


@pytest.mark.slow
@several
def test_each_has_as_many_threads_as_a_process_that_trains_alone(capfd):
    """XLA partitions sums by the number of its threads, and with them a trial's last digits."""
    text = """
import jax
from pathlib import Path
jax.numpy.ones(3).sum().block_until_ready()
tasks = Path("/proc/self/task").iterdir()
count = sum((task / "comm").read_text().startswith("tf_XLAEigen") for task in tasks)
print(os.getpid(), count, file=sys.stderr)
"""
    assert subprocess.run(script(text), check=False).returncode == 0
    alone = capfd.readouterr().err.split()[-1]
    assert jobs.run_command(2, script(text)) == 0
    assert {line.split()[-1] for line in capfd.readouterr().err.splitlines()} == {alone}
    assert int(alone) >= 2


@several
def test_the_same_mistake_is_told_once_and_the_largest_code_counts(capfd):
    assert (
        jobs.run_command(
            2,
            script(
                "print('error: no', file=sys.stderr); "
                "sys.exit(2 * int(os.environ['SQUEEZE_JAX_JOB'][0]))"
            ),
        )
        == 2
    )
    assert capfd.readouterr().err == "error: no\n"


@several
def test_a_job_that_is_killed_is_said(capfd):
    assert (
        jobs.run_command(2, script("os.kill(os.getpid(), signal.SIGKILL)")) == 128 + signal.SIGKILL
    )
    assert "a job was ended by SIGKILL; run the same command again" in capfd.readouterr().err


@several
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_each_once(tmp_path, capfd, signum):
    text = f"""
count = []
signal.signal({int(signum)}, lambda *_: count.append(1))
{LET_THROUGH}open({str(tmp_path)!r} + "/" + str(os.getpid()), "w").close()
while not count:
    time.sleep(0.01)
time.sleep(0.3)
print(os.getpid(), len(count), file=sys.stderr)
"""

    def stop():
        wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
        os.kill(os.getpid(), signum)

    threading.Thread(target=stop).start()
    assert jobs.run_command(2, script(text)) == 0
    assert [line.split()[1] for line in capfd.readouterr().err.splitlines()] == ["1", "1"]


def test_a_job_that_is_just_starting_waits_with_a_signal(capfd, monkeypatch):
    """Ctrl-C in the start of Python is a traceback, unless it waits for the job's own handler."""
    text = f"""
signal.signal(signal.SIGINT, lambda *_: sys.exit(7))
{LET_THROUGH}
time.sleep({DEADLINE})
"""

    def start(*arguments, **options):
        process = popen(*arguments, **options)
        process.send_signal(signal.SIGINT)
        return process

    popen = subprocess.Popen
    monkeypatch.setattr(jobs, "_shares", lambda count: count * [([], {})])
    monkeypatch.setattr(subprocess, "Popen", start)
    assert jobs.run_command(2, script(text)) == 7
    assert capfd.readouterr().err == ""


@pytest.mark.slow
@several
def test_jobs_end_when_their_parent_is_killed(tmp_path):
    """Each is asked to stop as by SIGTERM, and nobody is left to train."""
    job = f"""
from squeeze_jax.study.executors.jobs import stop_with_parent
def end(*_):
    print("nobody reads this", file=sys.stderr)
    open("{tmp_path}/ended-" + str(os.getpid()), "w").close()
    sys.exit()
signal.signal(signal.SIGTERM, end)
{LET_THROUGH}
stop_with_parent()
open("{tmp_path}/began-" + str(os.getpid()), "w").close()
time.sleep({DEADLINE})
"""
    text = f"from squeeze_jax.study.executors import jobs\njobs.run_command(2, {script(job)!r})"
    parent = subprocess.Popen(script(text), cwd=ROOT, env=environment())
    wait_until(lambda: len(list(tmp_path.glob("began-*"))) == 2)
    parent.kill()
    assert parent.wait() == -signal.SIGKILL
    wait_until(lambda: len(list(tmp_path.glob("ended-*"))) == 2)


@pytest.mark.slow
@several
def test_a_study_by_two_jobs_is_that_of_one(tmp_path):
    """Every trial once; to the last digit what a single process on all cores makes of it."""
    flags = (*TINY, "--config.seeds=1", f"--compilation_cache={tmp_path / 'cache'}")
    both = completed("configs/sr_sweep.py", *flags, "--jobs=2", f"--workdir={tmp_path / 'both'}")
    completed("configs/sr_sweep.py", *flags, f"--workdir={tmp_path / 'one'}")
    names = [row["trial"] for row in rows(tmp_path / "both")]
    assert sorted(finished_lines(both)) == sorted(names) and len(names) == 5
    timed = ("seconds", "images_per_second")
    results = [
        [{key: row[key] for key in row if key not in timed} for row in rows(tmp_path / name)]
        for name in ("both", "one")
    ]
    assert results[0] == results[1] and all(row["top1"] for row in results[0])
    study = json.loads((tmp_path / "both" / "study.json").read_text())
    assert (
        f", {CORES // 2} of {os.cpu_count()} cores" in study["device"]
        and "--jobs=2" in study["command"]
    )
    assert (tmp_path / "both" / "report.html").exists() and both.stdout.count("report.html") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--jobs=1000"], "1000 jobs need as many CPU cores"),
        (["--jobs=0"], "--jobs=0"),
        (["--jobs=2", "--config.model.name=lenet"], "no model 'lenet'"),
    ],
)
def test_mistakes_are_one_line(tmp_path, flags, told):
    process = launch("configs/squeezenet.py", *flags, f"--workdir={tmp_path / 'work'}")
    assert process.returncode == 2 and process.stderr.count("\n") == 1 and told in process.stderr
