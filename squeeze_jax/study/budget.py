"""What a design point costs, and what it may cost to be trained at all: the `budget` section."""

import math
from collections.abc import Mapping

from squeeze_jax.config_parsing import plain_section
from squeeze_jax.cost import design_costs
from squeeze_jax.data import Data, DataConfig
from squeeze_jax.network import Preprocessing
from squeeze_jax.study.trials import Trial

# Keys of the budget that are not max_ or min_ and the name of a cost.
COST_OF = {"ram": "ram_bytes", "engine_ram": "engine_ram_bytes", "flash": "flash_bytes"}

Limits = Mapping[str, tuple[float, float]]  # column -> the least and the most that it may be


def limits(budget: Mapping[str, float | None]) -> Limits:
    """Returns the range of each cost that a budget limits, by the cost's column."""
    found: dict[str, tuple[float, float]] = {}
    for key, limit in budget.items():
        if limit is None:
            continue
        kind, _, cost = key.partition("_")
        name = COST_OF.get(cost, cost)
        least, most = found.get(name, (0.0, math.inf))
        found[name] = (limit, most) if kind == "min" else (least, limit)
    return found


def fits(costs: Mapping[str, float], limits: Limits) -> bool:
    """Returns whether costs are within limits.

    Costs that lack one are not: the C engine cannot run the network. A design point without any
    costs, which cannot be built, is: it fails with its reason.
    """
    return not costs or all(
        name in costs and least <= costs[name] <= most for name, (least, most) in limits.items()
    )


def describe(limits: Limits) -> str:
    """Returns limits in words: "12,500,000 macs, 4,096 to 98,304 ram_bytes"."""
    return ", ".join(
        f"{least:,} to {most:,} {name}" if least else f"{most:,} {name}"
        for name, (least, most) in limits.items()
    )


def cost_key(trial: Trial) -> tuple[str, DataConfig]:
    """Returns what trials of equal costs have in common."""
    return repr(trial.parsed.model), trial.parsed.data


def trial_costs(trial: Trial, data: Data) -> dict[str, float]:
    """Returns what a trial's design costs; see `design_costs`."""
    preprocessing = Preprocessing.from_metadata(plain_section(trial.parsed.data))
    return design_costs(trial.parsed.model, data.num_classes, preprocessing.input_shape)
