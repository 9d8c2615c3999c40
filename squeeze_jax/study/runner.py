"""Runs the trials of a study, each in turn: claim, train, compress, write.

Finished trials are skipped, interrupted ones resume, a failed one is recorded with its reason. A
trial may start or learn from others of the study (train.init_from, train.teacher = "trial:NAME"):
it is trained once these have ended well.
"""

import contextlib
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from squeeze_jax.data import Data
from squeeze_jax.errors import UserError
from squeeze_jax.files import find_write_error
from squeeze_jax.study import sqz_files
from squeeze_jax.study.plan import Plan, accept_error
from squeeze_jax.study.preflight import has_finished, is_done, prepare, with_parents
from squeeze_jax.study.processes import agreed, agreed_array, first_process
from squeeze_jax.study.program_cache import ProgramCache
from squeeze_jax.study.progress import Progress, Relay
from squeeze_jax.study.records import STOPPED
from squeeze_jax.study.scheduler import Schedule, rung_entry
from squeeze_jax.study.throttle import Throttle
from squeeze_jax.study.trials import PARENTS, Trial
from squeeze_jax.study.workdir import Workdir
from squeeze_jax.train import Interrupted, TrialConfig, interruptible, train
from squeeze_jax.train import Progress as ProgressCallback

_WAIT = 5.0  # seconds between two looks at a claim whose owner may be dead
_POLL = 1.0  # seconds between two looks at the trials that other launchers run


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
    before = workdir.statuses(trial.name for trial in waiting)
    failed_before = {name for name, status in before.items() if status == "failed"}
    shown = Relay if jobs > 1 else Progress
    progress = shown(study.planned_steps, jobs=jobs, expected=study.expected)

    def start(trial: Trial, reached: int, stop_after: int | None) -> None:
        progress.start_trial(trial.name, stop_after or steps.pop(trial.name, 0), reached)

    def look_around() -> None:
        """Writes the table, and notes what other launchers have finished."""
        if first_process():
            workdir.write_table()
        else:
            workdir.read_results(steps)
        for name in workdir.finished & steps.keys() if study.schedule is None else ():
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
            failed_before=failed_before - study.problems.keys(),
        )
        try:
            if study.schedule is not None:
                _run_scheduled(run, study.schedule, job, progress, upkeep)
                waiting = [trial for trial in waiting if run.ends_without_training(trial)]
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


