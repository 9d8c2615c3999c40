"""The accelerator model beside the SqueezeNext paper's simulator, as markdown: python experiments/hardware/compare.py > table.md"""

import json
from pathlib import Path

from flax import nnx

from squeeze_jax import models, trace
from squeeze_jax.analysis.tables import markdown
from squeeze_jax.hardware import PAPER_8X8, PAPER_16X16, estimate

GOLDEN = Path(__file__).parents[2] / "tests/golden"
ARRAYS = {"8x8": PAPER_8X8, "16x16": PAPER_16X16}
STAGES = {"conv1": "conv1", "block1": "stage1", "block2": "stage2", "block3": "stage3"}


def rows(name: str) -> list[dict]:
    """What the paper prints, or what was read off its figure."""
    return json.loads((GOLDEN / name).read_text())["rows"]


def beside(found: float, printed: float, spec: str) -> str:
    """model / paper (deviation in %)"""
    return f"{found:{spec}} / {printed:{spec}} ({100 * (found / printed - 1):+.1f} %)"


def main() -> None:
    table3, figure8 = rows("hardware_table3.json"), rows("hardware_figure8.json")
    estimates = {}
    for row in table3:
        name, size = row["model"], row["input_size"]
        layers = trace.trace(lambda name=name: models.create(name, rngs=nnx.Rngs(0)), (size, size, 3))
        estimates |= {(array, name): estimate(layers, accelerator) for array, accelerator in ARRAYS.items()}
    fastest = {array: min(e.cycles for (of, _), e in estimates.items() if of == array) for array in ARRAYS}

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
        found = {part: sum(layer.cycles for layer in layers if layer.name.startswith(stage)) / 1000 for part, stage in STAGES.items()}
        table.append([row["model"], row["array"], *(beside(found[part], row[part], ".0f") for part in STAGES)])
    print(markdown(table))


if __name__ == "__main__":
    main()
