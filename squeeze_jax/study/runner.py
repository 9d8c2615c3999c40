"""Runs the trials of a study one after another: finished ones are skipped, interrupted ones resume, a failed one is recorded.

A trial may start from another one of the study (train.init_from = "trial:NAME"): it is trained once that one has ended well.
"""

import contextlib
import copy
import errno
import json
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from squeeze_jax.data import Data, open_data
from squeeze_jax.errors import UserError
from squeeze_jax.study import compression
from squeeze_jax.study import workdir as results
from squeeze_jax.study.executors.jobs import job_index
from squeeze_jax.study.progress import Progress
from squeeze_jax.study.trials import Trial
from squeeze_jax.train import (
    CompiledTrial,
    Interrupted,
    TrialConfig,
    check_config,
    compile_trial,
    interruptible,
    total_steps,
    train,
)
from squeeze_jax.train import Progress as ProgressCallback


def run(
    config: ConfigDict,
    trials: Sequence[Trial],
    workdir: Path,
    command: str,
    defaults: ConfigDict | None = None,
) -> dict[str, int]:
    """Trains every trial that has not ended yet, over all devices, and keeps sweep.csv up to date.

    The nets that learned are also written as the files that the config's `compress` section asks for. `defaults` is what a key counts as
    that an older workdir lacks, see `results.open_study`.

    Returns:
      How many trials have each status; "pending" are those that another launcher is running, and those that wait for one of these.

    Raises:
      UserError: bad data, a config that no trial can run with, an old workdir of another config.
      Interrupted: asked to stop; everything is saved.
      OSError: a full disk; everything that was finished is kept.
    """
    data_configs = {trial.name: TrialConfig.parse(trial.config).data for trial in trials}
    datasets = {config: open_data(config) for config in dict.fromkeys(data_configs.values())}
    data_of = {name: datasets[config] for name, config in data_configs.items()}
    costs, problems = _preflight(trials, data_of)
    trials = _within_budget(trials, costs, config.budget)
    if _first_process():
        results.open_study(workdir, config, trials, costs, command, defaults)
        results.write_table(workdir)
    waiting = [
        trial
        for trial, done in zip(trials, _agreed([_done(workdir, trial) for trial in trials]))
        if not done
    ]
    which, jobs = job_index()
    begin = (
        which * len(waiting) // jobs
    )  # so that each of several at once compiles design points of its own
    waiting = waiting[begin:] + waiting[:begin]
    steps = {
        trial.name: _steps_left(workdir, trial, data_of[trial.name], problems) for trial in waiting
    }
    programs = ProgramCache()
    progress = Progress(sum(steps.values()), jobs=jobs)

    with contextlib.closing(progress), interruptible() as asked_to_stop:
        before = None
        while (
            waiting != before
        ):  # once more for those that another launcher held, or that waited for one of these
            before, waiting = waiting, []
            for trial in before:
                with _claim(workdir, trial) as mine:
                    if not mine:
                        waiting.append(trial)
                        continue
                    own = steps.pop(trial.name, 0)
                    for name in [name for name in steps if _ended(workdir, name)]:
                        progress.taken_elsewhere(steps.pop(name))
                    progress.start_trial(trial.name, own)
                    result = _result(
                        trial,
                        data_of[trial.name],
                        problems,
                        programs,
                        workdir,
                        progress,
                        asked_to_stop,
                    )
                    progress.finish_trial(result)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("results")  # the first process has written them all
    return results.counts(workdir)


def _preflight(
    trials: Sequence[Trial], data_of: dict[str, Data]
) -> tuple[dict[str, Any], dict[str, str]]:
    """(costs by trial, what keeps a trial from running by trial), from shapes alone.

    Raises UserError where no trial can run: then the fault lies in what they share.
    """
    costs, problems, known = {}, {}, {}
    for trial in trials:
        data = data_of[trial.name]
        key = _key(trial.config.model, trial.config.data)
        try:
            # The weights of an earlier trial are not there yet.
            config = trial.config if trial.parent is None else _starting_from(trial, "")
            check_config(TrialConfig.parse(config), data, jax.devices())
            compression.check(trial.config.compress)
            if key not in known:
                known[key] = results.costs(trial.config, data.num_classes)
        except (UserError, ValueError) as e:
            problems[trial.name] = str(e)
        costs[trial.name] = known.get(key, {})
    if len(problems) == len(trials):
        raise UserError(next(iter(problems.values())))
    return costs, problems


