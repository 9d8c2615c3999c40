"""From the records of a study to design points with intervals, to the cells of a table."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy import stats

from squeeze_jax.study.columns import all_columns, column
from squeeze_jax.study.records import COLLAPSED, STATUSES, StudyRecord, TrialRecord


@dataclass(frozen=True)
class Interval:
    """A mean and the half width of its 95 % confidence interval (None for a single value)."""

    mean: float
    half: float | None


@dataclass(frozen=True)
class Point:
    """A design point: all the trials that are equal but for the seed."""

    design: Mapping[str, Any]
    trials: tuple[TrialRecord, ...]

    def count(self, *statuses: str) -> int:
        """How many of its seeds are in one of these states."""
        return sum(trial.status in statuses for trial in self.trials)

    @property
    def left_out(self) -> int:
        """How many of its seeds have ended and are not in its means."""
        return self.count(*COLLAPSED, "failed")

    def values(self, name: str, *statuses: str) -> list[float]:
        """What its seeds in one of these states measured."""
        found = (trial.measures.get(name) for trial in self.trials if trial.status in statuses)
        return [value for value in found if value is not None]

    def interval(self, name: str) -> Interval | None:
        """Mean and interval over the seeds that learned, and over no other; None where none did."""
        values = self.values(name, "ok")
        return confidence(values) if values else None

    def constant(self, name: str) -> float | None:
        """A measure that is the same for every seed (size, MACs), whatever became of the seeds."""
        return next(iter(self.values(name, *STATUSES)), None)

    def representative(self, name: str) -> float | None:
        """One number for a measure.

        A design's own, or else the mean over the seeds that learned.
        """
        if column(name).kind == "design":
            return self.constant(name)
        interval = self.interval(name)
        return interval and interval.mean


def confidence(values: Sequence[float]) -> Interval:
    """The mean of the values and the half width of its 95 % Student interval."""
    n = len(values)
    half = (
        float(stats.t.ppf(0.975, n - 1)) * statistics.stdev(values) / math.sqrt(n)
        if n > 1
        else None
    )
    return Interval(statistics.fmean(values), half)


def short(key: str) -> str:
    """The last component of a config key: model.squeeze_ratio → squeeze_ratio."""
    return key.rpartition(".")[2]


def show(value: Any) -> str:
    """A metaparameter's value as text; 1 and 1.0 are the same design."""
    return (
        format(value, ".12g")
        if isinstance(value, int | float) and not isinstance(value, bool)
        else str(value)
    )


def describe(design: Mapping[str, Any]) -> str:
    """Returns a design in words: "squeeze_ratio = 0.5, pct3x3 = 1"."""
    return ", ".join(f"{short(key)} = {show(value)}" for key, value in design.items())


def aggregate(trials: Iterable[TrialRecord]) -> list[Point]:
    """The design points, in the order of their first trials."""
    groups: dict[str, list[TrialRecord]] = {}
    for trial in trials:
        groups.setdefault(describe(trial.design), []).append(trial)
    return [Point(group[0].design, tuple(group)) for group in groups.values()]


def pareto_front(points: Iterable[Point], cost: str, metric: str) -> list[Point]:
    """The points that no other beats.

    None has a mean as high at less cost, nor a higher one at the same; by rising cost.
    """
    known = [
        (point.representative(cost), -interval.mean, point)
        for point in points
        if (interval := point.interval(metric))
    ]
    front, best = [], 0.0
    for _, negative, point in sorted(
        (entry for entry in known if entry[0] is not None), key=lambda entry: entry[:2]
    ):
        if negative < best:
            front.append(point)
            best = negative
    return front


def cost_columns(points: Iterable[Point], metric: str) -> list[str]:
    """The costs that tell apart the points that learned."""
    learned = [point for point in points if point.interval(metric)]
    return [
        name
        for name, entry in all_columns().items()
        if entry.is_cost and len({point.representative(name) for point in learned} - {None}) > 1
    ]


def measure_names(trials: Iterable[TrialRecord]) -> list[str]:
    """The names of all that was measured, in the order of the columns."""
    return list(dict.fromkeys(name for trial in trials for name in trial.measures))


def point_table(study: StudyRecord, points: Sequence[Point]) -> list[list[str]]:
    """The table of the design points: a row of headings, then a row a point."""
    names = measure_names(trial for point in points for trial in point.trials)
    results = [name for name in names if column(name).kind == "result"]
    others = [name for name in names if name not in results]
    keys = [
        study.label if key == study.x else short(key)
        for key in (points[0].design if points else ())
    ]
    counts = {
        "Seeds": ("ok",),
        "Collapsed": COLLAPSED,
        "Failed": ("failed",),
        "Pending": ("pending",),
    }
    head = [
        *keys,
        *(column(name).title for name in results),
        *counts,
        *(column(name).title for name in others),
    ]
    rows = [
        [
            *map(show, point.design.values()),
            *(_mean_cell(name, point) for name in results),
            *(str(point.count(*statuses)) for statuses in counts.values()),
            *(column(name).show(point.representative(name)) for name in others),
        ]
        for point in points
    ]
    return [head, *rows]


def _mean_cell(name: str, point: Point) -> str:
    """A result's cell, with the number of seeds that the mean leaves out."""
    interval = point.interval(name)
    cell = show_interval(name, interval)
    return f"{cell} ({point.left_out} left out)" if interval and point.left_out else cell


def show_interval(name: str, interval: Interval | None) -> str:
    """A result's cell: 96.6 ± 0.8, without ± for a single seed."""
    cell = column(name).show(interval and interval.mean)
    return (
        cell
        if interval is None or interval.half is None
        else f"{cell} ± {column(name).show(interval.half)}"
    )


def markdown(table: Sequence[Sequence[str]]) -> str:
    """A table in markdown, as an experiment's README shows it."""
    head, *rows = ([cell.replace("|", r"\|").replace("\n", " ") for cell in row] for row in table)
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
