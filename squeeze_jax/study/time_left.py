"""Estimates how long the rest of a sweep takes, from the trials that it has seen."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

_LEAST_SLOPE = 0.6  # 0.84 on digits and 0.6 on CIFAR-10 in experiments/sr_sweep


@dataclass(frozen=True)
class Expected:
    """What a trial is known to take before it starts.

    Attributes:
      steps: of its training.
      macs: of a step.
      program: a number that trials have in common which share one compiled program.
    """

    steps: int
    macs: float
    program: int


@dataclass
class _Seen:
    """A trial that has started: seconds, by a clock of any origin."""

    started: float
    begun_at: int | None = None  # the step that it goes on from
    compiled: float | None = None  # when its first step had ended
    at: int = 0  # the latest step
    latest: float = 0.0  # when it was taken, or the trial ended

    @property
    def seconds_a_step(self) -> float | None:
        """Returns its seconds a step after the first, with evaluations, saves and compression."""
        if self.compiled is None or self.begun_at is None or self.at < self.begun_at + 2:
            return None
        return (self.latest - self.compiled) / (self.at - self.begun_at - 1)

    @property
    def preparation(self) -> float | None:
        """Returns the seconds until its first step had ended: compilation, most of all."""
        return None if self.compiled is None else self.compiled - self.started


class TimeLeft:
    """Adds up what is left: compilation, steps, and all that happens between them.

    A trial of a program that was seen is as fast as that; others are on the line through the
    programs seen, by the MACs of a step. Of the mean program's time, a part between _LEAST_SLOPE
    and all is taken to grow with its MACs: few programs tell the line badly.
    """

    def __init__(self, expected: Mapping[str, Expected], jobs: int = 1):
        """Starts with nothing seen.

        Args:
          expected: the trials of the sweep, by name.
          jobs: how many run at once.
        """
        self._left, self._jobs = dict(expected), jobs
        self._expected = dict(expected)
        self._seen: dict[str, _Seen] = {}

    def start(self, name: str, now: float) -> None:
        """Notes that a trial begins."""
        self._seen[name] = _Seen(now)

    def step(self, name: str, done: int, now: float) -> None:
        """Notes that a trial has taken `done` steps in all."""
        if (seen := self._seen.get(name)) is None:
            return
        if seen.begun_at is None:
            seen.begun_at = done
        elif seen.compiled is None:
            seen.compiled = now
        seen.at, seen.latest = done, now

    def finish(self, name: str, now: float) -> None:
        """Notes that a trial has ended, here or elsewhere."""
        self._left.pop(name, None)
        if seen := self._seen.get(name):
            seen.latest = now

    def seconds(self, now: float) -> float | None:
        """Returns the seconds that are left; None where no trial has taken two steps."""
        rates = self._rates()
        if not rates:
            return None
        prepared = self._preparations()
        total, longest, programs = 0.0, 0.0, set(prepared)
        for name, expected in self._left.items():
            rate, seen = _rate(expected, rates), self._seen.get(name)
            left = max(expected.steps - (seen.at if seen else 0), 0) * rate
            if seen is None or seen.compiled is None:
                elapsed = now - seen.started if seen else 0.0
                first = expected.program not in programs
                left += max(_preparation(expected.program, first, prepared) - elapsed, 0.0)
                programs.add(expected.program)
            total, longest = total + left, max(longest, left)
        return max(total / self._jobs, longest)

    def _rates(self) -> dict[int, tuple[float, float]]:
        """Returns (MACs of a step, seconds of one) by program."""
        found: dict[int, list[tuple[float, float]]] = {}
        for name, seen in self._seen.items():
            if name in self._expected and (rate := seen.seconds_a_step) is not None:
                expected = self._expected[name]
                found.setdefault(expected.program, []).append((expected.macs, rate))
        return {
            program: (values[0][0], float(np.mean([rate for _, rate in values])))
            for program, values in found.items()
        }

    def _preparations(self) -> dict[int, list[float]]:
        """Returns the seconds before the first step of the trials of each program, in order."""
        found: dict[int, list[float]] = {}
        for name, seen in self._seen.items():
            if name in self._expected and seen.preparation is not None:
                found.setdefault(self._expected[name].program, []).append(seen.preparation)
        return found


def _rate(expected: Expected, rates: Mapping[int, tuple[float, float]]) -> float:
    """Returns the seconds of a step."""
    if expected.program in rates:
        return rates[expected.program][1]
    macs, seconds = map(np.array, zip(*rates.values(), strict=True))
    whole = seconds.mean() / max(macs.mean(), 1.0)
    slope = np.polyfit(macs, seconds, 1)[0] if np.ptp(macs) else 0.0
    slope = np.clip(slope, _LEAST_SLOPE * whole, whole)
    return float(max(seconds.mean() + slope * (expected.macs - macs.mean()), seconds.min() / 2))


def _preparation(program: int, first: bool, prepared: Mapping[int, list[float]]) -> float:
    """Returns the seconds before a trial's first step, from those of other trials."""
    if not first and len(prepared.get(program, ())) > 1:
        return float(np.mean(prepared[program][1:]))
    firsts = [times[0] for times in prepared.values()]
    laters = [time for times in prepared.values() for time in times[1:]]
    if first:
        return float(np.mean(firsts)) if firsts else 0.0
    return float(np.mean(laters)) if laters else 0.0


def as_record(expected: Mapping[str, Expected]) -> dict[str, list]:
    """Returns the trials ready for JSON; `of_record` reads it."""
    return {name: list(dataclasses.astuple(each)) for name, each in expected.items()}


def of_record(record: Mapping[str, list]) -> dict[str, Expected]:
    """Returns the trials that `as_record` wrote."""
    return {name: Expected(*values) for name, values in record.items()}
