"""A study on a Ray cluster: each trial is a task, which Ray places, retries and moves.

The package, the config file and the environment's settings of JAX travel with the launch; JAX and
the other dependencies are installed on the nodes, and the workdir is on storage that all of them
see. This process opens no accelerator: those of its machine are the trials' as well.
"""

import contextlib
import io
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import jax

from squeeze_jax import storage
from squeeze_jax.cpu_affinity import usable_cores
from squeeze_jax.errors import UserError
from squeeze_jax.files import WriteError
from squeeze_jax.signals import STOP_SIGNALS
from squeeze_jax.study import claims
from squeeze_jax.study.environment import COMMIT_VARIABLE, commit
from squeeze_jax.study.executors import ray_task
from squeeze_jax.study.plan import Plan
from squeeze_jax.study.preflight import has_finished
from squeeze_jax.study.progress import Progress
from squeeze_jax.study.records import STOPPED
from squeeze_jax.study.throttle import Throttle
from squeeze_jax.study.trials import Trial
from squeeze_jax.study.workdir import Workdir
from squeeze_jax.train import Interrupted, interruptible

T = TypeVar("T")
_RETRIES = 20  # how many nodes may die under a trial, which goes on from its checkpoint each time
_POLL = 0.5  # seconds
_PATIENCE = claims.STALE + 30.0  # seconds for which the claim of a lost process is waited for
_CARRIED = ("JAX_", "XLA_", "SQUEEZE_JAX_")  # variables that go to the nodes


def parse_resources(text: str) -> dict[str, float]:
    """Returns {"CPU": 2.0, "GPU": 1.0} for "CPU=2,GPU=1".

    Raises:
      UserError: anything else.
    """
    resources = {}
    for part in text.split(","):
        name, _, amount = part.partition("=")
        try:
            resources[name.strip()] = float(amount)
        except ValueError:
            resources[name.strip()] = 0.0
    if not all(name and 0 < amount < 10**6 for name, amount in resources.items()):
        raise UserError(
            f"--trial-resources is like CPU=1, GPU=1, TPU=4 or CPU=8,GPU=1; got {text!r}"
        )
    return resources


def run(plan: Plan) -> int:
    """Runs a plan on the cluster at `plan.address`; returns 1 where a trial failed.

    Without an address it is the one that this machine belongs to, or one of this machine alone.

    Raises:
      UserError: no Ray or no cluster; a node without the workdir or the devices; see `runner.run`.
      Interrupted: asked to stop; every trial that ran is saved.
      WriteError: see `runner.run`.
    """
    jax.config.update("jax_platforms", "cpu")
    plan = replace(plan, workdir=storage.absolute(plan.workdir))
    # Ray prints what its nodes do there, until it is shut down; the trials' lines are on stderr.
    with (
        contextlib.redirect_stdout(io.StringIO()),
        _connected(plan.address) as ray,
        interruptible() as asked_to_stop,
        contextlib.closing(Progress()) as progress,
    ):
        lost = _Study(ray, plan, progress, asked_to_stop).run()
    counts = Workdir(plan.workdir).counts()
    if lost:
        print(
            f"{len(lost)} trials are pending: their node or their process died over and over; "
            "run the same command again to continue",
            file=sys.stderr,
        )
        return 128 + signal.SIGKILL
    return 1 if counts.get("failed") else 0


