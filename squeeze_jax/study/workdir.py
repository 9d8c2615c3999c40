"""What a study leaves in its workdir, and the table made of it.

<workdir>/study.json                  command, commit, versions, device, config, trials with their costs
<workdir>/sweep.csv                   one row a trial
<workdir>/trials/<name>/config.json   the trial's config and class names
                       /metrics.jsonl, /checkpoints/   written while it trains
                       /result.json   how it ended; its presence is what makes a trial finished
                       /net.<coder>.sqz   its net in few bytes, where `compress` asks for it
                       /lock          held by the launcher that runs it
"""

import csv
import fcntl
import importlib.metadata
import io
import json
import os
import platform
import re
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from squeeze_jax.cost import design_costs
from squeeze_jax.data import Data
from squeeze_jax.errors import UserError
from squeeze_jax.files import write_atomically
from squeeze_jax.schema import SCHEMA, flatten, upgrade_study
from squeeze_jax.study import compression
from squeeze_jax.study.trials import Trial, short_names

OUTCOMES = ("ok", "diverged", "chance")  # of a trial that ran to its end; "failed" is tried again
MEASURED = ("top1", "top5", "loss", "seconds", "images_per_second")


def trial_directory(workdir: Path, name: str) -> Path:
    """Where a trial keeps its files."""
    return workdir / "trials" / name


def read_study(workdir: Path) -> dict[str, Any]:
    """study.json.

    Raises:
      UserError: the folder is not a sweep's workdir.
    """
    path = workdir / "study.json"
    if not path.exists():
        raise UserError(f"{workdir} is not a sweep's workdir: it has no study.json")
    try:
        return upgrade_study(json.loads(path.read_text()))
    except (ValueError, KeyError, AttributeError, TypeError) as e:
        raise UserError(f"{path} is damaged or of another version: {e}") from e


def read_result(workdir: Path, name: str) -> dict[str, Any] | None:
    """How a trial ended: {"status", "top1", ...}; None while it has not."""
    path = trial_directory(workdir, name) / "result.json"
    return json.loads(path.read_text()) if path.exists() else None


def write_config(workdir: Path, trial: Trial, data: Data) -> None:
    """Writes what a checkpoint needs to be used on its own: the trial's config and the meaning of its outputs."""
    record = trial.config.to_dict() | {
        "num_classes": data.num_classes,
        "class_names": data.class_names,
    }
    write_atomically(
        trial_directory(workdir, trial.name) / "config.json", json.dumps(record, indent=1)
    )


def status(workdir: Path, name: str) -> str:
    """ok, diverged, chance, failed, or pending while there is no result."""
    result = read_result(workdir, name)
    return result["status"] if result else "pending"


def counts(workdir: Path) -> dict[str, int]:
    """How many of the study's trials have each status."""
    return dict(Counter(status(workdir, trial["name"]) for trial in read_study(workdir)["trials"]))


def write_result(workdir: Path, name: str, result: dict[str, Any]) -> None:
    """Marks a trial as ended."""
    write_atomically(trial_directory(workdir, name) / "result.json", json.dumps(result, indent=1))


def forget_result(workdir: Path, name: str) -> None:
    """A trial that failed is pending again while it is tried again, for whoever waits for it."""
    (trial_directory(workdir, name) / "result.json").unlink(missing_ok=True)


@contextmanager
def trial_lock(workdir: Path, name: str) -> Iterator[bool]:
    """Whether this launcher got the trial; the system releases the lock when its process ends, however it ends."""
    directory = trial_directory(workdir, name)
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def costs(config: ConfigDict, num_classes: int) -> dict[str, float]:
    """Returns what a design point costs before anything is trained, see `design_costs`."""
    size = config.data.image_size
    return design_costs(config.model, num_classes, (size, size, 3))


