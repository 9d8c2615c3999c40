"""Config keys and study.json as older versions wrote them, read under today's names."""

from collections.abc import Mapping
from typing import Any

SCHEMA = 2  # of study.json; files of version 1 do not name theirs

# Version 1's name -> today's. A section is renamed with all its keys.
RENAMED_KEYS = {
    "sweep": "budget",
    "train.accumulate": "train.grad_accum_steps",
    "train.keep": "train.prune_density",
    "train.share_bits": "train.codebook_bits",
    "train.grid": "train.qat",
    "pruned.keep": "pruned.prune_density",  # configs/deep_compression.py
    "sparse.keep": "sparse.prune_density",  # configs/dsd.py
}


def current_key(key: str) -> str:
    """Returns today's name of a dotted config key.

    "train.accumulate" -> "train.grad_accum_steps".
    """
    for old, new in RENAMED_KEYS.items():
        if key == old or key.startswith(f"{old}."):
            return new + key.removeprefix(old)
    return key


def upgrade_study(study: dict[str, Any]) -> dict[str, Any]:
    """Returns the content of a study.json of any version under today's key names.

    Raises:
      ValueError: a later version wrote it.
      AttributeError, TypeError: a part of it is of another type.
    """
    if (version := study.get("schema", 1)) > SCHEMA:
        raise ValueError(
            f"it has schema version {version}, and this program reads up to {SCHEMA}: "
            "update squeeze_jax"
        )
    if version == SCHEMA:
        return study
    parts = {
        "config": lambda config: nest(_renamed(flatten(config))),
        "swept": lambda keys: [current_key(key) for key in keys],
        "report": lambda report: (
            report | ({"x": current_key(report["x"])} if "x" in report else {})
        ),
        "trials": lambda trials: [_renamed_trial(trial) for trial in trials],
    }
    # What is missing is for the reader to say.
    return study | {name: upgrade(study[name]) for name, upgrade in parts.items() if name in study}


def _renamed_trial(trial: dict[str, Any]) -> dict[str, Any]:
    return trial | {
        part: _renamed(trial[part]) for part in ("overrides", "derived") if part in trial
    }


def _renamed(flat: Mapping[str, Any]) -> dict[str, Any]:
    return {current_key(key): value for key, value in flat.items()}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested dicts as one of dotted keys; an empty dict is a value."""
    flat = {}
    for key, value in tree.items():
        flat |= (
            flatten(value, f"{prefix}{key}.")
            if isinstance(value, dict) and value
            else {prefix + key: value}
        )
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the nested dicts that `flatten` makes `flat` of."""
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, leaf = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree
