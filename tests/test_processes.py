"""Many devices and many processes compute what one device computes."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import pytest

from squeeze_jax.configs import squeezenet
from squeeze_jax.data import open_data
from squeeze_jax.train import TrialConfig, compile_trial, optimizers, parallel
from tests.launching import DEADLINE, NET, ROOT, communicated, environment, rows
from tests.test_resume import checkpoint_step, wait_until

# Everything random on; a line a step; 80 of 360 images left for the last evaluation batch, so that
# it is padded.
STEPS = 100
COMPARED = 6  # steps after which rounding has not grown yet
SETTINGS = (*NET, "model.dropout=0.3", "data.pad=2", "data.mirror=True", "seeds=1")
RECIPE = (
    f"steps={STEPS}",
    "batch_size=16",
    "log_every=1",
    "eval_batch_size=140",
    "warmup=0.0",
    "eval_every=0",
    "checkpoint_every=20",
)
FLAGS = (
    *(f"--config.{setting}" for setting in SETTINGS),
    *(f"--config.train.{setting}" for setting in RECIPE),
)

LAUNCH = """
import sys
from squeeze_jax.__main__ import run

run(["launch", *sys.argv[1:]])
"""
# The same, but its 30th batch cannot be read.
FAILING = f"""
from squeeze_jax.train import parallel

divide, calls = parallel.divide, []

def failing(*arguments):
    calls.append(1)
    if len(calls) == 30:
        raise OSError("a disk of this machine is broken")
    return divide(*arguments)

parallel.divide = failing
{LAUNCH}"""
# Joins the other process, and waits.
WAITING = """
import sys, time
from squeeze_jax.study import hosts

place = hosts.find_place(f"127.0.0.1:{sys.argv[1]}", 2, int(sys.argv[2]))
with hosts.joined(place, hosts.Patience(60.0, 5.0), {}, lambda error: None):
    print("joined", flush=True)
    time.sleep(600)
"""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(workdir: Path, devices: int, *flags: str, program: str = LAUNCH) -> subprocess.Popen[str]:
    """Starts a launch on so many CPU devices of its own."""
    arguments = ("--config", "configs/squeezenet.py", *FLAGS, f"--workdir={workdir}", *flags)
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        env=environment(
            JAX_NUM_CPU_DEVICES=str(devices), JAX_CPU_COLLECTIVES_IMPLEMENTATION="gloo"
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(processes: list[subprocess.Popen]) -> list[tuple[str, str]]:
    """(stdout, stderr) of each; all must succeed, all are killed at the deadline."""
    outputs = communicated(processes)
    assert [process.returncode for process in processes] == [0] * len(processes), outputs
    return outputs


def metrics(workdir: Path) -> list[dict]:
    """The lines of the only trial's metrics.jsonl."""
    return [
        json.loads(line)
        for line in (workdir / "trials" / "seed=0" / "metrics.jsonl").read_text().splitlines()
    ]


def losses(workdir: Path) -> np.ndarray:
    """The loss of each step, then of the evaluation."""
    return np.array([line.get("loss", line.get("eval_loss")) for line in metrics(workdir)])


def start_two(
    workdir: Path, cache: str, *flags: str, programs: Sequence[str] = (LAUNCH, LAUNCH)
) -> list[subprocess.Popen]:
    """Starts one launch as two processes of one device each."""
    distributed = ("--distributed", f"--coordinator=127.0.0.1:{free_port()}", "--processes=2")
    return [
        start(workdir, 1, cache, *distributed, f"--process_id={i}", *flags, program=program)
        for i, program in enumerate(programs)
    ]


@pytest.fixture(scope="module")
def one_device(tmp_path_factory, cache) -> Path:
    """The workdir of a run on one device in one process."""
    workdir = tmp_path_factory.mktemp("one")
    finish([start(workdir, 1, cache)])
    return workdir


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory, cache) -> tuple[Path, list[tuple[str, str]]]:
    """The workdir of a run of two processes, and what they said."""
    workdir = tmp_path_factory.mktemp("two")
    return workdir, finish(start_two(workdir, cache))


