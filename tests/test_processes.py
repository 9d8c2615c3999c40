"""Many devices and many processes compute what one device computes."""

import json
import socket
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest

from squeeze_jax.configs import squeezenet
from squeeze_jax.data import open_data
from squeeze_jax.train import TrialConfig, compile_trial, optimizers, parallel
from tests.launching import DEADLINE, NET, ROOT, command, environment
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


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(workdir: Path, devices: int, *flags: str) -> subprocess.Popen:
    """Starts a launch on so many CPU devices of its own."""
    return subprocess.Popen(
        command("configs/squeezenet.py", *FLAGS, f"--workdir={workdir}", *flags),
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
    try:
        outputs = [process.communicate(timeout=DEADLINE) for process in processes]
    finally:
        for process in processes:
            process.kill()
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


def start_two(workdir: Path, cache: str) -> list[subprocess.Popen]:
    """Starts one launch as two processes of one device each."""
    distributed = ("--distributed", f"--coordinator=127.0.0.1:{free_port()}", "--processes=2")
    return [start(workdir, 1, cache, *distributed, f"--process_id={i}") for i in range(2)]


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


def test_two_processes_killed_and_continued(two_processes, tmp_path, cache):
    """Both are killed after a checkpoint; the same commands end with an unbroken run's numbers."""
    processes = start_two(tmp_path, cache)
    try:
        wait_until(lambda: checkpoint_step(tmp_path, "seed=0") >= 20, processes[0])
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert 20 <= checkpoint_step(tmp_path, "seed=0") < STEPS
    assert not (tmp_path / "trials" / "seed=0" / "result.json").exists()
    finish(start_two(tmp_path, cache))
    np.testing.assert_array_equal(losses(tmp_path), losses(two_processes[0]))


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
    for rate in optimizers.learning_rates(TrialConfig.parse(config).train, compiled.total_steps):
        batch = parallel.divide(next(batches), devices)
        state = compiled.train_step(state, compiled.train_device_data, batch, rate)
    batch = next(compiled.evaluation.batches())
    sums = compiled.eval_step(
        state.params, state.stats, compiled.eval_device_data, parallel.divide(batch, devices)
    )
    return jax.device_get((state, sums))


@pytest.fixture(scope="module")
def alone():
    """What one device computes."""
    return after_steps(config_of(), jax.devices()[:1])


def test_data_parallel_step_is_one_devices(alone):
    """Random draws, gradients and evaluation sums are the same wherever they are computed."""
    together = after_steps(config_of(), jax.devices()[:2])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), alone, together
    )
    assert alone[0].step == 3 and alone[1]["weight"] == 140


def test_randomness_is_in_use(alone):
    """Without dropout, or without crops and mirroring, the numbers are other ones."""
    plain, upright = config_of(), config_of()
    plain.model.dropout = 0.0
    upright.data.update(pad=0, mirror=False)
    for other in (plain, upright):
        state, _ = after_steps(other, jax.devices()[:1])
        assert abs(state.running["loss"] / alone[0].running["loss"] - 1) > 1e-3
