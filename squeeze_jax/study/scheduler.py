"""Early stopping of a study's trials: which are trained on, and how far.

Trials are compared at rungs, numbers of steps at which each is evaluated and saved. Of the designs
at a rung, one in `reduction_factor` goes on from its checkpoint to the next one, and the best of
the last rung are trained to their end; the others stay `stopped`. A design is judged by the mean
over all its seeds.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Annotated, Any

from squeeze_jax.config_parsing import Range
from squeeze_jax.errors import UserError
from squeeze_jax.study.columns import direction, merit
from squeeze_jax.study.records import STOPPED
from squeeze_jax.study.trials import Trial, design_key

Result = Mapping[str, Any] | None
# Whether the designs at a rung wait for the last of them before the best go on: successive halving
# (Jamieson and Talwalkar 2016, arXiv 1502.07943), or ASHA, whose launchers never wait (Li et al.
# 2020, arXiv 1810.05934).
SCHEDULERS = {"successive_halving": True, "asha": False}
MEASURED_AT_RUNGS = ("top1", "top5", "loss")  # columns
_DEFAULT_RUNGS = 2


@dataclass(frozen=True)
class StoppingConfig:
    """The keys of the stopping section.

    Attributes:
      scheduler: a key of SCHEDULERS; "" trains every trial to its end.
      rungs: steps at which designs are compared, ascending; () for total / factor^2 and
        total / factor.
      reduction_factor: one design in so many goes on; ASHA's paper has 4.
    """

    scheduler: str = ""
    rungs: tuple[Annotated[int, Range(at_least=1)], ...] = ()
    reduction_factor: Annotated[int, Range(at_least=2, at_most=100)] = 4

    def check(self) -> None:
        """Rejects, with a UserError, a scheduler that is not there or rungs out of order."""
        if self.scheduler not in ("", *SCHEDULERS):
            raise UserError(
                f"stopping.scheduler is one of {', '.join(SCHEDULERS)}; got {self.scheduler!r}"
            )
        if list(self.rungs) != sorted(set(self.rungs)):
            raise UserError(f"stopping.rungs are ascending steps; got {self.rungs}")

    def rungs_of(self, total_steps: int) -> tuple[int, ...]:
        """Returns the rungs of a trial.

        Raises:
          UserError: the last one is not below its total of steps.
        """
        powers = range(_DEFAULT_RUNGS, 0, -1)
        rungs = self.rungs or tuple(total_steps // self.reduction_factor**power for power in powers)
        if rungs[0] < 1 or rungs[-1] >= total_steps:
            raise UserError(
                f"stopping.rungs {', '.join(map(str, rungs))} are not all from 1 to below the "
                f"{total_steps} steps of a trial"
            )
        return rungs


@dataclass(frozen=True)
class Schedule:
    """Which trials of a study are due, given how far all of them are.

    Attributes:
      designs: the trials of each design, one a seed, in the order of the study.
      rungs: trial name -> the steps of its rungs.
      reduction_factor: one design in so many goes on.
      waits: whether a rung waits for the last of its designs.
      metric: what designs are compared by, a column.
    """

    designs: Sequence[Sequence[Trial]]
    rungs: Mapping[str, tuple[int, ...]]
    reduction_factor: int
    waits: bool
    metric: str

    @classmethod
    def of(
        cls,
        stopping: StoppingConfig,
        trials: Sequence[Trial],
        total_steps: Mapping[str, int],
        metric: str,
    ) -> "Schedule | None":
        """Returns the schedule of trials; None where every trial is trained to its end.

        Args:
          stopping: the config's section.
          trials: those that can be trained.
          total_steps: by the trial's name.
          metric: what designs are compared by, a column.

        Raises:
          UserError: a scheduler or rungs that cannot be used; a trial that needs another's weights.
        """
        stopping.check()
        if not stopping.scheduler or not trials:
            return None
        designs: dict[str, list[Trial]] = {}
        for trial in trials:
            if trial.parents:
                raise UserError(
                    f"{trial.name} needs the final weights of another trial, which "
                    "stopping.scheduler may stop early"
                )
            designs.setdefault(design_key(trial.overrides, trial.data), []).append(trial)
        rungs = {trial.name: stopping.rungs_of(total_steps[trial.name]) for trial in trials}
        waits = SCHEDULERS[stopping.scheduler]
        return cls(list(designs.values()), rungs, stopping.reduction_factor, waits, metric)

    def due(
        self, results: Mapping[str, Result], first: int = 0, tried: Collection[str] = ()
    ) -> list[tuple[Trial, int | None]]:
        """Returns the trials to train on, each with the steps to stop at; None: its end.

        Those that have come far go first. A trial stays due until its result says that it is there.

        Args:
          results: how each trial ended, or where it stopped, by name.
          first: the number of the design to begin with, where several launchers share the work.
          tried: the trials that this launch has run; others that failed are tried again.
        """
        results = {
            name: None
            if _has_failed(result) and name not in tried
            else _by_rung(result, self.rungs.get(name, ()))
            for name, result in results.items()
        }
        due: list[list[tuple[Trial, int | None]]] = []
        numbers = range(len(self.designs))
        entered = [*numbers[first:], *numbers[:first]]
        for rung in range(self._num_rungs):
            due.append(
                [
                    (trial, self.rungs[trial.name][rung])
                    for number in entered
                    for trial in self.designs[number]
                    if not _has_reached(results[trial.name], rung)
                ]
            )
            scores = {number: self._score(number, rung, results) for number in entered}
            known = {number: score for number, score in scores.items() if score is not None}
            is_complete = len(known) == len(scores)
            if self.waits and not is_complete:
                entered = []
                break
            count = max(len(known) // self.reduction_factor, int(is_complete))
            # One that went on and is no longer among the best keeps its place in the comparison.
            entered = [
                number
                for place, number in enumerate(self._ranked(known))
                if place < count
                or any(_went_beyond(results[t.name], rung) for t in self.designs[number])
            ]
        due.append(
            [
                (trial, None)
                for number in entered
                for trial in self.designs[number]
                if not _has_ended(results[trial.name])
            ]
        )
        return [each for stage in reversed(due) for each in stage]

    def planned_steps(self, total_steps: Mapping[str, int]) -> int:
        """Returns how many steps all trials take together if designs are alike in length.

        Args:
          total_steps: by the trial's name.
        """
        per_trial = [(*rungs, total_steps[name]) for name, rungs in self.rungs.items()]
        stages = [sum(ends) / len(self.designs) for ends in zip(*per_trial, strict=True)]
        count, before, taken = len(self.designs), 0.0, 0.0
        for after in stages:
            taken += count * (after - before)
            count, before = max(count // self.reduction_factor, 1), after
        return round(taken)

    @property
    def _num_rungs(self) -> int:
        return len(next(iter(self.rungs.values())))

    def _ranked(self, scores: Mapping[int, float]) -> list[int]:
        """Returns numbers of designs, the best first, equal ones in the study's order."""
        return sorted(scores, key=lambda number: (-merit(self.metric, scores[number]), number))

    def _score(self, number: int, rung: int, results: Mapping[str, Result]) -> float | None:
        """Returns the mean over a design's seeds at a rung; None where one was not there yet."""
        seeds = self.designs[number]
        values = [_rung_value(results[trial.name], rung, self.metric) for trial in seeds]
        known = [value for value in values if value is not None]
        return fmean(known) if len(known) == len(values) else None


