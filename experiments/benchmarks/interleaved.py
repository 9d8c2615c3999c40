"""Timing in turn, so that a busy machine slows all of them alike.

What every benchmark here shares.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from squeeze_jax.files import write_atomically
from squeeze_jax.report.tables import markdown

REST = 0.3  # seconds before each run: PyTorch's and onnxruntime's threads spin for a while after theirs

Row = dict[str, Any]


def run_in_turn(
    runs: dict[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    warm_up: int = 1,
) -> dict[str, list[float]]:
    """Seconds of each in every round, in an order drawn anew each round.

    `warm_up` rounds before them are thrown away.
    """
    random, seconds = np.random.default_rng(0), {name: [] for name in runs}
    for round_ in range(warm_up + rounds):
        for name in random.permutation(list(runs)):
            time.sleep(REST)
            start = clock()
            runs[name]()
            if round_ >= warm_up:
                seconds[name].append(clock() - start)
    return seconds


def compare(
    setting: str,
    runs: dict[str, Callable[[], object]],
    rounds: int,
    images: int = 0,
    **options: Any,
) -> list[Row]:
    """A row for each of `runs`, of which the first is ours; ratios are taken within a round.

    Args:
      setting: what is measured.
      runs: what to call, by name.
      rounds: calls of each that count.
      images: that one call works on; 0: it is not about images.
      options: of `run_in_turn`.
    """
    seconds, rows = run_in_turn(runs, rounds, **options), []
    ours = next(iter(seconds))
    for who, times in seconds.items():
        row = {
            "setting": setting,
            "who": who,
            "rounds": rounds,
            "seconds_quartiles": quartiles(times),
        }
        if images:
            row["images_per_second"] = round(images / float(np.median(times)), 1)
        if who != ours:
            row["ours_over_it_quartiles"] = quartiles(np.divide(seconds[ours], times))
        rows.append(row)
    return rows


def quartiles(values: Sequence[float] | np.ndarray) -> list[float]:
    """The first, the median and the third."""
    return [round(float(q), 4) for q in np.quantile(values, (0.25, 0.5, 0.75))]


def table(rows: Sequence[Row]) -> str:
    """The rows as markdown."""

    def cell(values: list[float] | None, scale: float, digits: int) -> str:
        if values is None:
            return ""
        first, median, third = (f"{value * scale:,.{digits}f}" for value in values)
        return f"{median} ({first} to {third})"

    head = ["setting", "who", "ms: median (quartiles)", "images/s", "ours / it: median (quartiles)"]
    lines = [
        [
            row["setting"],
            row["who"],
            cell(row["seconds_quartiles"], 1000, 1),
            f"{row['images_per_second']:,.0f}" if "images_per_second" in row else "",
            cell(row.get("ours_over_it_quartiles"), 1, 2),
        ]
        for row in rows
    ]
    return markdown([head, *lines])


def record(name: str, rows: Sequence[Row], begun: dict[str, Any], packages: Sequence[str]) -> None:
    """Writes NAME.json beside this file.

    The rows, with the `environment` in which they were begun, and the versions of more packages.
    """
    result = begun | {"load_average": round(os.getloadavg()[0], 1)}
    result["versions"] |= {package: version(package) for package in packages}
    write_atomically(
        Path(__file__).with_name(f"{name}.json"),
        json.dumps(result | {"results": list(rows)}, indent=1) + "\n",
    )
