"""Runs the trials of a study: preflight, budget, then each trial: claim, train, compress, write.

Finished trials are skipped, interrupted ones resume, a failed one is recorded with its reason. A
trial may start from another one of the study (train.init_from = "trial:NAME"): it is trained once
that one has ended well.
"""

import contextlib
import dataclasses
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from squeeze_jax.cost import design_costs
from squeeze_jax.data import Data, open_data
from squeeze_jax.errors import UserError
from squeeze_jax.files import find_write_error
from squeeze_jax.study import data_versions, sqz_files
from squeeze_jax.study.plan import Plan
from squeeze_jax.study.program_cache import ProgramCache
from squeeze_jax.study.progress import Progress
from squeeze_jax.study.records import FINISHED
from squeeze_jax.study.trials import Trial, set_key
from squeeze_jax.study.workdir import Workdir
from squeeze_jax.train import (
    Interrupted,
    TrialConfig,
    check_config,
    checkpoint_bytes,
    describe_start,
    fitting_batch_size,
    interruptible,
    total_steps,
    train,
)
from squeeze_jax.train import Progress as ProgressCallback

BATCH_SIZE = "train.batch_size"


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
    workdir = Workdir(plan.workdir)
    configs = dict.fromkeys(trial.parsed.data for trial in plan.trials)
    datasets = {config: open_data(workdir.locate(config)) for config in configs}
    planned, versions = data_versions.assign(
        plan.trials,
        {trial.name: datasets[trial.parsed.data] for trial in plan.trials},
        workdir.known_data(),
        plan.new_data,
    )
    data_of = {trial.name: datasets[trial.parsed.data] for trial in planned}
    planned = _fit_batches(planned, data_of)
    costs, problems = _preflight(planned, data_of)
    trials = _within_budget(planned, costs, plan.config.to_dict()["budget"])
    trainable = [trial for trial in trials if trial.name not in problems]
    _check_free_space(workdir, trainable, data_of, plan.jobs)
    if _first_process():
        workdir.open_study(plan.config, trials, costs, plan.command, plan.defaults, versions)
        workdir.write_table()
    done = _agreed([_done(workdir, trial) for trial in trials])
    waiting = [trial for trial, is_done in zip(trials, done, strict=True) if not is_done]
    index, jobs = job
    if _first_process() and index == 0:
        _tell_starts([trial for trial in trials if trial.name not in problems], data_of)
    begin = index * len(waiting) // jobs  # each job begins with design points of its own
    waiting = waiting[begin:] + waiting[:begin]
    steps = {
        trial.name: 0
        if trial.name in problems or _finished(workdir, trial.name)
        else total_steps(trial.parsed, data_of[trial.name])
        for trial in waiting
    }
    progress = Progress(sum(steps.values()), jobs=jobs)
    with contextlib.closing(progress), interruptible() as asked_to_stop:
        run = _Run(workdir, data_of, problems, ProgramCache(), progress, asked_to_stop)
        before = None
        # Once more for the trials that another launcher held, or that waited for one of these.
        while waiting != before:
            before, waiting = waiting, []
            for trial in before:
                with _claim(workdir, trial) as claimed:
                    if not claimed:
                        waiting.append(trial)
                        continue
                    own = steps.pop(trial.name, 0)
                    for name in [name for name in steps if _finished(workdir, name)]:
                        progress.taken_elsewhere(steps.pop(name))
                    progress.start_trial(trial.name, own)
                    progress.finish_trial(run.run_trial(trial))
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("results")  # the first process has written them all
    return workdir.counts()


