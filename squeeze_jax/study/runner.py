"""Runs the trials of a study, each in turn: claim, train, compress, write.

Finished trials are skipped, interrupted ones resume, a failed one is recorded with its reason. A
trial may start or learn from others of the study (train.init_from, train.teacher = "trial:NAME"):
it is trained once these have ended well.
"""

import contextlib
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
from jax.experimental import multihost_utils

from squeeze_jax.data import Data
from squeeze_jax.errors import UserError
from squeeze_jax.files import find_write_error
from squeeze_jax.study import sqz_files
from squeeze_jax.study.plan import Plan, accept_error
from squeeze_jax.study.preflight import has_finished, is_done, prepare, with_parents
from squeeze_jax.study.processes import agreed, first_process
from squeeze_jax.study.program_cache import ProgramCache
from squeeze_jax.study.progress import Progress, Relay
from squeeze_jax.study.throttle import Throttle
from squeeze_jax.study.trials import PARENTS, Trial
from squeeze_jax.study.workdir import Workdir
from squeeze_jax.train import Interrupted, TrialConfig, interruptible, train
from squeeze_jax.train import Progress as ProgressCallback

_WAIT = 5.0  # seconds between two looks at a claim whose owner may be dead


def run(plan: Plan, job: tuple[int, int] = (0, 1)) -> dict[str, int]:
    """Trains every trial that has not finished yet, over all devices; keeps sweep.csv up to date.

    The nets that learned are also written as the .sqz files that the config's `compress` section
    asks for.

    Args:
      plan: the study.
      job: (index, count) where several processes run the plan at once.

    Returns:
      How many trials have each status; "pending" are those that another launcher is running, and
      those that wait for one of these.

    Raises:
      UserError: bad data, a config that no trial can run with, a workdir of another config.
      Interrupted: asked to stop; everything is saved.
      WriteError: the disk is full, or cannot be written; everything that was finished is kept.
    """
    index, jobs = job
    study = prepare(plan, tells=index == 0)
    workdir, steps = study.workdir, dict(study.steps)
    begin = index * len(study.waiting) // jobs  # each job begins with design points of its own
    waiting = [*study.waiting[begin:], *study.waiting[:begin]]
    shown = Relay if jobs > 1 else Progress
    progress = shown(sum(steps.values()), jobs=jobs, expected=study.expected)

    def start(trial: Trial) -> None:
        progress.start_trial(trial.name, steps.pop(trial.name, 0))

    def look_around() -> None:
        """Writes the table, and notes what other launchers have finished."""
        if first_process():
            workdir.write_table()
        else:
            workdir.read_results(steps)
        for name in workdir.finished & steps.keys():
            progress.taken_elsewhere(steps.pop(name), name)

    upkeep = Throttle(look_around)
    with contextlib.closing(progress), interruptible(plan.agree_to_stop) as asked_to_stop:
        run = TrialRunner(
            workdir,
            study.data_of,
            study.problems,
            start,
            progress.step,
            asked_to_stop,
            confirm=plan.confirm,
        )
        try:
            while waiting:
                before, waiting = waiting, []
                for trial in before:
                    if (result := run.run_trial(trial)) is None:
                        waiting.append(trial)
                    else:
                        progress.finish_trial(trial.name, result)
                    upkeep.call()
                # Once more for those that another launcher held, or that waited for one of these.
                waiting = run.pending(waiting)
                if len(waiting) == len(before) and not run.wait_for_release():
                    break
        finally:
            look_around()
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("results")  # the first process has written them all
    return workdir.counts()


class _TakenOver(Exception):
    """Another launcher runs the trial."""


