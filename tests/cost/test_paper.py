"""Tests the model against the simulator of the SqueezeNext paper (arXiv 1803.10615).

The figures are those of Table 3, Figure 8 and the headline ratios.
"""

import json
from pathlib import Path

import pytest

from squeeze_jax.cost.accelerator import PAPER_8X8, PAPER_16X16, estimate

GOLDEN = Path(__file__).parents[1] / "golden"
TABLE3 = json.loads((GOLDEN / "hardware_table3.json").read_text())["rows"]
FIGURE8 = json.loads((GOLDEN / "hardware_figure8.json").read_text())["rows"]
ARRAYS = {"8x8": PAPER_8X8, "16x16": PAPER_16X16}
WITHIN = 0.10


@pytest.fixture(scope="module")
def table(network):
    return {
        (array, row["model"]): estimate(network(row["model"], row["input_size"]), accelerator)
        for array, accelerator in ARRAYS.items()
        for row in TABLE3
    }


@pytest.mark.slow
@pytest.mark.parametrize("array", ARRAYS)
@pytest.mark.parametrize("row", TABLE3, ids=lambda row: row["model"])
def test_time_and_energy(table, array, row):
    fastest = min(e.cycles for (of, _), e in table.items() if of == array)
    found = table[array, row["model"]]
    assert found.cycles / fastest == pytest.approx(row[f"time_{array}"], rel=WITHIN)
    assert found.energy == pytest.approx(row[f"energy_{array}"], rel=WITHIN)


@pytest.mark.parametrize("row", FIGURE8, ids=lambda row: f"{row['model']}-{row['array']}")
def test_cycles_of_each_stage(table, row):
    cycles = {"conv1": 0.0, "stage1": 0.0, "stage2": 0.0, "stage3": 0.0}
    for layer in table[row["array"], row["model"]].layers:
        part = layer.name.partition("_")[0]
        if part in cycles:
            cycles[part] += layer.cycles / 1000
    assert list(cycles.values()) == pytest.approx(
        [row[name] for name in ("conv1", "block1", "block2", "block3")], rel=WITHIN
    )


@pytest.mark.parametrize(
    ("model", "time", "energy"), [("squeezenet_v1_0", 2.59, 2.25), ("alexnet", 8.26, 7.5)]
)
def test_what_the_paper_gains(table, model, time, energy):
    """The abstract's and section 4's ratios to 1.0-SqNxt-23v5 on the 16x16 array."""
    best = table["16x16", "squeezenext_23_v5"]
    found = table["16x16", model]
    assert found.cycles / best.cycles == pytest.approx(time, rel=WITHIN)
    assert found.energy / best.energy == pytest.approx(energy, rel=WITHIN)


def test_dataflows_are_the_expected_ones(table):
    """Large kernels on few channels and depthwise layers run on OS, 1x1 kernels on WS."""
    for array in ARRAYS:
        chosen = {layer.name: layer.dataflow for layer in table[array, "mobilenet_v1"].layers}
        assert {flow for name, flow in chosen.items() if name.startswith("depthwise")} == {"os"}
        assert {flow for name, flow in chosen.items() if name.startswith("pointwise")} == {"ws"}
        assert table[array, "squeezenext_23"].layers[0].dataflow == "os"
