"""Compares the values of a swept key seed by seed.

    python experiments/paired.py RESULTS.csv KEY [--over VALUE] [--metric top1]

Prints a row for each value of the key: the metric's mean over seeds, and the mean of its paired
differences from the value before (or from VALUE) over the seeds that both have. Both come with half
of their 95 % interval. Trials with one seed see the images in one order, so the interval of a
difference may be narrower than those of the means.
"""

import argparse
import csv
from collections import defaultdict
from pathlib import Path

from squeeze_jax.report.tables import confidence, markdown, show_interval


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
    lines, before = (
        [[key, metric, "seeds", f"over {over}" if over else "over the one before"]],
        over,
    )
    for value, found in seeds.items():
        pairs = [
            found[seed] - seeds[before][seed]
            for seed in found
            if before in seeds and seed in seeds[before]
        ]
        difference = (
            "" if value == before or not pairs else show_interval(metric, confidence(pairs))
        )
        sign = "+" if difference and not difference.startswith("-") else ""
        lines.append(
            [
                value,
                show_interval(metric, confidence(list(found.values()))),
                str(len(found)),
                sign + difference,
            ]
        )
        before = over or value
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