@contextlib.contextmanager
def _connected(address: str | None) -> Iterator[ModuleType]:
    """Yields Ray, connected to a cluster while inside."""
    # Ray warns that this will be its default.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as e:
        raise UserError("--executor ray needs Ray: pip install 'squeeze_jax[ray]'") from e
    address = address or os.environ.get("RAY_ADDRESS")
    _check_address(address)
    handlers = {signum: signal.getsignal(signum) for signum in STOP_SIGNALS}
    try:
        ray.init(
            address=address,
            runtime_env={
                "py_modules": [str(Path(__file__).parents[2])],  # the package
                "env_vars": _environment(),
            },
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except Exception as e:
        where = f"no Ray cluster at {address}" if address else "Ray does not start"
        raise UserError(f"{where}: {' '.join(str(e).split())[:300]}") from e
    finally:
        for signum, handler in handlers.items():  # Ray's own would end the process
            signal.signal(signum, handler)
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_address(address: str | None) -> None:
    """Rejects, with a UserError, an address at which nobody answers: Ray tries for minutes."""
    host, colon, port = (address or "").rpartition(":")
    if not colon:
        return
    try:
        if "://" in host or not port.isdecimal():
            raise OSError("give HOST:PORT of the head node, and launch on a node of the cluster")
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as e:
        raise UserError(f"no Ray cluster at {address}: {e}") from e


def _environment() -> dict[str, str]:
    """Returns the variables of every process of the launch."""
    carried = {name: text for name, text in os.environ.items() if name.startswith(_CARRIED)}
    # XLA partitions sums by the number of its threads; so a trial has as many as one that trains
    # on this machine alone, whatever its node has, and its numbers are the same.
    carried |= {"NPROC": str(usable_cores()), COMMIT_VARIABLE: commit()}
    carried.pop("JAX_PLATFORMS", None)
    for name in ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"):
        if (value := jax.config.values[name]) is not None:
            carried[name.upper()] = str(value)
    return carried


class _Reports:
    """Collects what the trials report, for the process that launched them."""

    def __init__(self):
        self._reports: list[tuple[Any, ...]] = []

    def tell(self, *report: Any) -> None:
        self._reports.append(report)

    def take(self) -> list[tuple[Any, ...]]:
        reports, self._reports = self._reports, []
        return reports


class _Study:
    """Runs a study as tasks of a cluster."""

    def __init__(
        self,
        ray: Any,
        plan: Plan,
        progress: Progress,
        asked_to_stop: Callable[[int], int | None],
    ):
        self._ray, self._plan = ray, plan
        self._progress, self._asked_to_stop = progress, asked_to_stop
        self._resources = plan.trial_resources or _one_device(ray.cluster_resources())
        file = plan.config_file
        self._launch = ray.put(
            ray_task.Launch(
                os.getcwd(),
                (file.name, file.read_bytes()) if file else None,
                tuple(self._resources.items()),
                plan.workdir,
            )
        )
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        self._reports = ray.remote(_Reports).options(num_cpus=0, scheduling_strategy=here).remote()
        self._steps: dict[str, int] = {}
        self._started: set[str] = set()
        self._lost: set[str] = set()
        self._table = Throttle(Workdir(plan.workdir).write_table)

    def run(self) -> set[str]:
        """Runs the trials; returns the names of those that Ray gave up."""
        slots = self._count_slots()
        prepare = self._remote(ray_task.prepare_study).remote(self._launch, self._plan)
        self._wait_for([prepare])
        study = self._outcome(prepare)
        if study.printed:
            self._progress.say(study.printed.rstrip())
        ray_task.check_workdir(self._plan.workdir, study.started)
        self._steps |= study.steps
        self._progress.expect(study.planned_steps)
        workdir = Workdir(self._plan.workdir)
        work, before, patience = self._due(study, workdir, set()), None, 0.0
        tried: set[str] = set()
        # Once more for the trials that another launcher held, or that waited for one of these; and
        # for a while where the claim may be that of a process that died with its node.
        while work and (work != before or time.monotonic() < patience):
            if work == before:
                self._wait_for([], seconds=5)
            elif self._started & {trial.name for trial, _ in work}:
                patience = time.monotonic() + _PATIENCE
            before = work
            tried |= self._round(interleave(work, slots), study)
            work = self._due(study, workdir, tried)
        return self._lost

    def _due(
        self, study: ray_task.Prepared, workdir: Workdir, tried: set[str]
    ) -> list[tuple[Trial, int | None]]:
        """Returns the trials to run, each with the step to stop early at; None: its end."""
        results = workdir.read_results(trial.name for trial in study.waiting)
        work = []
        for trial in study.waiting:
            if trial.name in tried | self._lost:
                continue
            result = results[trial.name]
            if not tried or result is None:
                work.append((trial, None))
            elif result["status"] != STOPPED:
                self._progress.taken_elsewhere(self._steps.pop(trial.name, 0))
        if study.schedule is None:
            return work
        without_training = [
            (trial, None)
            for trial, _ in work
            if trial.name in study.problems or has_finished(results[trial.name])
        ]
        due = study.schedule.due(workdir.read_results(study.schedule.rungs), tried=tried)
        return without_training + [each for each in due if each[0].name not in self._lost]

    def _round(
        self, work: Sequence[tuple[Trial, int | None]], study: ray_task.Prepared
    ) -> set[str]:
        """Runs the trials once, where no other launcher holds them; returns those that ended."""
        submit = self._remote(ray_task.run_trial)
        by_name, refs, ended = {each[0].name: each for each in work}, {}, set()

        def ref_of(trial: Trial, stop_after: int | None) -> Any:
            if trial.name not in refs:
                parents = [ref_of(*by_name[p]) for p in trial.parents.values() if p in by_name]
                refs[trial.name] = submit.options(name=trial.name).remote(
                    self._launch,
                    trial,
                    stop_after,
                    study.problems.get(trial.name),
                    study.started,
                    self._reports,
                    *parents,
                )
            return refs[trial.name]

        names = {ref_of(*each): each[0].name for each in work}
        while names:
            for ref in self._wait_for(list(names)):
                name = names.pop(ref)
                try:
                    result = self._outcome(ref)
                except (UserError, WriteError):
                    self._cancel(list(names))
                    raise
                except self._ray.exceptions.RayError as e:
                    self._lost.add(name)
                    self._progress.say(f"{name}: pending, {str(e).strip().partition(chr(10))[0]}")
                    continue
                self._tell_progress()
                if result is not None:
                    if name not in self._started:  # a trial that ended in its node's last moment
                        self._start(name)
                    self._progress.finish_trial(name, result)
                    self._started.discard(name)  # it may go on to its next rung
                    self._table.call()
                    ended.add(name)
        return ended

    def _remote(self, function: Callable) -> Any:
        """Returns a function as a task that gets a trial's resources."""
        others = {k: v for k, v in self._resources.items() if k not in ("CPU", "GPU")}
        on_accelerator = bool({"GPU", "TPU"} & self._resources.keys())
        return self._ray.remote(
            num_cpus=self._resources.get("CPU"),
            num_gpus=self._resources.get("GPU"),
            resources=others or None,
            max_retries=_RETRIES,
            retry_exceptions=[ray_task.NodeStops],
            # A process that has opened a GPU or a TPU cannot take another one, nor let it go.
            max_calls=1 if on_accelerator else 0,
            runtime_env={"env_vars": {} if on_accelerator else {"JAX_PLATFORMS": "cpu"}},
        )(function)

    def _outcome(self, ref: Any) -> Any:
        """Returns what a task returned, or raises what it raised."""
        try:
            return self._ray.get(ref)
        except self._ray.exceptions.RayTaskError as e:
            if isinstance(e.cause, ImportError):
                raise UserError(
                    f"a node of the cluster cannot run squeeze_jax: {e.cause}; "
                    "install the same version there, see docs/clusters.md"
                ) from e
            if isinstance(e.cause, (UserError, WriteError)):
                raise e.cause from e
            raise

    def _wait_for(self, refs: list[Any], seconds: float = 0.0) -> list[Any]:
        """Waits until a task has ended, or for some seconds where there is none.

        Returns those that have.

        Raises:
          Interrupted: asked to stop; the tasks have stopped.
        """
        end = time.monotonic() + seconds
        while True:
            if (signum := self._asked_to_stop(0)) is not None:
                self._cancel(refs)
                raise Interrupted(signum)
            if refs:
                done, _ = self._ray.wait(refs, num_returns=1, timeout=_POLL)
                if done:
                    return done
            elif time.monotonic() > end:
                return []
            else:
                time.sleep(_POLL)
            self._tell_progress()

    def _cancel(self, refs: list[Any]) -> None:
        """Stops the tasks, the running ones with all saved, and waits until they have."""
        for ref in refs:
            self._ray.cancel(ref)
        while refs:  # a second Ctrl-C ends the process here
            _, refs = self._ray.wait(refs, num_returns=len(refs), timeout=_POLL)

    def _tell_progress(self) -> None:
        """Shows what the trials have reported since."""
        for what, name, *values in self._ray.get(self._reports.take.remote()):
            if what == "step":
                self._progress.step(name, *values)
                continue
            node, has_checkpoint, *stretch = values
            if name in self._started:
                verb = "goes on from its checkpoint" if has_checkpoint else "begins again"
                self._progress.say(f"{name}: {verb} on {node}")
            self._start(name, *stretch)

    def _start(self, name: str, reached: int = 0, stop_after: int | None = None) -> None:
        self._started.add(name)
        self._progress.start_trial(name, stop_after or self._steps.get(name, 0), reached)

    def _count_slots(self) -> int:
        """Returns how many trials the cluster runs at once; prints a line where it is none yet."""
        needed = self._resources
        slots = sum(
            int(min(node["Resources"].get(name, 0) // amount for name, amount in needed.items()))
            for node in self._ray.nodes()
            if node["Alive"]
        )
        if not slots:
            text = ",".join(f"{name}={amount:g}" for name, amount in needed.items())
            print(f"no node of the cluster has {text} yet; waiting for one", file=sys.stderr)
        return max(slots, 1)


def _one_device(cluster: Mapping[str, float]) -> dict[str, float]:
    """Returns one device of the best kind that a cluster has."""
    return {next((kind for kind in ("TPU", "GPU") if cluster.get(kind)), "CPU"): 1.0}


def interleave(trials: Sequence[T], slots: int) -> list[T]:
    """Returns the trials in an order in which each slot gets neighbours, which share a program.

    The first of each of `slots` blocks, then the second of each, and so on.
    """
    ends = [len(trials) * slot // slots for slot in range(slots + 1)]
    blocks = [trials[begin:end] for begin, end in zip(ends, ends[1:], strict=False)]
    longest = max(map(len, blocks))
    return [block[i] for i in range(longest) for block in blocks if i < len(block)]
