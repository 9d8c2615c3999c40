"""Tells what a study would take on this machine, from costs and measured steps; trains nothing."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from squeeze_jax.study.plan import Plan
from squeeze_jax.study.preflight import check, has_finished, program_of, step_macs, without_parents
from squeeze_jax.study.trials import TEACHER, Trial
from squeeze_jax.train import compile_trial, count_evaluations
from squeeze_jax.train.measure import Speed, measure

MEASURED = 3  # programs at most: the others lie between them in MACs


@dataclass(frozen=True)
class Estimate:
    """What a trial would take.

    Attributes:
      trial: the trial.
      costs: of its design point, see `cost.design_costs`.
      steps: of its training.
      seconds: with its compilation; 0 where it has finished, None where it cannot be trained.
      problem: what keeps it from being trained.
    """

    trial: Trial
    costs: dict[str, Any]
    steps: int
    seconds: float | None
    problem: str = ""


@dataclass(frozen=True)
class DryRun:
    """What a study would take.

    Attributes:
      estimates: of its trials, as if each were trained to its end.
      share: of their steps that are taken where trials are stopped early; 1 elsewhere.
    """

    estimates: list[Estimate]
    share: float

    @property
    def seconds(self) -> float:
        """Returns the seconds of all trials, one after another."""
        return self.share * math.fsum(each.seconds or 0.0 for each in self.estimates)

    @property
    def steps(self) -> int:
        """Returns the steps of all trials."""
        return round(self.share * sum(each.steps for each in self.estimates))


def estimate(plan: Plan) -> DryRun:
    """Returns what each trial within the budget would take, one after another on all devices.

    At most MEASURED programs are compiled and run for some steps, those with the fewest and the
    most MACs among them; the seconds of the others are interpolated by MACs.

    Raises:
      UserError: see `preflight.check`.
    """
    study = check(plan)
    results = study.workdir.read_results(trial.name for trial in study.trials)
    programs: dict[str, Trial] = {}
    for trial in study.trials:
        # A trial's teacher is not there yet.
        if trial.name not in study.problems and TEACHER not in trial.parents:
            programs.setdefault(program_of(trial), trial)
    measured: dict[str, Speed] = {}
    ranked = sorted(programs, key=lambda key: step_macs(study, programs[key]))
    for key in _spread(ranked):
        trial, config = programs[key], without_parents(programs[key])
        data = study.data_of[trial.name]
        print(f"compiling {trial.name} and measuring some steps", file=sys.stderr, flush=True)
        measured[key] = measure(compile_trial(config, data, jax.devices()), config, data)
    found = [(step_macs(study, programs[key]), speed) for key, speed in measured.items()]
    seen: set[str] = set()
    estimates = []
    for trial in study.trials:
        costs = study.costs[trial.name]
        if problem := study.problems.get(trial.name):
            estimates.append(Estimate(trial, costs, 0, None, problem))
            continue
        steps = study.total_steps[trial.name]
        evaluations = count_evaluations(trial.parsed.train, steps)
        key = program_of(trial)
        speed = measured.get(key) or _between(found, step_macs(study, trial))
        if key in seen:
            speed = speed._replace(compilation=0.0)
        seen.add(key)
        done = has_finished(results[trial.name])
        seconds = 0.0 if done else speed.trial(steps, evaluations)
        estimates.append(Estimate(trial, costs, steps, seconds))
    total = study.total_steps
    share = 1.0
    if study.schedule is not None:
        share = study.schedule.planned_steps(total) / sum(total.values())
    return DryRun(estimates, share)


def _spread(ranked: Sequence[Any]) -> list[Any]:
    """Returns up to MEASURED items, the first and the last among them."""
    count = min(MEASURED, len(ranked))
    at = np.linspace(0, len(ranked) - 1, count).round().astype(int) if count else []
    return [ranked[i] for i in at]


def _between(found: Sequence[tuple[float, Speed]], work: float) -> Speed:
    """Returns the speed at a number of MACs, linear between the measured ones."""
    macs, speeds = zip(*found, strict=True)
    return Speed(*(float(np.interp(work, macs, part)) for part in zip(*speeds, strict=True)))