@dataclass(frozen=True)
class _Run:
    """Trains and compresses claimed trials."""

    workdir: Workdir
    data_of: Mapping[str, Data]
    problems: Mapping[str, str]
    programs: ProgramCache
    progress: Progress
    asked_to_stop: Callable[[int], int | None]

    def run_trial(self, trial: Trial) -> dict[str, Any]:
        """Trains a trial unless it has finished, compresses it where due.

        Writes and returns both.
        """
        self._check_signals()
        result = self.workdir.read_result(trial.name)
        if result is None or not _agreed([_finished(self.workdir, trial.name)])[0]:
            problem = self._problem(trial)
            result = {"status": "failed", "reason": problem} if problem else self._train(trial)
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
        if trial.parent is None:
            return None
        status = self.workdir.status(trial.parent)
        if _agreed([status == "ok"])[0]:
            return None
        return f"it starts from {trial.parent}, which is {status}"

    def _train(self, trial: Trial) -> dict[str, Any]:
        """Returns a trial's result.

        An exception is one too, unless it would meet the next trial.
        """
        data = self.data_of[trial.name]
        try:
            if _first_process():
                self.workdir.forget_result(trial.name)
                self.workdir.write_config(trial, data)
            config = self._resolved(trial)
            return train(
                self.programs.get(config, data),
                config,
                data,
                self.workdir.trial_directory(trial.name),
                callbacks=[ProgressCallback(self.progress.step)],
                asked_to_stop=self.asked_to_stop,
            )
        except Interrupted:
            raise
        except Exception as e:
            if isinstance(e, UserError) and trial.parent is None:
                raise
            return {"status": "failed", "reason": self._reason(trial, e)}

    def _compress(self, trial: Trial) -> dict[str, Any]:
        """Writes a trial's .sqz files; returns their sizes and accuracy."""
        data = self.data_of[trial.name]
        program = self.programs.get(self._resolved(trial), data)
        directory = self.workdir.trial_directory(trial.name)
        files = sqz_files.encode(directory, trial.compress, data)
        if _first_process():
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
        if isinstance(error, UserError):
            return str(error)
        if _first_process():
            self.workdir.write_error(trial.name, "".join(traceback.format_exception(error)))
        return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"

    def _write(self, trial: Trial, result: Mapping[str, Any]) -> None:
        if _first_process():
            self.workdir.write_result(trial.name, result)
            self.workdir.write_table()

    def _resolved(self, trial: Trial) -> TrialConfig:
        """Returns the trial's config, with the folder of the trial that it starts from."""
        if trial.parent is None:
            return trial.parsed
        return _starting_from(trial, str(self.workdir.trial_directory(trial.parent)))


def _fit_batches(trials: Sequence[Trial], data_of: Mapping[str, Data]) -> list[Trial]:
    """Returns the trials with the batch lowered to a smaller training set; prints where it is.

    A batch size that is swept stays: the trial is named after it.
    """
    fitted, printed = [], set()
    for trial in trials:
        recipe, num_train = trial.parsed.train, data_of[trial.name].num_train
        size = fitting_batch_size(recipe, num_train, jax.device_count())
        if size != recipe.batch_size and BATCH_SIZE not in trial.overrides:
            config = trial.config.copy_and_resolve_references()
            set_key(config, BATCH_SIZE, size)
            trial = dataclasses.replace(trial, config=config)
            line = (
                f"{BATCH_SIZE} {recipe.batch_size} is larger than the {num_train} training "
                f"images; lowered to {size}"
            )
            if line not in printed and _first_process():
                print(line, file=sys.stderr)
            printed.add(line)
        fitted.append(trial)
    return fitted


