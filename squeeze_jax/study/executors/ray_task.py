"""What runs on a node of a Ray cluster: the preflight of a study, and each of its trials."""

import contextlib
import functools
import io
import os
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from squeeze_jax.allocator import keep_freed_memory
from squeeze_jax.cpu_affinity import reserved_cores, usable_cores
from squeeze_jax.data import Data, DataConfig, open_data
from squeeze_jax.errors import UserError
from squeeze_jax.study import preflight
from squeeze_jax.study.config_files import load_config_file
from squeeze_jax.study.plan import Plan
from squeeze_jax.study.program_cache import ProgramCache
from squeeze_jax.study.runner import TrialRunner
from squeeze_jax.study.scheduler import Schedule
from squeeze_jax.study.tpu_chips import chip_environment
from squeeze_jax.study.trials import Trial
from squeeze_jax.study.workdir import Workdir
from squeeze_jax.train import Interrupted, interruptible

_EVERY = 0.5  # seconds between a trial's reports of its steps


class NodeStops(Exception):
    """The node asked the trial to stop; its state is saved, and another node may go on."""


@dataclass(frozen=True)
class Launch:
    """What a node must know of a launch.

    Attributes:
      folder: where the command was typed; relative paths start there, on a node that has it.
      config_file: name and content of the study's config file, which may add models and so on.
      resources: what a trial gets, (("CPU", 2), ("GPU", 1)).
      workdir: receives the results; every node sees it.
    """

    folder: str
    config_file: tuple[str, bytes] | None
    resources: tuple[tuple[str, float], ...]
    workdir: Path


@dataclass(frozen=True)
class Prepared:
    """What is left of a study to run; see `ReadyStudy`.

    Attributes:
      waiting: the trials that have not finished.
      problems: trial name -> what keeps it from being trained.
      steps: trial name -> how many steps it takes.
      started: when study.json was written.
      schedule: which trials are due, where some are stopped early.
      planned_steps: of all that is left.
      printed: what was printed for the user.
    """

    waiting: list[Trial]
    problems: dict[str, str]
    steps: dict[str, int]
    started: str
    schedule: Schedule | None
    planned_steps: int
    printed: str


def prepare_study(launch: Launch, plan: Plan) -> Prepared:
    """Prepares a study on the devices that its trials will have; see `preflight.prepare`."""
    _enter(launch)
    with contextlib.redirect_stderr(io.StringIO()) as printed:
        study = preflight.prepare(plan)
    started = Workdir(plan.workdir).read_record().started
    return Prepared(
        list(study.waiting),
        dict(study.problems),
        dict(study.steps),
        started,
        study.schedule,
        study.planned_steps,
        printed.getvalue(),
    )


def run_trial(
    launch: Launch,
    trial: Trial,
    stop_after: int | None,
    problem: str | None,
    started: str,
    reports: Any,
    *parents: Any,
) -> dict[str, Any] | None:
    """Runs a trial; see `TrialRunner.run_trial`. Ray's way to cancel it stops it with all saved.

    Args:
      launch: of the study.
      trial: the trial.
      stop_after: the step to stop early at; None: its end.
      problem: what keeps it from being trained.
      started: when study.json was written, see `check_workdir`.
      reports: the actor that is told when the trial starts and which steps it takes.
      *parents: what the trials returned that come first.

    Raises:
      NodeStops: the node is shutting down.
      UserError: the node lacks the workdir, or the devices; and see `runner.run`.
      WriteError: see `runner.run`.
    """
    _enter(launch)
    check_workdir(launch.workdir, started)
    workdir = Workdir(launch.workdir)
    data = _open_data(workdir.locate(trial.parsed.data))
    reporter = _Reporter(workdir, reports)
    cores = dict(launch.resources).get("CPU", 0)
    with (
        reserved_cores(int(cores)) if cores >= 1 and _has_all_cores() else contextlib.nullcontext(),
        interruptible() as asked_to_stop,
    ):
        runner = TrialRunner(
            workdir,
            {trial.name: data},
            {trial.name: problem} if problem else {},
            reporter.start,
            reporter.step,
            asked_to_stop,
            _programs(),
        )
        try:
            result = runner.run_trial(trial, stop_after)
        except Interrupted as e:
            if e.exit_code == 128 + signal.SIGINT:  # how Ray cancels
                return None
            raise NodeStops(f"{node_name()} is shutting down") from None
    reporter.flush()
    return result