def environment(command: str) -> dict[str, Any]:
    """What a result depends on besides the config: command, commit, versions, device, the time."""
    device = jax.devices()[0]
    packages = (
        "jax",
        "jaxlib",
        "flax",
        "optax",
        "orbax-checkpoint",
        "grain",
        "tensorflow-datasets",
        "numpy",
    )
    return {
        "command": command,
        "commit": _commit(),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in packages},
        "device": f"{jax.device_count()} x {device.device_kind} ({device.platform}), {jax.process_count()} process(es), "
        f"{_cores()} of {os.cpu_count()} cores ({_processor()})",
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _cores() -> int:
    """How many this process may run on; a trial's last digits depend on it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _processor() -> str:
    """As "AMD EPYC, x86_64"; the architecture alone where Linux doesn't say more."""
    try:
        names = re.findall(
            r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE
        )
    except OSError:
        names = []
    return ", ".join([*names[:1], platform.machine()])


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(
            ("git", "-C", Path(__file__).parent, *arguments),
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + (
            "+changes" if git("status", "--porcelain", "--untracked-files=no") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def open_study(
    workdir: Path,
    config: ConfigDict,
    trials: Sequence[Trial],
    trial_costs: dict[str, Any],
    command: str,
    defaults: ConfigDict | None = None,
) -> None:
    """Writes study.json, after making sure that an old workdir holds the same study.

    The number of seeds and the budget may change from launch to launch: they add trials or leave some out, and touch none. A key that
    an older workdir lacks counts as its default there, and renamed keys are compared under today's names.

    Args:
      workdir: of the study.
      config: of the study.
      trials: of the study.
      trial_costs: see `costs`, by trial.
      command: that launched it.
      defaults: the config's keys with their default values; keys not among them must stand in the old workdir.

    Raises:
      UserError: the workdir holds trials of another config, or one for which `derive` now sets something else; the message shows
        what differs.
    """
    path = workdir / "study.json"
    settings = _plain(config)
    shared = flatten(settings)
    derived = {trial.name: _derived(shared, trial) for trial in trials}
    if path.exists():
        before = read_study(workdir)
        known = flatten(_plain(defaults)) if defaults else {}
        pairs = [("trials of another config", known | flatten(before["config"]), shared)]
        for trial in before["trials"]:
            if trial["name"] in derived and "derived" in trial:  # older studies have none
                pairs.append(
                    (
                        f"another {trial['name']}",
                        shared | trial["derived"],
                        shared | derived[trial["name"]],
                    )
                )
        for what, old, new in pairs:
            if difference := _difference(old, new):
                raise UserError(
                    f"{workdir} holds {what}: {difference}; give another --workdir, or remove the old one"
                )
    study = {
        "schema": SCHEMA,
        "study": config.study,
        "preset": config.preset,
        **environment(command),
        "config": settings,
        "swept": [
            key
            for key in dict.fromkeys(key for trial in trials for key in trial.overrides)
            if key != "seed"
        ],
        "report": settings["report"],
        "trials": [
            {
                "name": trial.name,
                "overrides": trial.overrides,
                "derived": derived[trial.name],
                "costs": trial_costs[trial.name],
            }
            for trial in trials
        ],
    }
    write_atomically(path, json.dumps(study, indent=1))


def _plain(config: ConfigDict) -> dict[str, Any]:
    """A config as it comes back from JSON: there tuples are lists."""
    return json.loads(json.dumps(config.to_dict()))


def _derived(shared: dict[str, Any], trial: Trial) -> dict[str, Any]:
    """Dotted key -> value of what the trial's config has other than the study's, besides its overrides."""
    return {
        key: value
        for key, value in flatten(_plain(trial.config)).items()
        if key not in trial.overrides and shared.get(key) != value
    }


def _difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    # These say which trials there are, how they are drawn and which files are made of them, not how one is trained.
    free = ("seeds", "budget.", "report.", "compress.coders")
    keys = [key for key in old | new if not key.startswith(free) and old.get(key) != new.get(key)]
    return ", ".join(f"{key} was {old.get(key)!r}, is {new.get(key)!r}" for key in keys)


def write_table(workdir: Path) -> Path:
    """Writes sweep.csv from study.json and the trials' results: one row a trial, "pending" where it has not ended.

    Raises:
      UserError: the folder is not a sweep's workdir.
    """
    study = read_study(workdir)
    short = short_names(study["swept"])
    coders = study["config"].get("compress", {}).get("coders", ())  # older studies have none
    rows = []
    for trial in study["trials"]:
        result = read_result(workdir, trial["name"]) or {"status": "pending"}
        swept = {short[key]: trial["overrides"].get(key) for key in study["swept"]}
        rows.append(
            {
                "trial": trial["name"],
                **swept,
                "seed": trial["overrides"].get("seed"),
                "status": result["status"],
                **trial["costs"],
                **{
                    key: result.get(key)
                    for key in (*MEASURED, *compression.columns(coders), "reason")
                },
            }
        )
    # A trial that can't be built has no costs, so no one row is sure to have every column.
    columns = list(dict.fromkeys(key for row in sorted(rows, key=len, reverse=True) for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    table = workdir / "sweep.csv"
    write_atomically(table, text.getvalue())
    return table
