"""The columns of sweep.csv.

The table, the report, Pareto fronts and figures look everything up here.

A new column is one line in COLUMNS, and its value in a trial's costs (`design_costs`) or in its
result. sweep.csv and the report leave out a column that no trial has a value for.
"""

from dataclasses import dataclass
from typing import Literal

from squeeze_jax.study.sqz_files import CODERS


@dataclass(frozen=True)
class Column:
    """Says how a column is written and what its values are.

    Attributes:
      heading: what a reader sees above the column, without the unit.
      format: the format specification of its numbers.
      kind: "label" identifies a trial or says how it ended; "design" is the same for every seed;
        "result" gets a confidence interval over the seeds; "run" is averaged over them.
      is_cost: whether a Pareto front weighs accuracy against it.
      unit: of its numbers; "%" bounds a figure's axis, "bytes" and "MiB" measure the size of a net.
    """

    heading: str
    format: str = ",.4g"
    kind: Literal["label", "design", "result", "run"] = "run"
    is_cost: bool = False
    unit: str = ""

    @property
    def title(self) -> str:
        """Returns the heading with its unit: "Size (MiB)"."""
        return f"{self.heading} ({self.unit})" if self.unit else self.heading

    def show(self, value: float | None) -> str:
        """Returns a number as a cell shows it; a dash for None."""
        return "–" if value is None else format(value, self.format)


def _coder_column(coder: str) -> Column:
    """Returns the column of the bytes that a coder of .sqz files makes of a trial's net."""
    return Column(f"{coder.capitalize()}-coded", ",.0f", "result", is_cost=True, unit="bytes")


# Pareto panels come in this order, and the upper axis shows the first size that differs.
COLUMNS: dict[str, Column] = {
    "trial": Column("Trial", kind="label"),
    "data": Column("Data version", kind="label"),
    "seed": Column("Seed", kind="label"),
    "status": Column("Status", kind="label"),
    "reason": Column("Reason", kind="label"),
    "params": Column("Parameters", ",.0f", "design"),
    "model_mb": Column("Size", ",.3g", "design", is_cost=True, unit="MiB"),
    "macs": Column("MACs", ",.0f", "design", is_cost=True),
    "activation_bytes": Column("Activations", ",.0f", "design", unit="bytes"),
    "cycles": Column("Cycles", ",.0f", "design", is_cost=True),
    "energy": Column("Energy", ",.3g", "design", is_cost=True, unit="MACs"),
    "top1": Column("Top-1", ".1f", "result", unit="%"),
    "top5": Column("Top-5", ".1f", "result", unit="%"),
    "loss": Column("Loss", ".3f", "result"),
    "test_top1": Column("Test top-1", ".1f", "result", unit="%"),
    "test_top5": Column("Test top-5", ".1f", "result", unit="%"),
    "seconds": Column("Seconds", ",.1f"),
    "images_per_second": Column("Images/s", ",.0f"),
    **{f"bytes_{coder}": _coder_column(coder) for coder in CODERS},
    "sqz_top1": Column("Top-1 of the coded net", ".1f", "result", unit="%"),
}
# Empty cells show that these are still to come.
ALWAYS = ("top1", "top5", "loss", "seconds", "images_per_second")


def all_columns() -> dict[str, Column]:
    """Returns COLUMNS and a column for each coder of CODERS that was added since."""
    added = (coder for coder in CODERS if f"bytes_{coder}" not in COLUMNS)
    return COLUMNS | {f"bytes_{coder}": _coder_column(coder) for coder in added}


def column(name: str) -> Column:
    """Returns the column of this name; an unknown one is a number of four digits."""
    return all_columns().get(name) or Column(name.replace("_", " "))


def labels() -> set[str]:
    """Returns the names of the columns that hold no measure."""
    return {name for name, entry in COLUMNS.items() if entry.kind == "label"}
