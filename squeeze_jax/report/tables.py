"""From a sweep's files to typed records, to design points with intervals, to the cells of a table.

`study.json` says what was asked (which trials, which keys were swept); `sweep.csv` says what came out. A trial without a row is
pending, so both can be read at any moment of a sweep. Every column of `sweep.csv` but the swept keys, `trial`, `seed`, `status` and
`reason` is a measure: a number, or empty.
"""

import csv
import io
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

from scipy import stats

from squeeze_jax.errors import UserError
from squeeze_jax.schema import upgrade_study

COLLAPSED = ("diverged", "chance")
COSTS = (
    "model_mb",
    "macs",
    "cycles",
    "energy",
    "bytes_arithmetic",
    "bytes_huffman",
)  # what a Pareto front weighs accuracy against
STATUSES = ("ok", *COLLAPSED, "failed", "pending")


class Measure(NamedTuple):
    """How a measure is written. `kind`: "result" gets an interval, "design" is the same for every seed, "run" is averaged."""

    heading: str
    spec: str = ",.4g"
    kind: str = "run"

    def show(self, value: float | None) -> str:
        return "–" if value is None else format(value, self.spec)


MEASURES = {
    "top1": Measure("Top-1 (%)", ".1f", "result"),
    "top5": Measure("Top-5 (%)", ".1f", "result"),
    "loss": Measure("Loss", ".3f", "result"),
    "params": Measure("Parameters", ",.0f", "design"),
    "macs": Measure("MACs", ",.0f", "design"),
    "model_mb": Measure("Size (MiB)", ",.3g", "design"),
    "activation_bytes": Measure("Activations (bytes)", ",.0f", "design"),
    "cycles": Measure("Cycles", ",.0f", "design"),
    "energy": Measure("Energy (MACs)", ",.3g", "design"),
    "bytes_arithmetic": Measure("Arithmetic-coded (bytes)", ",.0f", "result"),
    "bytes_huffman": Measure("Huffman-coded (bytes)", ",.0f", "result"),
    "sqz_top1": Measure("Top-1 of the coded net (%)", ".1f", "result"),
    "seconds": Measure("Seconds", ",.1f"),
    "images_per_second": Measure("Images/s", ",.0f"),
}


def measure(name: str) -> Measure:
    """How the measure of this name is written; one not listed here is given four digits."""
    return MEASURES.get(name, Measure(name.replace("_", " ")))


@dataclass(frozen=True)
class Paper:
    """A published curve to compare with: (x, value) points of one metric."""

    metric: str
    source: str
    points: tuple[tuple[Any, float], ...]


@dataclass(frozen=True)
class Trial:
    """One training: where it lies in the design space and what was measured (each a finite number or None)."""

    name: str
    design: Mapping[str, Any]
    seed: int | None
    status: str = "pending"
    measures: Mapping[str, float | None] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class Study:
    """What a sweep was asked to do, how it was run, and what to draw; its trials are as planned, without results."""

    name: str
    preset: str
    command: str
    commit: str
    versions: Mapping[str, str]
    device: str
    started: str
    config: Mapping[str, Any]
    x: str
    label: str
    metric: str
    paper: Paper | None
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class Interval:
    """A mean and the half width of its 95 % confidence interval (None for a single value)."""

    mean: float
    half: float | None


@dataclass(frozen=True)
class Point:
    """A design point: all the trials that are equal but for the seed."""

    design: Mapping[str, Any]
    trials: tuple[Trial, ...]

    def count(self, *statuses: str) -> int:
        """How many of its seeds are in one of these states."""
        return sum(trial.status in statuses for trial in self.trials)

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

    def typical(self, name: str) -> float | None:
        """One number for a measure: a design's own, or else the mean over the seeds that learned."""
        if measure(name).kind == "design":
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


def read_study(workdir: Path) -> Study:
    """Reads `study.json`."""
    path = Path(workdir) / "study.json"
    if not path.is_file():
        raise UserError(f"{workdir} is not a sweep's workdir: no study.json")
    try:
        raw = upgrade_study(json.loads(path.read_bytes()))
        report, paper = raw["report"], raw["report"].get("paper")
        swept = [key for key in raw["swept"] if key != "seed"]
        return Study(
            name=raw["study"],
            preset=raw["preset"],
            command=raw["command"],
            commit=raw["commit"],
            versions=raw["versions"],
            device=raw["device"],
            started=raw["started"],
            config=raw["config"],
            x=report["x"],
            label=report["label"],
            metric=paper["metric"] if paper else report["metric"],
            paper=Paper(
                paper["metric"], paper["source"], tuple((x, float(y)) for x, y in paper["points"])
            )
            if paper
            else None,
            trials=tuple(_planned(trial, swept, raw["config"]) for trial in raw["trials"]),
        )
    except KeyError as error:
        raise UserError(f"{path} is incomplete: no {error}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged: {error}") from error