def node_name() -> str:
    """Returns the address of this machine in the cluster."""
    import ray

    return ray.util.get_node_ip_address()


@functools.cache
def check_workdir(path: Path, started: str) -> None:
    """Rejects, with a UserError, a machine that does not see the study.json of this launch.

    Args:
      path: the workdir.
      started: the time in study.json; another launcher may have written a later one.
    """
    seen = ""
    with contextlib.suppress(UserError):
        seen = Workdir(path).read_record().started
    if seen < started:
        raise UserError(
            f"{node_name()} does not see the study in {path}; "
            "give a --workdir on storage that every node of the cluster shares"
        )


@functools.cache
def _enter(launch: Launch) -> None:
    """Makes this process one of the launch: its folder, its config file, its devices."""
    import ray

    keep_freed_memory()
    with contextlib.suppress(OSError):
        os.chdir(launch.folder)
    if launch.config_file:
        name, content = launch.config_file
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(content)
            load_config_file(path)
    resources = dict(launch.resources)
    wanted = next((kind for kind in ("TPU", "GPU") if kind in resources), "CPU")
    if wanted == "TPU":
        chips = ray.get_runtime_context().get_accelerator_ids()["TPU"]
        os.environ.update(chip_environment(sorted(map(int, chips))))
    try:
        found = jax.default_backend()
    except RuntimeError as e:
        found = str(e).partition("\n")[0]
    if found != wanted.lower():
        raise UserError(
            f"a trial gets {wanted}={resources.get(wanted, 1):g}, but JAX finds no {wanted} "
            f"on {node_name()} ({found}); install squeeze_jax[tpu] or [cuda] there"
        )


@functools.cache
def _has_all_cores() -> bool:
    """Returns whether Ray shares out all cores of this machine, and not a container's part."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    node = next(node for node in ray.nodes() if node["NodeID"] == here)
    return node["Resources"].get("CPU", 0) == usable_cores()


@functools.cache
def _open_data(config: DataConfig) -> Data:
    """Opens data once a process: Ray gives it several trials of a study."""
    return open_data(config)


@functools.cache
def _programs() -> ProgramCache:
    """Returns the process's compiled trial, for the next one of the same design point."""
    return ProgramCache()


class _Reporter:
    """Tells the launch's actor, now and then, how far a trial is."""

    def __init__(self, workdir: Workdir, reports: Any):
        self._workdir, self._reports = workdir, reports
        self._latest: tuple[Any, ...] | None = None
        self._told = 0.0

    def start(self, trial: Trial, reached: int, stop_after: int | None) -> None:
        """Tells that a trial begins, where, from which step, and whether from a checkpoint."""
        has_checkpoint = self._workdir.has_checkpoint(trial.name)
        report = node_name(), has_checkpoint, reached, stop_after
        self._reports.tell.remote("start", trial.name, *report)

    def step(self, name: str, done: int, loss: float | None) -> None:
        """Notes a trial's steps, and tells them if none were told in the last moment."""
        loss = loss if self._latest is None or loss is not None else self._latest[-1]
        self._latest = "step", name, done, loss
        if time.monotonic() - self._told > _EVERY:
            self._told = time.monotonic()
            self._reports.tell.remote(*self._latest)
            self._latest = None

    def flush(self) -> None:
        """Tells the last steps, and returns once they are told."""
        import ray

        if self._latest is not None:
            ray.get(self._reports.tell.remote(*self._latest))
