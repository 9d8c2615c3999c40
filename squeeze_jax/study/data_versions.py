"""Tells whether a study's data are those that its earlier launches saw.

A version of the data is an entry of study.json: class names, images of each split, a fingerprint.
Trials on the first version have the names that sweep() gives them. Those on a later one have
",data=2" after it and are rows of their own.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from squeeze_jax.data import Data
from squeeze_jax.errors import UserError
from squeeze_jax.study.trials import TRIAL_PREFIX, Trial, set_key

Version = Mapping[str, Any]


def assign(
    trials: Sequence[Trial],
    data_of: Mapping[str, Data],
    known: Sequence[Version],
    new_data: bool,
) -> tuple[list[Trial], Sequence[Version]]:
    """Returns the trials with the number of their data's version, and all versions.

    Args:
      trials: a study's, as planned.
      data_of: each trial's data, by name.
      known: the versions that study.json holds; those of older programs hold none.
      new_data: whether data that it does not hold are welcome.

    Raises:
      UserError: the data differ from all versions, and are not welcome.
    """
    versions = [dict(version) for version in known]
    numbers = {}
    records = {data: data.record() for data in data_of.values()}
    for trial in trials:
        overrides = data_overrides(trial.overrides)
        record = records[data_of[trial.name]]
        own = [version for version in versions if version["overrides"] == overrides]
        same = [version for version in own if version["fingerprint"] == record["fingerprint"]]
        if same:
            same[0].update(record)  # it may lie elsewhere now
            number = same[0]["version"]
        else:
            if own and not new_data:
                raise UserError(
                    f"{record['data_dir'] or 'the data set'} has changed since this study began: "
                    f"{_difference(own[-1], record)}; train on it in rows of its own with "
                    "--new-data, or give another --workdir"
                )
            number = 1 + len(own)
            versions.append({"overrides": overrides, "version": number, **record})
        numbers[trial.name] = number
    return [_numbered(trial, numbers) for trial in trials], versions


def is_current(
    trial: Mapping[str, Any], current: Sequence[Trial], versions: Sequence[Version]
) -> bool:
    """Returns whether a trial of study.json is of a version that this launch trains on.

    Where no trial is left on its data, as beyond a budget, the newest version counts.

    Args:
      trial: as study.json holds it.
      current: the trials of this launch.
      versions: of `assign`.
    """
    overrides = data_overrides(trial["overrides"])
    used = {each.data for each in current if data_overrides(each.overrides) == overrides}
    known = [each["version"] for each in versions if each["overrides"] == overrides]
    return trial.get("data", 1) in (used or {max(known, default=1)})


def data_overrides(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a trial overrides of the data section, as it comes back from JSON."""
    own = {key: value for key, value in overrides.items() if key.startswith("data.")}
    return json.loads(json.dumps(own))


def _numbered(trial: Trial, numbers: Mapping[str, int]) -> Trial:
    """Returns a trial that is named after its version, as are its parents after theirs."""

    def versioned(name: str) -> str:
        return name if numbers[name] == 1 else f"{name},data={numbers[name]}"

    number = numbers[trial.name]
    if number == 1 and all(numbers[parent] == 1 for parent in trial.parents.values()):
        return trial
    config = trial.config.copy_and_resolve_references()
    for key, parent in trial.parents.items():
        set_key(config, key, TRIAL_PREFIX + versioned(parent))
    return dataclasses.replace(trial, name=versioned(trial.name), config=config, data=number)


def _difference(old: Version, new: Version) -> str:
    """Returns in words how two versions differ."""
    parts = []
    for what, left, right in (
        ("new", new["class_names"], old["class_names"]),
        ("gone", old["class_names"], new["class_names"]),
    ):
        if names := [name for name in left if name not in right]:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            parts.append(f"class {', '.join(map(repr, names[:3]))}{more} is {what}")
    before, now = old["images"], new["images"]
    parts += [
        f"{before.get(split, 0)} {split} images, now {now.get(split, 0)}"
        for split in dict.fromkeys((*before, *now))
        if before.get(split, 0) != now.get(split, 0)
    ]
    return ", ".join(parts) or "as many images, but other files or other sizes"