@dataclass(frozen=True)
class TrialRunner:
    """Claims, trains and compresses trials, one after another.

    Attributes:
      workdir: receives the results.
      data_of: trial name -> its data.
      problems: trial name -> what keeps it from being trained.
      on_start: called with each trial that it has claimed.
      on_step: called with the trial's name, its steps so far and the loss where it is known.
      asked_to_stop: see `interruptible`.
      programs: the compiled trial that the next one may share.
    """

    workdir: Workdir
    data_of: Mapping[str, Data]
    problems: Mapping[str, str]
    on_start: Callable[[Trial], None]
    on_step: Callable[[str, int, float | None], None]
    asked_to_stop: Callable[[int], int | None]
    programs: ProgramCache = field(default_factory=ProgramCache)
    confirm: Callable[[Exception], None] = accept_error

    def run_trial(self, trial: Trial) -> dict[str, Any] | None:
        """Trains a trial unless it has finished, compresses it where due; writes and returns both.

        Returns None where another launcher holds the trial, has finished it meanwhile, has taken it
        over since this one was halted for long, or trains a parent.
        """
        if not self.pending([trial]):
            return None
        with _claim(self.workdir, trial) as is_lost:
            if is_lost is None:
                return None
            self.on_start(trial)
            try:
                return self._run_claimed(trial, is_lost)
            except _TakenOver:
                return None

    def pending(self, trials: Sequence[Trial]) -> list[Trial]:
        """Returns the trials that are not done, as their results are written now."""
        results = self.workdir.read_results(trial.name for trial in trials)
        done = agreed([is_done(trial, results[trial.name]) for trial in trials])
        return [trial for trial, ended in zip(trials, done, strict=True) if not ended]

    def wait_for_release(self) -> bool:
        """Waits for some seconds where a launcher that holds a trial may be dead.

        Returns False where none may be: then those that hold trials will finish them.
        """
        if not agreed([self.workdir.claims.may_be_free_soon()])[0]:
            return False
        end = time.monotonic() + _WAIT
        while time.monotonic() < end:
            self._check_signals()
            time.sleep(0.1)
        return True

    def _run_claimed(self, trial: Trial, is_lost: Callable[[], bool]) -> dict[str, Any]:
        self._check_signals()

        def asked_to_stop(step: int) -> int | None:
            if is_lost():
                raise _TakenOver
            return self.asked_to_stop(step)

        result = self.workdir.read_result(trial.name)
        if result is None or not agreed([has_finished(result)])[0]:
            if problem := self._problem(trial):
                result = {"status": "failed", "reason": problem}
            else:
                result = self._train(trial, asked_to_stop)
            self._write(trial, result)
        if sqz_files.is_due(trial.compress, result):
            self._check_signals()
            try:
                result |= self._compress(trial)
                result.pop("reason", None)  # of an attempt before
            except Exception as e:
                result["reason"] = f"not compressed: {self._reason(trial, e)}"
            self._write(trial, result)
        return result

    def _check_signals(self) -> None:
        if (signum := self.asked_to_stop(0)) is not None:
            raise Interrupted(signum)

    def _problem(self, trial: Trial) -> str | None:
        """Returns what keeps the trial from being trained."""
        if trial.name in self.problems:
            return self.problems[trial.name]
        for key, parent in trial.parents.items():
            status = self.workdir.status(parent)
            if not agreed([status == "ok"])[0]:
                return f"it {PARENTS[key]} {parent}, which is {status}"
        return None

    def _train(self, trial: Trial, asked_to_stop: Callable[[int], int | None]) -> dict[str, Any]:
        """Returns a trial's result.

        An exception is one too, unless it would meet the next trial.
        """
        data = self.data_of[trial.name]
        try:
            if first_process():
                self.workdir.forget_result(trial.name)
                self.workdir.write_config(trial, data)
            config = self._resolved(trial)
            return train(
                self.programs.get(config, data),
                config,
                data,
                self.workdir.trial_directory(trial.name),
                callbacks=[ProgressCallback(partial(self.on_step, trial.name))],
                asked_to_stop=asked_to_stop,
            )
        except (Interrupted, _TakenOver):
            raise
        except Exception as e:
            if isinstance(e, UserError) and not trial.parents:
                raise
            return {"status": "failed", "reason": self._reason(trial, e)}

    def _compress(self, trial: Trial) -> dict[str, Any]:
        """Writes a trial's .sqz files; returns their sizes and accuracy."""
        data = self.data_of[trial.name]
        program = self.programs.get(self._resolved(trial), data)
        directory = self.workdir.trial_directory(trial.name)
        files = sqz_files.encode(directory, trial.compress, data)
        if first_process():
            files = {
                coder: self.workdir.write_sqz(trial.name, coder, content)
                for coder, content in files.items()
            }
        return sqz_files.measure(files, program)

    def _reason(self, trial: Trial, error: Exception) -> str:
        """Returns an exception in one line and keeps its traceback; raises a WriteError again."""
        if (failed := find_write_error(error)) is not None:  # the next trial would meet it as well
            failed.filename = failed.filename or str(self.workdir.trial_directory(trial.name))
            raise failed from error
        self.confirm(error)
        if isinstance(error, UserError):
            return str(error)
        if first_process():
            self.workdir.write_error(trial.name, "".join(traceback.format_exception(error)))
        return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"

    def _write(self, trial: Trial, result: Mapping[str, Any]) -> None:
        if first_process():
            self.workdir.write_result(trial.name, result)

    def _resolved(self, trial: Trial) -> TrialConfig:
        """Returns the trial's config, with the folders of the trials that it names."""
        return with_parents(trial, lambda name: str(self.workdir.trial_directory(name)))


@contextlib.contextmanager
def _claim(workdir: Workdir, trial: Trial) -> Iterator[Callable[[], bool] | None]:
    """Yields None unless this launch is to run the trial now.

    It is not where another launcher holds the trial, has finished it meanwhile, or trains a parent.
    Otherwise, yields what returns whether another launcher has taken the trial over.
    """
    with workdir.claim(trial.name) if first_process() else contextlib.nullcontext() as claim:
        ready = claim is not None and "pending" not in [
            workdir.status(parent) for parent in trial.parents.values()
        ]
        ready = ready and not is_done(trial, workdir.read_result(trial.name))
        yield (lambda: claim is not None and claim.is_lost) if agreed([ready])[0] else None