def _preflight(
    trials: Sequence[Trial], data_of: Mapping[str, Data]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns the costs, and what keeps a trial from running, by trial; from shapes alone.

    Raises:
      UserError: no trial can run; then the fault lies in what they share.
    """
    costs, problems, known = {}, {}, {}
    for trial in trials:
        data = data_of[trial.name]
        key = (repr(trial.parsed.model), trial.parsed.data)
        try:
            # The weights of an earlier trial are not there yet.
            config = trial.parsed if trial.parent is None else _starting_from(trial, "")
            check_config(config, data, jax.devices())
            sqz_files.check_settings(trial.compress)
            if key not in known:
                size = trial.parsed.data.image_size
                known[key] = design_costs(trial.parsed.model, data.num_classes, (size, size, 3))
        except (UserError, ValueError) as e:
            problems[trial.name] = str(e)
        costs[trial.name] = known.get(key, {})
    if len(problems) == len(trials):
        raise UserError(next(iter(problems.values())))
    return costs, problems


def _within_budget(
    trials: Sequence[Trial], costs: dict[str, Any], budget: Mapping[str, int | None]
) -> list[Trial]:
    """Returns the trials whose costs are within the budget; prints which it leaves out.

    A trial that starts from one that is left out is left out too.

    Raises:
      UserError: that leaves none.
    """
    limits = {key.removeprefix("max_"): limit for key, limit in budget.items() if limit is not None}
    kept = []
    for trial in trials:  # a trial comes after the one that it starts from
        starts = trial.parent is None or any(trial.parent == other.name for other in kept)
        if starts and all(
            costs[trial.name].get(name, 0) <= limit for name, limit in limits.items()
        ):
            kept.append(trial)
    if not kept:
        budget_text = ", ".join(f"{limit:,} {name}" for name, limit in limits.items())
        raise UserError(f"no design point is within the budget of {budget_text}")
    if len(kept) < len(trials) and _first_process():
        left_out = ", ".join(trial.name for trial in trials if trial not in kept)
        print(f"over the budget, left out: {left_out}", file=sys.stderr)
    return kept


def _tell_starts(trials: Sequence[Trial], data_of: Mapping[str, Data]) -> None:
    """Prints, once each, what is to be said of the checkpoints that trials start from."""
    notes = [
        describe_start(trial.parsed, data_of[trial.name])
        for trial in trials
        if trial.parent is None
    ]
    for note in dict.fromkeys(filter(None, notes)):
        print(note, file=sys.stderr)


def _check_free_space(
    workdir: Workdir, trials: Sequence[Trial], data_of: Mapping[str, Data], jobs: int
) -> None:
    """Rejects, with a UserError, a disk that cannot hold the checkpoints still to be written.

    Each trial keeps one, and has two while it saves.
    """
    sizes = {}
    needed, largest = 0, 0
    for trial in trials:
        if _finished(workdir, trial.name):
            continue
        key = repr(trial.parsed.compiled_part())
        if key not in sizes:
            sizes[key] = checkpoint_bytes(trial.parsed, data_of[trial.name])
        largest = max(largest, sizes[key])
        needed += 0 if workdir.has_checkpoint(trial.name) else sizes[key]
    needed += jobs * largest
    free = workdir.free_bytes()
    if not _agreed([needed <= free])[0]:
        raise UserError(
            f"{workdir.path} needs {_describe_size(needed)} for checkpoints, and its disk has "
            f"{_describe_size(free)} left; free some space or give another --workdir"
        )


def _describe_size(count: int) -> str:
    """Returns bytes in words: "1.2 MB", or "340 kB" below that."""
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.0f} kB"


def _starting_from(trial: Trial, init_from: str) -> TrialConfig:
    train = dataclasses.replace(trial.parsed.train, init_from=init_from)
    return dataclasses.replace(trial.parsed, train=train)


def _finished(workdir: Workdir, name: str) -> bool:
    return workdir.status(name) in FINISHED


def _done(workdir: Workdir, trial: Trial) -> bool:
    """Returns whether the trial has finished and its .sqz files are written."""
    return _finished(workdir, trial.name) and not sqz_files.is_due(
        trial.compress, workdir.read_result(trial.name)
    )


def _first_process() -> bool:
    return jax.process_index() == 0


def _agreed(flags: list[bool]) -> list[bool]:
    """Returns the first process's flags in every process: they must take the same trials."""
    if jax.process_count() == 1:
        return flags
    return [bool(flag) for flag in multihost_utils.broadcast_one_to_all(np.asarray(flags))]


@contextlib.contextmanager
def _claim(workdir: Workdir, trial: Trial) -> Iterator[bool]:
    """Yields whether this launch is to run the trial now.

    It is not where another launcher holds the trial, has finished it meanwhile, or trains the one
    that it starts from.
    """
    lock = workdir.lock(trial.name) if _first_process() else contextlib.nullcontext(False)
    with lock as locked:
        ready = trial.parent is None or workdir.status(trial.parent) != "pending"
        yield _agreed([locked and ready and not _done(workdir, trial)])[0]