@pytest.mark.slow
def test_two_processes(one_device, two_processes):
    """Each feeds half of every batch; the numbers are one device's to rounding.

    Only the first process writes and speaks.
    """
    workdir, (first, second) = two_processes
    assert [line["step"] for line in metrics(workdir)] == [*range(1, STEPS + 1), STEPS]
    np.testing.assert_allclose(losses(workdir)[:COMPARED], losses(one_device)[:COMPARED], rtol=1e-4)
    assert "1 chance" in first[0] or "1 ok" in first[0]
    assert "report.html" in first[0] and "report.html" not in second[0]
    assert "2 process(es)" in json.loads((workdir / "study.json").read_text())["device"]
    assert (workdir / "report.html").exists()


def end_of_both(processes: list[subprocess.Popen]) -> list[tuple[int, str]]:
    """(exit code, last line on stderr) of each, all killed at the deadline."""
    outputs = communicated(processes)
    codes = [process.returncode for process in processes]
    lines = [(stderr.splitlines() or [""])[-1] for _, stderr in outputs]
    return list(zip(codes, lines, strict=True))


@pytest.mark.slow
def test_lost_processes_and_continued(two_processes, tmp_path, cache):
    """Whatever strikes one process ends both, and they continue: to an unbroken run's numbers."""

    def strike(signum: signal.Signals, index: int, step: int) -> list[tuple[int, str]]:
        """Signals one process once a checkpoint is there; the ends of both."""
        processes = start_two(tmp_path, cache)
        try:
            wait_until(lambda: checkpoint_step(tmp_path, "seed=0") >= step, processes[0])
            processes[index].send_signal(signum)
            return end_of_both(processes)
        finally:
            for process in processes:
                process.kill()

    raising = start_two(tmp_path, cache, "--heartbeat_timeout=10", programs=(LAUNCH, FAILING))
    first, second = end_of_both(raising)
    assert first == second and first[0] == os.EX_TEMPFAIL
    assert re.match(r"process 1 of 2 \(on .*\) failed: OSError: .*start all 2 processes", first[1])
    assert_pending(tmp_path, 20)

    first, second = strike(signal.SIGTERM, 1, 40)
    assert first == second and first[0] == 128 + signal.SIGTERM and "state saved" in first[1]
    assert_pending(tmp_path, 40)

    killed, other = strike(signal.SIGKILL, 0, 60)
    assert killed[0] == -signal.SIGKILL and other[0] == os.EX_TEMPFAIL
    assert re.match(r"lost process 0 of 2 \(on .*\): it has ended, .*start all 2", other[1])
    assert_pending(tmp_path, 60)

    finish(start_two(tmp_path, cache))
    np.testing.assert_array_equal(losses(tmp_path), losses(two_processes[0]))


def assert_pending(workdir: Path, step: int) -> None:
    """The only trial has a checkpoint of that step or a later one, and no result."""
    assert step <= checkpoint_step(workdir, "seed=0") < STEPS
    assert [row["status"] for row in rows(workdir)] == ["pending"]
    assert not (workdir / "trials" / "seed=0" / "result.json").exists()


@pytest.mark.slow
def test_hung_process():
    """It sends no beats, and once it goes on it finds that the others have ended."""
    port = free_port()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WAITING, str(port), str(index)],
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        for process in processes:
            assert process.stdout is not None and process.stdout.readline() == "joined\n"
        processes[0].send_signal(signal.SIGSTOP)
        processes[1].wait(DEADLINE)
        processes[0].send_signal(signal.SIGCONT)
        hung, other = end_of_both(processes)
    finally:
        for process in processes:
            process.kill()
    assert hung[0] == other[0] == os.EX_TEMPFAIL
    assert other[1].startswith("lost process 0 of 2 (on 127.0.0.1): no sign of life for 5 s")
    assert "lost process 1 of 2" in hung[1]


@pytest.mark.slow
def test_late_process_of_another_config(tmp_path, cache):
    """The first says whom it waits for; once the second is there, both say what differs."""
    address = ("--distributed", f"--coordinator=127.0.0.1:{free_port()}", "--processes=2")
    first = start(tmp_path, 1, cache, *address, "--process_id=0")
    try:
        assert first.stderr is not None
        assert first.stderr.readline().startswith("waiting for process 1 of 2 to come to 127.0.0.1")
        other = "--config.train.clip_norm=3.5"
        second = start(tmp_path, 1, cache, *address, "--process_id=1", other)
        ends = end_of_both([first, second])
    finally:
        first.kill()
    assert ends[0] == ends[1] and ends[0][0] == 2
    assert "process 0: --config.train.clip_norm is 3.5, not 1.0; start all" in ends[0][1]
    assert not (tmp_path / "sweep.csv").exists()