def _within_budget(
    trials: Sequence[Trial], costs: dict[str, Any], budget: ConfigDict
) -> list[Trial]:
    """The trials that cost no more than budget.max_params, max_macs and max_cycles allow; says which it leaves out.

    A trial that starts from one that is left out is left out too.

    Raises UserError where that leaves none.
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
        raise UserError(
            f"no design point is within the budget of {', '.join(f'{limit:,} {name}' for name, limit in limits.items())}"
        )
    if len(kept) < len(trials) and _first_process():
        left_out = ", ".join(trial.name for trial in trials if trial not in kept)
        print(f"over the budget, left out: {left_out}", file=sys.stderr)
    return kept


def _result(
    trial: Trial,
    data: Data,
    problems: dict[str, str],
    programs: "ProgramCache",
    workdir: Path,
    progress: Progress,
    asked_to_stop,
) -> dict[str, Any]:
    """What becomes of a claimed trial, written down: it is trained, unless it was already, and then compressed, if that is asked for."""
    directory = results.trial_directory(workdir, trial.name)
    result = results.read_result(workdir, trial.name)
    if not _agreed([_ended(workdir, trial.name)])[0]:
        if trial.name in problems:
            result = {"status": "failed", "reason": problems[trial.name]}
        elif (
            trial.parent is not None
            and not _agreed([results.status(workdir, trial.parent) == "ok"])[0]
        ):
            result = {
                "status": "failed",
                "reason": f"it starts from {trial.parent}, which is {results.status(workdir, trial.parent)}",
            }
        else:
            result = _train(trial, data, programs, workdir, progress, asked_to_stop)
        _write(workdir, trial, result)
    if compression.is_due(trial.config.compress, result):
        if (signum := asked_to_stop(0)) is not None:
            raise Interrupted(signum)
        try:
            program = programs.get(TrialConfig.parse(_resolved(trial, workdir)), data)
            result |= compression.compress(
                trial.config.compress, program, data, directory, _first_process()
            )
            result.pop("reason", None)  # of an attempt before
        except Exception as e:
            result["reason"] = f"not compressed: {_reason(e, directory)}"
        _write(workdir, trial, result)
    return result


def _train(
    trial: Trial,
    data: Data,
    programs: "ProgramCache",
    workdir: Path,
    progress: Progress,
    asked_to_stop,
) -> dict[str, Any]:
    """One trial's result; an exception is a result too, unless the next trial would meet it as well."""
    directory = results.trial_directory(workdir, trial.name)
    try:
        if _first_process():
            results.forget_result(workdir, trial.name)
            results.write_config(workdir, trial, data)
        config = TrialConfig.parse(_resolved(trial, workdir))
        return train(
            programs.get(config, data),
            config,
            data,
            directory,
            callbacks=[ProgressCallback(progress.step)],
            asked_to_stop=asked_to_stop,
        )
    except Interrupted:
        raise
    except Exception as e:
        if isinstance(e, UserError) and trial.parent is None:
            raise
        return {"status": "failed", "reason": _reason(e, directory)}


def _reason(error: Exception, directory: Path) -> str:
    """An exception in one line, its traceback in error.txt; a full disk, which the next trial would meet as well, is raised."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        raise error
    if isinstance(error, UserError):
        return str(error)
    if _first_process():
        (directory / "error.txt").write_text("".join(traceback.format_exception(error)))
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _write(workdir: Path, trial: Trial, result: dict[str, Any]) -> None:
    if _first_process():
        results.write_result(workdir, trial.name, result)
        results.write_table(workdir)


def _resolved(trial: Trial, workdir: Path) -> ConfigDict:
    """The trial's config, with the folder of the trial that it starts from."""
    return (
        trial.config
        if trial.parent is None
        else _starting_from(trial, str(results.trial_directory(workdir, trial.parent)))
    )


def _starting_from(trial: Trial, init_from: str) -> ConfigDict:
    config = copy.deepcopy(trial.config)
    config.train.init_from = init_from
    return config


class ProgramCache:
    """The latest compiled trial, which its successors share where `compiled_part` is the same."""

    def __init__(self):
        self._key: TrialConfig | None = None
        self._compiled: CompiledTrial | None = None

    def get(self, config: TrialConfig, data: Data) -> CompiledTrial:
        """Returns the compiled trial of a config."""
        key = config.compiled_part()
        if self._compiled is None or key != self._key:
            # The old one's device memory is freed before the new one's is taken.
            self._key = self._compiled = None
            self._compiled, self._key = compile_trial(config, data, jax.devices()), key
        return self._compiled


def _key(*configs: ConfigDict) -> str:
    return json.dumps([config.to_dict() for config in configs], sort_keys=True)


def _ended(workdir: Path, name: str) -> bool:
    return results.status(workdir, name) in results.OUTCOMES


def _done(workdir: Path, trial: Trial) -> bool:
    """Whether the trial has ended, and its files are written."""
    return _ended(workdir, trial.name) and not compression.is_due(
        trial.config.compress, results.read_result(workdir, trial.name)
    )


def _steps_left(workdir: Path, trial: Trial, data: Data, problems: dict[str, str]) -> int:
    """Steps that the trial takes, 0 where it is not to be trained; those of an earlier launch count."""
    return (
        0
        if trial.name in problems or _ended(workdir, trial.name)
        else total_steps(TrialConfig.parse(trial.config), data)
    )


def _first_process() -> bool:
    return jax.process_index() == 0


def _agreed(flags: list[bool]) -> list[bool]:
    """The first process's view, in every process: they must take the same trials."""
    if jax.process_count() == 1:
        return flags
    return [bool(flag) for flag in multihost_utils.broadcast_one_to_all(np.asarray(flags))]


@contextlib.contextmanager
def _claim(workdir: Path, trial: Trial) -> Iterator[bool]:
    """Whether this launch is to run the trial now: no other launcher holds it, has ended it meanwhile, or trains what it starts from."""
    with (
        results.trial_lock(workdir, trial.name)
        if _first_process()
        else contextlib.nullcontext(False) as locked
    ):
        ready = trial.parent is None or results.status(workdir, trial.parent) != "pending"
        yield _agreed([locked and ready and not _done(workdir, trial)])[0]
