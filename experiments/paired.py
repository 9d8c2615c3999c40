"""Compares the values of a swept key seed by seed.

    python experiments/paired.py RESULTS.csv KEY [--over VALUE] [--metric top1]

Prints a row for each value of the key: the metric's mean over seeds, and the mean of its paired
differences from the value before (or from VALUE) over the seeds that both have. Both come with
their 95 % interval, and the differences with the p-value of Student's paired t test, corrected for
their number (Holm). Trials with one seed see the images in one order, so the interval of a
difference may be narrower than those of the means.
"""

import argparse
import csv
from collections import defaultdict
from pathlib import Path

from squeeze_jax.report.statistics import confidence, holm, p_different
from squeeze_jax.report.tables import markdown, show_interval
from squeeze_jax.study.columns import column


def table(rows: list[dict[str, str]], key: str, over: str | None, metric: str) -> str:
    """Formats the rows of a sweep.csv as a markdown table.

    Only trials with status ok count.

    Raises:
      SystemExit: a column or the value does not exist.
    """
    if unknown := {key, metric, "seed"} - set(rows[0]):
        raise SystemExit(
            f"error: no column {', '.join(sorted(unknown))}; there are {', '.join(rows[0])}"
        )
    seeds: dict[str, dict[str, float]] = defaultdict(dict)
    for row in rows:
        if row["status"] == "ok":
            seeds[row[key]][row["seed"]] = float(row[metric])
    if over is not None and over not in seeds:
        raise SystemExit(f"error: no {key} {over}; there are {', '.join(seeds)}")
    differences, before = {}, over
    for value, found in seeds.items():
        if before is not None and value != before:
            common = [seed for seed in found if seed in seeds[before]]
            differences[value] = [found[seed] - seeds[before][seed] for seed in common]
        before = over or value
    tested = {value: p_different(pairs) for value, pairs in differences.items() if len(pairs) > 1}
    p_values = dict(zip(tested, holm(list(tested.values())), strict=True))
    which = f"over {over}" if over else "over the one before"
    lines = [[key, metric, "seeds", which, f"p (Holm, {len(tested)})"]]
    for value, found in seeds.items():
        pairs = differences.get(value)
        lines.append(
            [
                value,
                show_interval(metric, confidence(list(found.values()), column(metric).unit == "%")),
                str(len(found)),
                show_interval(metric, confidence(pairs), sign="+") if pairs else "",
                f"{p_values[value]:.3f}" if value in p_values else "",
            ]
        )
    return markdown(lines)


def main() -> None:
    """Prints the table that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", type=Path, help="a study's results.csv or sweep.csv")
    parser.add_argument("key", help="the swept key's column, such as squeeze_ratio")
    parser.add_argument(
        "--over", metavar="VALUE", help="compare with this value (default: the one before)"
    )
    parser.add_argument("--metric", default="top1", help="a column of numbers (default top1, %%)")
    arguments = parser.parse_args()
    with arguments.results.open(newline="") as file:
        rows = list(csv.DictReader(file))
    print(table(rows, arguments.key, arguments.over, arguments.metric))


if __name__ == "__main__":
    main()
