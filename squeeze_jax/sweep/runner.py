"""Runs the trials of a study one after another: finished ones are skipped, interrupted ones resume, a failed one is recorded."""

import contextlib
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
from squeeze_jax.sweep import results
from squeeze_jax.sweep.progress import Progress
from squeeze_jax.sweep.trials import Trial
from squeeze_jax.train import Interrupted, Program, build_program, check_config, interruptible, total_steps, train


def run(config: ConfigDict, trials: Sequence[Trial], workdir: Path, command: str) -> dict[str, int]:
    """Trains every trial that has not ended yet, over all devices, and keeps sweep.csv up to date.

    Returns:
      How many trials have each status; "pending" are those that another launcher is running.

    Raises:
      UserError: bad data, a config that no trial can run with, an old workdir of another config.
      Interrupted: asked to stop; everything is saved.
      OSError: a full disk; everything that was finished is kept.
    """
    datasets = {_key(trial.config.data): trial.config.data for trial in trials}
    datasets = {key: open_data(data) for key, data in datasets.items()}
    data_of = {trial.name: datasets[_key(trial.config.data)] for trial in trials}
    costs, problems = _preflight(trials, data_of)
    trials = _within_budget(trials, costs, config.sweep)
    if _first_process():
        results.open_study(workdir, config, trials, costs, command)
        results.write_table(workdir)
    todo = [trial for trial, ended in zip(trials, _agreed([_ended(workdir, trial) for trial in trials])) if not ended]
    steps = {trial.name: 0 if trial.name in problems else total_steps(trial.config, data_of[trial.name]) for trial in todo}
    programs = _LatestProgram()
    progress = Progress(sum(steps.values()))

    with contextlib.closing(progress), interruptible() as asked_to_stop:
        for trial in todo:
            with _claim(workdir, trial) as mine:
                if not mine:
                    progress.skip_trial(steps[trial.name])
                    continue
                progress.start_trial(trial.name, steps[trial.name])
                if trial.name in problems:
                    result = {"status": "failed", "reason": problems[trial.name]}
                else:
                    result = _train(trial, data_of[trial.name], programs, workdir, progress, asked_to_stop)
                if _first_process():
                    results.write_result(workdir, trial.name, result)
                    results.write_table(workdir)
                progress.finish_trial(result)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("results")  # the first process has written them all
    statuses = [results.status(workdir, trial.name) for trial in trials]
    return {status: statuses.count(status) for status in dict.fromkeys(statuses)}


def _preflight(trials: Sequence[Trial], data_of: dict[str, Data]) -> tuple[dict[str, Any], dict[str, str]]:
    """(costs by trial, what keeps a trial from running by trial), from shapes alone.

    Raises UserError where no trial can run: then the fault lies in what they share.
    """
    costs, problems, known = {}, {}, {}
    for trial in trials:
        data = data_of[trial.name]
        key = _key(trial.config.model, trial.config.data)
        try:
            check_config(trial.config, data, jax.devices())
            if key not in known:
                known[key] = results.costs(trial.config, data.num_classes)
        except (UserError, ValueError) as e:
            problems[trial.name] = str(e)
        costs[trial.name] = known.get(key, {})
    if len(problems) == len(trials):
        raise UserError(next(iter(problems.values())))
    return costs, problems


def _within_budget(trials: Sequence[Trial], costs: dict[str, Any], budget: ConfigDict) -> list[Trial]:
    """The trials that cost no more than sweep.max_params, max_macs and max_cycles allow; says which it leaves out.

    Raises UserError where that leaves none.
    """
    limits = {key.removeprefix("max_"): limit for key, limit in budget.items() if limit is not None}
    kept = [trial for trial in trials if all(costs[trial.name].get(name, 0) <= limit for name, limit in limits.items())]
    if not kept:
        raise UserError(f"no design point is within the budget of {', '.join(f'{limit:,} {name}' for name, limit in limits.items())}")
    if len(kept) < len(trials) and _first_process():
        left_out = ", ".join(trial.name for trial in trials if trial not in kept)
        print(f"over the budget, left out: {left_out}", file=sys.stderr)
    return kept


def _train(trial: Trial, data: Data, programs: "_LatestProgram", workdir: Path, progress: Progress, asked_to_stop) -> dict[str, Any]:
    """One trial's result; an exception is a result too, unless the next trial would meet it as well."""
    directory = results.trial_directory(workdir, trial.name)
    try:
        if _first_process():
            results.write_config(workdir, trial, data)
        program = programs.get(trial.config, data)
        return train(program, trial.config, data, directory, asked_to_stop=asked_to_stop, on_step=progress.step)
    except (UserError, Interrupted):
        raise
    except Exception as e:
        if isinstance(e, OSError) and e.errno == errno.ENOSPC:
            raise
        if _first_process():
            (directory / "error.txt").write_text(traceback.format_exc())
        return {"status": "failed", "reason": f"{type(e).__name__}: {str(e).strip().partition(chr(10))[0]}"}


class _LatestProgram:
    """The compiled program of the latest design point: its seeds come one after another and share it."""

    def __init__(self):
        self._key: str | None = None
        self._program: Program | None = None

    def get(self, config: ConfigDict, data: Data) -> Program:
        """The program of a config, whatever its seed."""
        key = _key(config.model, config.data, config.train)
        if key != self._key:
            self._key = self._program = None  # the old one's device memory goes before the new one's comes
            self._program, self._key = build_program(config, data, jax.devices()), key
        return self._program


def _key(*configs: ConfigDict) -> str:
    return json.dumps([config.to_dict() for config in configs], sort_keys=True)


def _ended(workdir: Path, trial: Trial) -> bool:
    return results.status(workdir, trial.name) in results.OUTCOMES


def _first_process() -> bool:
    return jax.process_index() == 0


def _agreed(flags: list[bool]) -> list[bool]:
    """The first process's view, in every process: they must take the same trials."""
    if jax.process_count() == 1:
        return flags
    return [bool(flag) for flag in multihost_utils.broadcast_one_to_all(np.asarray(flags))]


@contextlib.contextmanager
def _claim(workdir: Path, trial: Trial) -> Iterator[bool]:
    """Whether this launch is to run the trial: no other launcher holds it, and none has ended it meanwhile."""
    with results.trial_lock(workdir, trial.name) if _first_process() else contextlib.nullcontext(False) as locked:
        yield _agreed([locked and not _ended(workdir, trial)])[0]
