"""Describes the columns of sweep.csv; the table, the report and the figures look them up here.

To add a column, add a `Column` to `COLUMNS`, and put its value into the costs of a trial
(`design_costs`) or into its result. sweep.csv and the report leave out a column for which no trial
has a value, unless it is always written.
"""

from dataclasses import dataclass
from typing import Literal

from squeeze_jax.study.sqz_files import CODERS


@dataclass(frozen=True)
class Column:
    """Describes the values of a column and how they are shown.

    Attributes:
      heading: heading of the column, without the unit.
      format: format specification of its numbers.
      kind: "label" identifies a trial or says how it ended; "design" is the same for all seeds;
        "result" gets a confidence interval over the seeds; "run" is averaged over the seeds.
      is_cost: whether a Pareto front shows accuracy against it.
      unit: unit of its numbers; "%" limits the axis of a figure to 0 … 100, and "bytes" and "MiB"
        mark sizes of a net.
      is_always_written: whether sweep.csv has the column before any trial has a value.
    """

    heading: str
    format: str = ",.4g"
    kind: Literal["label", "design", "result", "run"] = "run"
    is_cost: bool = False
    unit: str = ""
    is_always_written: bool = False

    @property
    def title(self) -> str:
        """Returns the heading with its unit: "Size (MiB)"."""
        return f"{self.heading} ({self.unit})" if self.unit else self.heading

    def show(self, value: float | None) -> str:
        """Returns a number as text; a dash for None."""
        return "–" if value is None else format(value, self.format)


def _coder_column(coder: str) -> Column:
    """Returns the column of the size of a trial's net in a .sqz file of a coder."""
    return Column(f"{coder.capitalize()}-coded", ",.0f", "result", is_cost=True, unit="bytes")


# By name, in the order of the Pareto panels; the upper axis of the figure shows the first size that
# differs between points.
COLUMNS: dict[str, Column] = {
    "trial": Column("Trial", kind="label"),
    "data": Column("Data version", kind="label"),
    "seed": Column("Seed", kind="label"),
    "status": Column("Status", kind="label"),
    "reason": Column("Reason", kind="label"),
    "params": Column("Parameters", ",.0f", "design"),
    "model_mb": Column("Size", ",.3g", "design", is_cost=True, unit="MiB"),
    "macs": Column("MACs", ",.0f", "design", is_cost=True),
    "ram_bytes": Column("RAM", ",.0f", "design", is_cost=True, unit="bytes"),
    "engine_ram_bytes": Column("RAM, C engine", ",.0f", "design", is_cost=True, unit="bytes"),
    "flash_bytes": Column("Flash", ",.0f", "design", unit="bytes"),
    "cycles": Column("Cycles", ",.0f", "design", is_cost=True),
    "energy": Column("Energy", ",.0f", "design", is_cost=True, unit="MACs"),
    "top1": Column("Top-1", ".1f", "result", unit="%", is_always_written=True),
    "top5": Column("Top-5", ".1f", "result", unit="%", is_always_written=True),
    "loss": Column("Loss", ".3f", "result", is_always_written=True),
    "test_top1": Column("Test top-1", ".1f", "result", unit="%"),
    "test_top5": Column("Test top-5", ".1f", "result", unit="%"),
    "steps": Column("Steps", ",.0f"),
    "seconds": Column("Seconds", ",.1f", is_always_written=True),
    "images_per_second": Column("Images/s", ",.0f", is_always_written=True),
    **{f"bytes_{coder}": _coder_column(coder) for coder in CODERS},
    "sqz_top1": Column("Top-1 of the coded net", ".1f", "result", unit="%"),
}


def all_columns() -> dict[str, Column]:
    """Returns COLUMNS, and a column for each coder that was added to CODERS later."""
    added = (coder for coder in CODERS if f"bytes_{coder}" not in COLUMNS)
    return COLUMNS | {f"bytes_{coder}": _coder_column(coder) for coder in added}


def column(name: str) -> Column:
    """Returns the column of this name; the default column for an unknown name."""
    return all_columns().get(name) or Column(name.replace("_", " "))


def direction(metric: str) -> Literal["maximize", "minimize"]:
    """Returns whether a better net has a larger or a smaller value of a column."""
    return "minimize" if metric == "loss" or column(metric).is_cost else "maximize"


def merit(metric: str, value: float) -> float:
    """Returns a value of a column as a number that is larger for a better net."""
    return value if direction(metric) == "maximize" else -value


def labels() -> set[str]:
    """Returns the names of the columns that hold no measure, those of the kind "label"."""
    return {name for name, entry in COLUMNS.items() if entry.kind == "label"}