@pytest.mark.slow
def test_process_without_others(tmp_path, cache):
    """It waits as long as it is told to, and says who is missing."""
    processes = []
    for index in range(2):  # each of a run of its own
        address = ("--distributed", f"--coordinator=127.0.0.1:{free_port()}", "--processes=2")
        flags = (*address, f"--process_id={index}", "--join_timeout=1")
        processes.append(start(tmp_path, 1, cache, *flags))
    for index, (code, line) in enumerate(end_of_both(processes)):
        assert code == os.EX_TEMPFAIL
        assert line.startswith(f"process {1 - index} of 2 did not come to 127.0.0.1")


@pytest.mark.slow
def test_mistake_of_all_is_told_once(tmp_path, cache):
    """As by a single process, in each."""
    processes = start_two(tmp_path, cache, "--config.data.name=folder")
    outputs = [process.communicate(timeout=DEADLINE) for process in processes]
    assert [process.returncode for process in processes] == [2, 2]
    for _, stderr in outputs:
        lines = [line for line in stderr.splitlines() if "Gloo" not in line]
        assert len(lines) == 1 and lines[0].startswith("error: "), stderr


@pytest.mark.slow
def test_two_devices(one_device, tmp_path, cache):
    """The same with two devices of one process."""
    finish([start(tmp_path, 2, cache)])
    assert "2 x cpu" in json.loads((tmp_path / "study.json").read_text())["device"]
    assert losses(one_device).shape == (STEPS + 1,)
    np.testing.assert_allclose(
        losses(tmp_path)[:COMPARED], losses(one_device)[:COMPARED], rtol=1e-4
    )


def config_of():
    """A small net with everything random in training on."""
    config = squeezenet.get_config("digits")
    config.model.update(
        num_fire=2, pool_after=("conv1",), base_e=8, incr_e=8, conv1_filters=8, dropout=0.3
    )
    config.data.update(pad=2, mirror=True)
    config.train.update(steps=3, batch_size=16, log_every=1, eval_batch_size=140)
    return config


def after_steps(config, devices):
    """The state after all steps over `devices`, and the evaluation's sums, in host memory."""
    data = open_data(TrialConfig.parse(config).data)
    compiled = compile_trial(TrialConfig.parse(config), data, devices)
    state = parallel.replicate(compiled.initial_state(TrialConfig.parse(config)), devices)
    batches = data.train(config.train.batch_size, 0).batches()
    teacher = compiled.teacher_weights(TrialConfig.parse(config))
    for rate in optimizers.learning_rates(TrialConfig.parse(config).train, compiled.total_steps):
        batch = parallel.divide(next(batches), devices)
        state = compiled.train_step(state, compiled.train_device_data, batch, rate, teacher)
    batch = next(compiled.evaluation.batches())
    sums = compiled.eval_step(
        state.params, state.stats, compiled.eval_device_data, parallel.divide(batch, devices)
    )
    return jax.device_get((state, sums))


@pytest.fixture(scope="module")
def alone():
    """What one device computes."""
    return after_steps(config_of(), jax.devices()[:1])


@pytest.mark.slow
def test_data_parallel_step_is_one_devices(alone):
    """Random draws, gradients and evaluation sums are the same wherever they are computed."""
    together = after_steps(config_of(), jax.devices()[:2])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), alone, together
    )
    assert alone[0].step == 3 and alone[1]["weight"] == 140


@pytest.mark.slow
def test_randomness_is_in_use(alone):
    """Without dropout, or without crops and mirroring, the numbers are other ones."""
    plain, upright = config_of(), config_of()
    plain.model.dropout = 0.0
    upright.data.update(pad=0, mirror=False)
    for other in (plain, upright):
        state, _ = after_steps(other, jax.devices()[:1])
        assert abs(state.running["loss"] / alone[0].running["loss"] - 1) > 1e-3