def _run_scheduled(
    run: "TrialRunner",
    schedule: Schedule,
    job: tuple[int, int],
    progress: Progress | Relay,
    upkeep: Throttle,
) -> None:
    """Trains the trials that a schedule says are due, until none is.

    Other launchers decide by the same results, so each result may change what is due. Where they
    hold all that is, this one waits for them, since more may be due when they are done.
    """
    index, jobs = job
    tried: set[str] = set()
    while due := run.due(schedule, tried, index * len(schedule.designs) // jobs):
        for trial, stop_after in due:
            if (result := run.run_trial(trial, stop_after)) is not None:
                tried.add(trial.name)
                progress.finish_trial(trial.name, result)
                upkeep.call()
                break
        else:
            run.wait(_POLL)


class _TakenOver(Exception):
    """Another launcher runs the trial."""


@dataclass(frozen=True)
class TrialRunner:
    """Claims, trains and compresses trials, one after another.

    Attributes:
      workdir: receives the results.
      data_of: trial name -> its data.
      problems: trial name -> what keeps it from being trained.
      on_start: called with each trial that it has claimed, the step that it stopped at before, and
        the one that it is to stop at early or None.
      on_step: called with the trial's name, its steps so far and the loss where it is known.
      asked_to_stop: see `interruptible`.
      programs: the compiled trial that the next one may share.
      confirm: see `Plan`.
      failed_before: names of trials that an earlier launch left as failed, and that are still to be
        tried again: those that need one of them wait for it.
    """

    workdir: Workdir
    data_of: Mapping[str, Data]
    problems: Mapping[str, str]
    on_start: Callable[[Trial, int, int | None], None]
    on_step: Callable[[str, int, float | None], None]
    asked_to_stop: Callable[[int], int | None]
    programs: ProgramCache = field(default_factory=ProgramCache)
    confirm: Callable[[Exception], None] = accept_error
    failed_before: set[str] = field(default_factory=set)

    def run_trial(self, trial: Trial, stop_after: int | None = None) -> dict[str, Any] | None:
        """Trains a trial unless it has finished, compresses it where due; writes and returns both.

        Args:
          trial: one of the study's.
          stop_after: the step to stop early at; None: its end.

        Returns None where another launcher holds the trial, has finished it meanwhile, has taken it
        over since this one was halted for long, or a parent is still to be trained.
        """
        if not self.pending([trial], stop_after):
            return None
        with self._claim(trial, stop_after) as is_lost:
            if is_lost is None:
                return None
            self.failed_before.discard(trial.name)
            self.on_start(trial, _steps_before(self.workdir.read_result(trial.name)), stop_after)
            try:
                return self._run_claimed(trial, is_lost, stop_after)
            except _TakenOver:
                return None

    def pending(self, trials: Sequence[Trial], stop_after: int | None = None) -> list[Trial]:
        """Returns the trials that are not done, as their results are written now."""
        results = self.workdir.read_results(trial.name for trial in trials)
        done = agreed([is_done(trial, results[trial.name], stop_after) for trial in trials])
        return [trial for trial, ended in zip(trials, done, strict=True) if not ended]

    def due(
        self, schedule: Schedule, tried: Collection[str], first: int = 0
    ) -> list[tuple[Trial, int | None]]:
        """Returns what is due of a schedule, see `Schedule.due`, by the results as written now.

        Args:
          schedule: of the study.
          tried: the trials that this launch has run; others that failed are tried again.
          first: the number of the design to begin with.
        """
        trials = {trial.name: trial for design in schedule.designs for trial in design}
        due = schedule.due(self.workdir.read_results(trials), first, tried)
        numbers = {name: number for number, name in enumerate(trials)}
        rows = np.full((len(trials), 2), -1)
        rows[: len(due)] = [(numbers[trial.name], stop or 0) for trial, stop in due] or 0
        names = list(trials)
        return [
            (trials[names[number]], int(stop) or None)
            for number, stop in agreed_array(rows)
            if number >= 0
        ]

    def ends_without_training(self, trial: Trial) -> bool:
        """Returns whether a trial that is not done lacks nothing but its .sqz files or a reason."""
        if trial.name in self.problems:
            return True
        return agreed([has_finished(self.workdir.read_result(trial.name))])[0]

    def wait(self, seconds: float) -> None:
        """Waits for some seconds, or until asked to stop."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._check_signals()
            time.sleep(0.1)

    def wait_for_release(self) -> bool:
        """Waits for some seconds where a launcher that holds a trial may be dead.

        Returns False where none may be: then those that hold trials will finish them.
        """
        if not agreed([self.workdir.claims.may_be_free_soon()])[0]:
            return False
        self.wait(_WAIT)
        return True

    def _run_claimed(
        self, trial: Trial, is_lost: Callable[[], bool], stop_after: int | None
    ) -> dict[str, Any]:
        self._check_signals()

        def asked_to_stop(step: int) -> int | None:
            if is_lost():
                raise _TakenOver
            return self.asked_to_stop(step)

        result = self.workdir.read_result(trial.name)
        if result is None or not agreed([has_finished(result)])[0]:
            rungs = result["rungs"] if result is not None and "rungs" in result else []
            if problem := self._problem(trial):
                result = {"status": "failed", "reason": problem}
            else:
                result = self._train(trial, asked_to_stop, stop_after)
            if stop_after is not None and result["status"] == STOPPED:
                rungs = [*rungs, rung_entry(result)]
            if rungs:
                result = {**result, "rungs": rungs}
            self._write(trial, result)
        if sqz_files.is_due(trial.compress, result):
            self._check_signals()
            try:
                compressed = self._compress(trial)
                result = sqz_files.without_outdated(trial.compress, result) | compressed
                result.pop("reason", None)  # of an attempt before
            except Exception as e:
                result["reason"] = f"not compressed: {self._reason(trial, e)}"
            self._write(trial, result)
        return result

    @contextlib.contextmanager
    def _claim(self, trial: Trial, stop_after: int | None) -> Iterator[Callable[[], bool] | None]:
        """Yields None unless this launch is to run the trial now.

        It is not where another launcher holds the trial or has finished it meanwhile, or where a
        parent is still to be trained. Otherwise, yields what returns whether another launcher has
        taken the trial over.
        """
        workdir = self.workdir
        with workdir.claim(trial.name) if first_process() else contextlib.nullcontext() as claim:
            ready = claim is not None and not any(map(self._is_to_come, trial.parents.values()))
            ready = ready and not is_done(trial, workdir.read_result(trial.name), stop_after)
            yield (lambda: claim is not None and claim.is_lost) if agreed([ready])[0] else None

    def _is_to_come(self, parent: str) -> bool:
        status = self.workdir.status(parent)
        return status == "pending" or (status == "failed" and parent in self.failed_before)

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

    def _train(
        self,
        trial: Trial,
        asked_to_stop: Callable[[int], int | None],
        stop_after: int | None,
    ) -> dict[str, Any]:
        """Returns a trial's result.

        An exception is one too, unless it would meet the next trial.
        """
        data = self.data_of[trial.name]
        try:
            if first_process():
                if self.workdir.status(trial.name) == "failed":
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
                stop_after=stop_after,
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
        return sqz_files.measure(trial.compress, files, program)

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


def _steps_before(result: Mapping[str, Any] | None) -> int:
    """Returns the step that a trial of this result was stopped at; 0 where it was not."""
    return result["steps"] if result is not None and result["status"] == STOPPED else 0
