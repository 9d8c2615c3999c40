"""A config and its `sweep()` -> named trials, each a whole config."""

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict

from squeeze_jax.errors import UserError

Overrides = Mapping[str, Any]


@dataclass(frozen=True)
class Trial:
    """One training of a study."""

    name: str  # "squeeze_ratio=0.25,seed=1": unique in the study, and a folder's name
    overrides: dict[str, Any]  # dotted key -> value
    config: ConfigDict


def make_trials(config: ConfigDict, sweep: Callable[[ConfigDict], Iterable[Overrides]], set_by_user: Iterable[str] = ()) -> list[Trial]:
    """The trials that `sweep(config)` yields, in its order.

    Args:
      config: the study's config.
      sweep: yields flat overrides, {"model.squeeze_ratio": 0.25, "seed": 1}.
      set_by_user: dotted keys set on the command line.

    Raises:
      UserError: an override that names no key of the config, two trials of one name, a key both swept and set by the user.
    """
    points = [dict(overrides) for overrides in sweep(config)]
    if not points:
        raise UserError("the sweep has no trials (is seeds 0?)")
    swept = list(dict.fromkeys(key for point in points for key in point))
    if clash := [key for key in set_by_user if key in swept]:
        raise UserError(
            f"{', '.join(clash)} is swept by this config, so it can't be set on the command line; edit sweep() or use configs/squeezenet.py"
        )
    short = short_names(swept)
    trials = []
    for point in points:
        trial = copy.deepcopy(config)
        for key, value in point.items():
            _set(trial, key, value)
        name = ",".join(f"{short[key]}={_readable(value)}" for key, value in point.items())
        trials.append(Trial(name, point, trial))
    if twice := [name for name, count in Counter(trial.name for trial in trials).items() if count > 1]:
        raise UserError(f"the sweep yields {twice[0]} more than once")
    return trials


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """Dotted key -> its last component, or the whole key where two keys share that."""
    keys = list(keys)
    last = Counter(key.rpartition(".")[2] for key in keys)
    return {key: key.rpartition(".")[2] if last[key.rpartition(".")[2]] == 1 else key for key in keys}


def _readable(value: Any) -> str:
    """A value as part of a folder's name: (6, 6, 8, 1) -> 6-6-8-1."""
    text = "-".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
    return text.replace("/", "_")


def _set(config: ConfigDict, key: str, value: Any) -> None:
    *parents, leaf = key.split(".")
    node = config
    for parent in parents:
        node = node.get(parent) if isinstance(node, ConfigDict) else None
    if not isinstance(node, ConfigDict) or leaf not in node:
        raise UserError(f"the sweep sets {key}, which is no key of the config")
    try:
        node[leaf] = value
    except TypeError as e:
        raise UserError(f"the sweep sets {key}={value!r}: {e}") from e