def value_of(result: Result, metric: str) -> float | None:
    """Returns what a trial is worth: its metric where it ended or stopped, None if it is pending.

    A trial that failed or diverged is worth as little as can be.
    """
    if result is None:
        return None
    worst = 0.0 if direction(metric) == "maximize" else math.inf
    value = result.get(metric)
    return worst if value is None or result["status"] in ("failed", "diverged") else value


def rung_entry(result: Mapping[str, Any]) -> dict[str, float | None]:
    """Returns what a result keeps of a rung: the steps, and what was measured there."""
    measured = {metric: value_of(result, metric) for metric in MEASURED_AT_RUNGS}
    return {"steps": result["steps"], **measured}


def _by_rung(result: Result, rungs: Sequence[int]) -> Result:
    """Returns a result with one entry a rung that its trial has reached: the first from there on.

    A trial may have been evaluated between rungs, as one that went on from an older checkpoint, and
    twice at one, as one that failed after it and was tried again.
    """
    if result is None:
        return None
    entries = []
    for rung in rungs:
        beyond = [entry for entry in _rungs(result) if entry["steps"] >= rung]
        if not beyond:
            break
        entries.append(beyond[0])
    return {**result, "rungs": entries}


def _rung_value(result: Result, rung: int, metric: str) -> float | None:
    """Returns what a trial was worth at a rung; its end counts where it never stopped there."""
    if rung < len(rungs := _rungs(result)):
        return rungs[rung][metric]
    return value_of(result, metric) if _has_ended(result) else None


def _rungs(result: Result) -> Sequence[Mapping[str, float]]:
    """Returns the `rung_entry` of each rung that a trial was at."""
    return () if result is None else result.get("rungs", ())


def _has_reached(result: Result, rung: int) -> bool:
    """Returns whether a trial has been at a rung, or has ended before."""
    return rung < len(_rungs(result)) or _has_ended(result)


def _went_beyond(result: Result, rung: int) -> bool:
    """Returns whether a trial went on from a rung and was compared at the next one, or finished."""
    is_whole = result is not None and result["status"] in ("ok", "chance")
    return rung + 1 < len(_rungs(result)) or is_whole


def _has_failed(result: Result) -> bool:
    return result is not None and result["status"] == "failed"


def _has_ended(result: Result) -> bool:
    return result is not None and result["status"] != STOPPED