def _planned(trial: Mapping[str, Any], swept: Sequence[str], config: Mapping[str, Any]) -> Trial:
    """A trial as planned; a key that it does not override has the config's value."""
    overrides = trial["overrides"]

    def value(key: str) -> Any:
        return (
            overrides[key]
            if key in overrides
            else reduce(lambda node, part: node[part], key.split("."), config)
        )

    return Trial(
        trial["name"], {key: value(key) for key in swept}, overrides.get("seed", config.get("seed"))
    )


def read_trials(workdir: Path, study: Study) -> tuple[Trial, ...]:
    """The study's trials with what `sweep.csv` says of them; pending where it says nothing."""
    path = Path(workdir) / "sweep.csv"
    if not path.exists():
        return study.trials
    planned = {trial.name: trial for trial in study.trials}
    try:
        text = path.read_bytes().decode()
        # strict: a quoted reason that never ends is an error, not a cell that swallows the rest of the file.
        rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        if not text.endswith("\n") or not {"trial", "status"} <= set(rows.fieldnames or ()):
            raise ValueError("the file is cut short")
        for row in rows:
            if row["trial"] not in planned:
                raise ValueError(
                    f"line {rows.line_num}: {row['trial']!r} is no trial of study.json"
                )
            planned[row["trial"]] = _with_result(planned[row["trial"]], row, rows.line_num)
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path} is damaged: {error}") from error
    return tuple(planned.values())


def _with_result(trial: Trial, row: Mapping[str | None, Any], line: int) -> Trial:
    """The trial with its row of `sweep.csv`."""
    if None in row or None in row.values():
        raise ValueError(f"line {line} has not as many cells as the header")
    if row["status"] not in STATUSES:
        raise ValueError(f"line {line}: status {row['status']!r} is none of {', '.join(STATUSES)}")
    described = {
        "trial",
        "seed",
        "status",
        "reason",
        *trial.design,
        *map(short, trial.design),
    }  # the whole key where two share their last part
    try:
        measures = {name: _finite(cell) for name, cell in row.items() if name not in described}
    except ValueError as error:
        raise ValueError(f"line {line}: {error}") from error
    return replace(trial, status=row["status"], measures=measures, reason=row.get("reason", ""))


def _finite(cell: str) -> float | None:
    """A cell's number; None where it is empty or not finite (the loss of a diverged training)."""
    value = float(cell or "nan")
    return value if math.isfinite(value) else None


def read_curve(workdir: Path, trial: str) -> list[dict[str, Any]]:
    """A trial's training record: one entry a step, in order; empty when there is none yet."""
    path = Path(workdir) / "trials" / trial / "metrics.jsonl"
    if not path.exists():
        return []
    steps: dict[int, dict[str, Any]] = {}
    lines = path.read_bytes().split(b"\n")[
        :-1
    ]  # what follows the last newline is still being written
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            # A step's training and evaluation lines are one entry; a resumed trial repeats some steps, and its last word holds.
            steps.setdefault(record["step"], {}).update(record)
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path} is damaged: line {number} is no record of a step") from error
    return [steps[step] for step in sorted(steps)]


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
    """squeeze_ratio = 0.5, pct3x3 = 1"""
    return ", ".join(f"{short(key)} = {show(value)}" for key, value in design.items())


def aggregate(trials: Iterable[Trial]) -> list[Point]:
    """The design points, in the order of their first trials."""
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(describe(trial.design), []).append(trial)
    return [Point(group[0].design, tuple(group)) for group in groups.values()]


def pareto_front(points: Iterable[Point], cost: str, metric: str) -> list[Point]:
    """The points that no other beats: none has a mean as high at less cost, nor a higher one at the same; by rising cost."""
    known = [
        (point.typical(cost), -interval.mean, point)
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
    return [cost for cost in COSTS if len({point.typical(cost) for point in learned} - {None}) > 1]


def measure_names(trials: Iterable[Trial]) -> list[str]:
    """The names of all that was measured, in the order of the columns."""
    return list(dict.fromkeys(name for trial in trials for name in trial.measures))


def point_table(study: Study, points: Sequence[Point]) -> list[list[str]]:
    """The table of the design points: a row of headings, then a row a point."""
    names = measure_names(trial for point in points for trial in point.trials)
    results = [name for name in names if measure(name).kind == "result"]
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
        *(measure(name).heading for name in results),
        *counts,
        *(measure(name).heading for name in others),
    ]
    rows = [
        [
            *map(show, point.design.values()),
            *(show_interval(name, point.interval(name)) for name in results),
            *(str(point.count(*statuses)) for statuses in counts.values()),
            *(measure(name).show(point.typical(name)) for name in others),
        ]
        for point in points
    ]
    return [head, *rows]


def show_interval(name: str, interval: Interval | None) -> str:
    """A result's cell: 96.6 ± 0.8, without ± for a single seed."""
    cell = measure(name).show(interval and interval.mean)
    return (
        cell
        if interval is None or interval.half is None
        else f"{cell} ± {measure(name).show(interval.half)}"
    )


def markdown(table: Sequence[Sequence[str]]) -> str:
    """A table in markdown, as an experiment's README shows it."""
    head, *rows = ([cell.replace("|", r"\|").replace("\n", " ") for cell in row] for row in table)
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
