"""Compares the accelerator model with the SqueezeNext paper's simulator.

    python experiments/hardware/compare.py > table.md

Prints markdown tables.
"""

import argparse
import json
import re
from pathlib import Path
from statistics import median

from flax import nnx

from squeeze_jax import models
from squeeze_jax.cost import trace
from squeeze_jax.cost.accelerator import PAPER_8X8, PAPER_16X16, Estimate, estimate
from squeeze_jax.report.tables import markdown

GOLDEN = Path(__file__).parents[2] / "tests/golden"
ARRAYS = {"8x8": PAPER_8X8, "16x16": PAPER_16X16}
STAGES = {"conv1": "conv1", "block1": "stage1", "block2": "stage2", "block3": "stage3"}


def golden(name: str) -> dict:
    """Reads figures that the paper prints, or that were read off its plots."""
    return json.loads((GOLDEN / name).read_text())


def beside(found: float, printed: float, spec: str) -> str:
    """Formats a pair as "model / paper (deviation in %)"."""
    return f"{found:{spec}} / {printed:{spec}} ({100 * (found / printed - 1):+.1f} %)"


def main() -> None:
    """Prints the tables."""
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    table3, figure6, figure8 = (
        golden("hardware_table3.json")["rows"],
        golden("hardware_figure6.json"),
        golden("hardware_figure8.json")["rows"],
    )
    estimates = {}
    for row in table3:
        name, size = row["model"], row["input_size"]
        layers = trace.trace_layers(
            lambda name=name: models.create(name, rngs=nnx.Rngs(0)), (size, size, 3)
        )
        estimates |= {
            (array, name): estimate(layers, accelerator) for array, accelerator in ARRAYS.items()
        }
    fastest = {
        array: min(e.cycles for (of, _), e in estimates.items() if of == array) for array in ARRAYS
    }

    print("## Table 3: time over the array's fastest net, energy in 10^9 MACs (model / paper)\n")
    table = [["net", *(f"{what} {array}" for array in ARRAYS for what in ("time", "energy"))]]
    for row in table3:
        cells = [row["model"]]
        for array in ARRAYS:
            found = estimates[array, row["model"]]
            cells.append(beside(found.cycles / fastest[array], row[f"time_{array}"], ".2f"))
            cells.append(beside(found.energy / 1e9, row[f"energy_{array}"] / 1e9, ".2f"))
        table.append(cells)
    print(markdown(table))

    print("## Figure 8: thousands of cycles of conv1 and each stage (model / figure)\n")
    table = [["net", "array", *STAGES]]
    for row in figure8:
        layers = estimates[row["array"], row["model"]].layers
        found = {
            part: sum(layer.cycles for layer in layers if layer.name.startswith(stage)) / 1000
            for part, stage in STAGES.items()
        }
        table.append(
            [
                row["model"],
                row["array"],
                *(beside(found[part], row[part], ".0f") for part in STAGES),
            ]
        )
    print(markdown(table))

    print(
        "## Figure 6: thousands of cycles of each bar (model / figure; the figure is read to 5 on "
        "8x8 and to 1.5 on 16x16)\n"
    )
    nets = [
        (array, version, model)
        for array in ARRAYS
        for version, model in enumerate(figure6["models"])
    ]
    shown = [net for net in nets if net[1] in (0, 4)]
    table = [["bar", *(f"{model} {array}" for array, _, model in shown)]]
    for row in figure6["rows"]:
        cells = [
            (bar_cycles(estimates[array, model], row) / 1000, row[array][version])
            for array, version, model in shown
        ]
        table.append(
            [
                row["bar"],
                *(beside(*cell, ".0f") if cell[1] else f"{cell[0]:.0f} / unread" for cell in cells),
            ]
        )
    print(markdown(table))
    print("Bars of at least a hundredth of their net's cycles, all versions:\n")
    table = [["net", "array", "bars", "within 10 %", "median deviation", "furthest"]]
    for array, version, model in nets:
        table.append(
            [
                model,
                array,
                *agreement(
                    estimates[array, model], [(row, row[array][version]) for row in figure6["rows"]]
                ),
            ]
        )
    print(markdown(table))


def bar_cycles(found: Estimate, row: dict) -> float:
    """Sums the cycles of the layers that a bar of Figure 6 stands for."""
    return sum(layer.cycles for layer in found.layers if re.search(row["layers"], layer.name))


def agreement(found: Estimate, figure: list[tuple[dict, float | None]]) -> list[str]:
    """Compares the bars of a network.

    Returns:
      The number of bars, how many agree within 10 %, the median deviation, and the bar that is
      furthest off.
    """
    off = {
        row["bar"]: 100 * (bar_cycles(found, row) / 1000 / read - 1)
        for row, read in figure
        if read and read * 1000 >= found.cycles / 100
    }
    furthest = max(off, key=lambda bar: abs(off[bar]))
    near = sum(abs(value) <= 10 for value in off.values())
    return [
        str(len(off)),
        str(near),
        f"{median(map(abs, off.values())):.1f} %",
        f"{furthest} {off[furthest]:+.1f} %",
    ]


if __name__ == "__main__":
    main()
