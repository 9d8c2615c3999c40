"""Aggregates the trials of a study to design points with intervals, and tabulates them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from squeeze_jax.report.statistics import Interval, confidence
from squeeze_jax.study.axes import keys_moving_with
from squeeze_jax.study.columns import all_columns, column, merit
from squeeze_jax.study.records import COLLAPSED, STATUSES, STOPPED, StudyRecord, TrialRecord
from squeeze_jax.study.trials import last_part


@dataclass(frozen=True)
class Point:
    """Holds a design point: the trials that differ only in their seed."""

    design: Mapping[str, Any]
    trials: tuple[TrialRecord, ...]

    def count(self, *statuses: str) -> int:
        """Returns the number of seeds that have one of these statuses."""
        return sum(trial.status in statuses for trial in self.trials)

    @property
    def left_out(self) -> int:
        """How many of its seeds have ended and are not in its means."""
        return self.count(*COLLAPSED, "failed")

    def values(self, name: str, *statuses: str) -> list[float]:
        """Returns the values of a measure for the seeds that have one of these statuses."""
        found = (trial.measures.get(name) for trial in self.trials if trial.status in statuses)
        return [value for value in found if value is not None]

    def interval(self, name: str) -> Interval | None:
        """Returns the interval of a measure over the seeds that learned; None if none did."""
        values = self.values(name, "ok")
        return confidence(values, column(name).unit == "%") if values else None

    def constant(self, name: str) -> float | None:
        """Returns a measure that all seeds have in common, such as MACs, whatever their status."""
        return next(iter(self.values(name, *STATUSES)), None)

    def representative(self, name: str) -> float | None:
        """Returns one number for a measure: the design's, or the mean over seeds that learned."""
        if column(name).kind == "design":
            return self.constant(name)
        interval = self.interval(name)
        return interval and interval.mean


def show(value: Any) -> str:
    """Returns a metaparameter's value as text; 1 and 1.0 are the same."""
    return (
        format(value, ".12g")
        if isinstance(value, int | float) and not isinstance(value, bool)
        else str(value)
    )


def describe(design: Mapping[str, Any]) -> str:
    """Returns a design as text: "squeeze_ratio = 0.5, pct3x3 = 1"."""
    return ", ".join(f"{last_part(key)} = {show(value)}" for key, value in design.items())


def aggregate(trials: Iterable[TrialRecord]) -> list[Point]:
    """Returns the design points in the order of their first trials."""
    groups: dict[str, list[TrialRecord]] = {}
    for trial in trials:
        groups.setdefault(describe(trial.design), []).append(trial)
    return [Point(group[0].design, tuple(group)) for group in groups.values()]


def group_lines(study: StudyRecord, points: Sequence[Point]) -> dict[str, list[Point]]:
    """Returns the lines by label: each has the points that differ only in x.

    Keys that move together with x are one axis with it.
    """
    together = keys_moving_with(study.x, [point.design for point in points])
    lines: dict[str, list[Point]] = {}
    for point in points:
        others = {key: value for key, value in point.design.items() if key not in together}
        lines.setdefault(describe(others), []).append(point)
    return lines


def pareto_front(points: Iterable[Point], cost: str, metric: str) -> list[Point]:
    """Returns the points that no other point dominates, by ascending cost.

    A point dominates another one if its mean is at least as good at a lower cost, or better at the
    same cost.
    """
    known = [
        (point.representative(cost), -merit(metric, interval.mean), point)
        for point in points
        if (interval := point.interval(metric))
    ]
    front, best = [], math.inf
    for _, negative, point in sorted(
        (entry for entry in known if entry[0] is not None), key=lambda entry: entry[:2]
    ):
        if negative < best:
            front.append(point)
            best = negative
    return front


def cost_columns(points: Iterable[Point], metric: str) -> list[str]:
    """Returns the names of the costs that differ between the points that learned."""
    learned = [point for point in points if point.interval(metric)]
    return [
        name
        for name, entry in all_columns().items()
        if entry.is_cost and len({point.representative(name) for point in learned} - {None}) > 1
    ]


def measure_names(trials: Iterable[TrialRecord]) -> list[str]:
    """Returns the names of all measures, in the order of the columns."""
    return list(dict.fromkeys(name for trial in trials for name in trial.measures))


def point_table(study: StudyRecord, points: Sequence[Point]) -> list[list[str]]:
    """Returns the table of the design points: a row of headings, then a row for each point."""
    names = measure_names(trial for point in points for trial in point.trials)
    results = [name for name in names if column(name).kind == "result"]
    others = [name for name in names if name not in results]
    keys = [
        study.label if key == study.x else last_part(key)
        for key in (points[0].design if points else ())
    ]
    counts = {
        "Seeds": ("ok",),
        "Collapsed": COLLAPSED,
        "Stopped": (STOPPED,),
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


def show_interval(name: str, interval: Interval | None, sign: str = "") -> str:
    """Returns a result as text.

    96.6 ± 0.8; 98.9 +0.6 −1.3 where the ends are not as far; 96.6 for a single seed; and
    96.6 +1.9 −4.2, n = 2.

    Args:
      name: of the column.
      interval: its value; a dash for None.
      sign: "+" shows the sign of the mean, as a difference has it.
    """
    show = column(name).show
    if interval is None:
        return show(None)
    cell = (sign if interval.mean >= 0 else "") + show(interval.mean)
    if interval.low is None:
        return cell
    below, above = map(show, interval.errors)
    cell += f" ± {above}" if below == above else f" +{above} −{below}"
    return f"{cell}, n = 2" if interval.seeds == 2 else cell


def markdown(table: Sequence[Sequence[str]]) -> str:
    """Returns a table in markdown; the first row holds the headings."""
    head, *rows = ([cell.replace("|", r"\|").replace("\n", " ") for cell in row] for row in table)
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
