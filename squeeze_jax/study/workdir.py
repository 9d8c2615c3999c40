"""The files of a study: the only module that knows, reads and writes them.

<workdir>/study.json                  command, commit, versions, device, config, data, trials, costs
<workdir>/sweep.csv                   one row a trial; its columns are those of columns.COLUMNS
<workdir>/trials/<name>/config.json   the trial's config and class names
                       /metrics.jsonl, /checkpoints/   written while it trains
                       /result.json   how it ended; a trial without one is pending
                       /error.txt     the traceback of a trial that failed
                       /net.<coder>.sqz   its compressed net, where `compress` asks for it
                       /lock          held by the launcher that runs it
"""

import csv
import fcntl
import io
import json
import math
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from squeeze_jax.data import Data, DataConfig
from squeeze_jax.errors import UserError
from squeeze_jax.files import check_file, nearest_existing, write_atomically, write_errors
from squeeze_jax.study import data_versions
from squeeze_jax.study.columns import all_columns, labels
from squeeze_jax.study.environment import environment
from squeeze_jax.study.records import STATUSES, Paper, StudyRecord, TrialRecord
from squeeze_jax.study.schema import SCHEMA, flatten, upgrade_study
from squeeze_jax.study.trials import Trial, last_part, short_names
from squeeze_jax.train.checkpoint import CONFIG_FILE, METRICS_FILE, WEIGHTS

# Keys that say which trials there are, how they are drawn and which files are made of them.
FREE_KEYS = ("seeds", "budget.", "report.", "compress.coders")


class Workdir:
    """The folder of a study."""

    def __init__(self, path: Path | str):
        """Names a folder, which need not exist yet."""
        self.path = Path(path)
        self.table = self.path / "sweep.csv"
        self._study = self.path / "study.json"

    def trial_directory(self, name: str) -> Path:
        """Returns the folder of a trial's files."""
        return self.path / "trials" / name

    def trial_names(self) -> set[str]:
        """Returns the names of the trials that have a folder."""
        return {folder.name for folder in self.path.glob("trials/*")}

    def check_writable(self) -> None:
        """Rejects, with a UserError, a path that no folder can have, or one that takes no files."""
        check_file(self._study)

    # ------------------------------------------------------------ study.json

    def open_study(
        self,
        config: ConfigDict,
        trials: Sequence[Trial],
        costs: Mapping[str, Mapping[str, float]],
        command: str,
        defaults: ConfigDict | None = None,
        data: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Writes study.json, after checking that an existing one is of the same study.

        The number of seeds and the budget may change from launch to launch: they add trials or
        leave some out. Trials on other versions of the data stay as they are. Renamed keys are
        compared under today's names.

        Args:
          config: the study's config.
          trials: the study's trials.
          costs: trial name -> column -> what the design costs.
          command: the command line that launched the study.
          defaults: every key with its default value, which a key counts as that an older workdir
            lacks; a key that is not among them must be in the old workdir.
          data: the versions of the data, see `data_versions`.

        Raises:
          UserError: the workdir holds trials of another config, or one for which derive() now
            sets something else; the message shows what differs.
        """
        settings = _as_json(config)
        shared = flatten(settings)
        derived = {trial.name: _derived(shared, trial) for trial in trials}
        others = []
        if self._study.exists():
            self._check_same_study(shared, derived, flatten(_as_json(defaults)) if defaults else {})
            before = upgrade_study(json.loads(self._study.read_bytes()))["trials"]
            others = [each for each in before if not data_versions.is_current(each, trials)]
        swept = dict.fromkeys(key for trial in trials for key in trial.overrides if key != "seed")
        study = {
            "schema": SCHEMA,
            "study": config.study,
            "preset": config.preset,
            **environment(command),
            "config": settings,
            "swept": list(swept),
            "report": settings["report"],
            "data": list(data),
            "trials": others
            + [
                {
                    "name": trial.name,
                    "overrides": trial.overrides,
                    "derived": derived[trial.name],
                    "costs": costs[trial.name],
                }
                | ({"data": trial.data} if trial.data > 1 else {})
                for trial in trials
            ],
        }
        write_atomically(self._study, json.dumps(study, indent=1))

    def _check_same_study(
        self,
        shared: dict[str, Any],
        derived: Mapping[str, dict[str, Any]],
        defaults: dict[str, Any],
    ) -> None:
        before = self.read_record()
        # Older workdirs lack it: their trials had no floor of steps, which few data sets reach.
        floor = {"train.min_steps": shared.get("train.min_steps")}
        config = defaults | floor | flatten(before.config)
        if before.data:  # these say more than where they lie
            config["data.data_dir"] = shared.get("data.data_dir")
        pairs = [("trials of another config", config, shared)]
        pairs += [
            (f"another {trial.name}", shared | dict(trial.derived), shared | derived[trial.name])
            for trial in before.trials
            if trial.name in derived and trial.derived is not None
        ]
        for what, old, new in pairs:
            if difference := _difference(old, new):
                raise UserError(
                    f"{self.path} holds {what}: {difference}; "
                    "give another --workdir, or remove the old one"
                )

    def known_data(self) -> tuple[Mapping[str, Any], ...]:
        """Returns the versions of the data that study.json holds; none before the first launch."""
        return self.read_record().data if self._study.exists() else ()

    def locate(self, data: DataConfig) -> DataConfig:
        """Returns the data section with the whole path of its folder.

        A relative path that leads nowhere from here is taken from where the study began.
        """
        path = Path(data.data_dir).expanduser()
        if not data.data_dir or "://" in data.data_dir or path.is_absolute():
            return data
        if not path.exists() and self._study.exists():
            record = self.read_record()
            for version in record.data:
                given = version["overrides"].get("data.data_dir", record.config["data"]["data_dir"])
                if given == data.data_dir:
                    path = Path(version["data_dir"])
        return replace(data, data_dir=str(path.absolute()))

    def read_record(self) -> StudyRecord:
        """Reads study.json; its trials are as planned, without results.

        Raises:
          UserError: the folder is no workdir, or the file is damaged.
        """
        if not self._study.is_file():
            raise UserError(f"{self.path} is not a sweep's workdir: it has no study.json")
        try:
            raw = upgrade_study(json.loads(self._study.read_bytes()))
            report, paper = raw["report"], raw["report"].get("paper")
            swept = tuple(key for key in raw["swept"] if key != "seed")
            return StudyRecord(
                name=raw["study"],
                preset=raw["preset"],
                command=raw["command"],
                commit=raw["commit"],
                versions=raw["versions"],
                device=raw["device"],
                started=raw["started"],
                config=raw["config"],
                swept=swept,
                x=report["x"],
                label=report["label"],
                metric=paper["metric"] if paper else report["metric"],
                paper=Paper(
                    paper["metric"],
                    paper["source"],
                    tuple((x, float(y)) for x, y in paper["points"]),
                )
                if paper
                else None,
                trials=tuple(_planned(trial, swept, raw) for trial in raw["trials"]),
                data=tuple(raw.get("data") or ()),
            )
        except KeyError as error:
            raise UserError(f"{self._study} is incomplete: no {error}") from error
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{self._study} is damaged: {error}") from error

    # ------------------------------------------------------------ a trial

    @contextmanager
    def lock(self, name: str) -> Iterator[bool]:
        """Yields whether this launcher got the trial.

        The system releases the lock when the launcher's process ends, however it ends.
        """
        directory = self.trial_directory(name)
        with write_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
            file = (directory / "lock").open("w")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def has_checkpoint(self, name: str) -> bool:
        """Returns whether the trial has saved its state."""
        return any(
            path.name.isdecimal() for path in (self.trial_directory(name) / WEIGHTS).glob("*")
        )

    def free_bytes(self) -> int:
        """Returns how many bytes the disk of the folder still takes."""
        return shutil.disk_usage(nearest_existing(self.path)).free

    def write_config(self, trial: Trial, data: Data) -> None:
        """Writes the trial's config and its class names, for whoever opens its checkpoint alone."""
        record = trial.config.to_dict() | {
            "num_classes": data.num_classes,
            "class_names": data.class_names,
        }
        record["data"]["data_dir"] = data.config.data_dir
        path = self.trial_directory(trial.name) / CONFIG_FILE
        write_atomically(path, json.dumps(record, indent=1))

    def write_result(self, name: str, result: Mapping[str, Any]) -> None:
        """Marks a trial as ended: {"status": "ok", "top1": 96.1, ...}."""
        write_atomically(self._result(name), json.dumps(result, indent=1))

    def read_result(self, name: str) -> dict[str, Any] | None:
        """Returns how a trial ended; None while it is pending."""
        path = self._result(name)
        return json.loads(path.read_text()) if path.exists() else None

    def forget_result(self, name: str) -> None:
        """Makes a failed trial pending again, for the launchers that wait for it."""
        self._result(name).unlink(missing_ok=True)

    def write_error(self, name: str, traceback: str) -> None:
        """Keeps the traceback of a trial that failed."""
        write_atomically(self.trial_directory(name) / "error.txt", traceback)

    def sqz_path(self, name: str, coder: str) -> Path:
        """Returns the path of a trial's compressed network."""
        return self.trial_directory(name) / f"net.{coder}.sqz"

    def write_sqz(self, name: str, coder: str, content: bytes) -> bytes:
        """Writes a trial's compressed network and returns the bytes of the file."""
        path = self.sqz_path(name, coder)
        write_atomically(path, content)
        return path.read_bytes()

    def status(self, name: str) -> str:
        """Returns one of STATUSES."""
        result = self.read_result(name)
        return result["status"] if result else "pending"

    def counts(self) -> dict[str, int]:
        """Returns how many of the study's trials have each status."""
        return dict(Counter(self.status(trial.name) for trial in self.read_record().trials))

    def read_curve(self, name: str) -> list[dict[str, Any]]:
        """Reads metrics.jsonl: one entry a step, in order; empty while there is none.

        Raises:
          UserError: the file is damaged.
        """
        path = self.trial_directory(name) / METRICS_FILE
        if not path.exists():
            return []
        steps: dict[int, dict[str, Any]] = {}
        # What follows the last newline is still being written.
        lines = path.read_bytes().split(b"\n")[:-1]
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
                # The training and evaluation lines of a step are one entry. A resumed trial repeats
                # some steps; the last line of a step counts.
                steps.setdefault(record["step"], {}).update(record)
            except (ValueError, TypeError, KeyError) as error:
                raise UserError(
                    f"{path} is damaged: line {number} is no record of a step"
                ) from error
        return [steps[step] for step in sorted(steps)]

    def read_curves(self) -> dict[str, list[dict[str, Any]]]:
        """Returns each trial's `read_curve` by name."""
        return {trial.name: self.read_curve(trial.name) for trial in self.read_record().trials}

    def _result(self, name: str) -> Path:
        return self.trial_directory(name) / "result.json"

    # ------------------------------------------------------------ sweep.csv

    def read_rows(self) -> list[dict[str, Any]]:
        """Returns the rows of the table from study.json and the trials' results, all of equal keys.

        Raises:
          UserError: the folder is no workdir.
        """
        study = self.read_record()
        short = short_names(study.swept)
        several = any(trial.data > 1 for trial in study.trials)
        ended = [
            (trial, self.read_result(trial.name) or {"status": "pending"}) for trial in study.trials
        ]
        costs = dict.fromkeys(name for trial, _ in ended for name in trial.costs)
        measured = dict.fromkeys(name for _, result in ended for name in result)
        known = {
            name: entry
            for name, entry in all_columns().items()
            if entry.kind != "label" and name not in costs
        }
        always = [name for name, entry in known.items() if entry.is_always_written]
        results = [name for name in dict.fromkeys((*always, *measured)) if name in known]
        return [
            {
                "trial": trial.name,
                **{short[key]: trial.overrides.get(key) for key in study.swept},
                **({"data": trial.data} if several else {}),
                "seed": trial.overrides.get("seed"),
                "status": result["status"],
                **{name: trial.costs.get(name) for name in costs},
                **{name: result.get(name) for name in results},
                "reason": result.get("reason"),
            }
            for trial, result in ended
        ]

    def write_table(self) -> Path:
        """Writes sweep.csv: one row a trial.

        Raises:
          UserError: the folder is no workdir.
        """
        rows = self.read_rows()
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.table, text.getvalue())
        return self.table

    def read_trials(self) -> tuple[TrialRecord, ...]:
        """Returns the trials with what sweep.csv says of them; pending where it says nothing.

        Raises:
          UserError: the folder is no workdir, or a file is damaged.
        """
        trials = self.read_record().trials
        if not self.table.exists():
            return trials
        known = {trial.name: trial for trial in trials}
        try:
            text = self.table.read_bytes().decode()
            # strict: a quoted reason that never ends is an error, not a cell that holds the rest.
            rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
            if not text.endswith("\n") or not {"trial", "status"} <= set(rows.fieldnames or ()):
                raise ValueError("the file is cut short")
            for row in rows:
                name = row["trial"]
                if name not in known:
                    raise ValueError(f"line {rows.line_num}: {name!r} is no trial of study.json")
                known[name] = _with_row(known[name], row, rows.line_num)
        except (ValueError, csv.Error) as error:
            raise UserError(f"{self.table} is damaged: {error}") from error
        return tuple(known.values())

    # ------------------------------------------------------------ the report

    def write_report(self, name: str, content: bytes) -> Path:
        """Writes a file of the report, such as sweep.png.

        Raises:
          UserError: a folder has its name.
          WriteError: it cannot be written.
        """
        path = self.path / name
        check_file(path)
        write_atomically(path, content)
        return path


def _as_json(config: ConfigDict) -> dict[str, Any]:
    """Returns a config as it comes back from JSON, where tuples are lists."""
    return json.loads(json.dumps(config.to_dict()))


def _derived(shared: Mapping[str, Any], trial: Trial) -> dict[str, Any]:
    """Returns what differs from the study's config in a trial's, besides its overrides."""
    return {
        key: value
        for key, value in flatten(_as_json(trial.config)).items()
        if key not in trial.overrides and shared.get(key) != value
    }


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    keys = dict.fromkeys((*old, *new))
    return ", ".join(
        f"{key} was {old.get(key)!r}, is {new.get(key)!r}"
        for key in keys
        if not key.startswith(FREE_KEYS) and old.get(key) != new.get(key)
    )


def _planned(
    trial: Mapping[str, Any], swept: Sequence[str], study: Mapping[str, Any]
) -> TrialRecord:
    """Returns a trial of study.json; a key that it does not override has the config's value."""
    overrides, config = trial["overrides"], study["config"]
    version = trial.get("data", 1)
    several = any(other.get("data", 1) > 1 for other in study["trials"])

    def value(key: str) -> Any:
        if key in overrides:
            return overrides[key]
        return reduce(lambda node, part: node[part], key.split("."), config)

    return TrialRecord(
        name=trial["name"],
        design={key: value(key) for key in swept} | ({"data": version} if several else {}),
        seed=overrides.get("seed", config.get("seed")),
        overrides=overrides,
        derived=trial.get("derived"),
        costs=trial.get("costs", {}),
        data=version,
    )


def _with_row(trial: TrialRecord, row: Mapping[str | None, Any], line: int) -> TrialRecord:
    """Returns the trial with its row of sweep.csv; raises ValueError for a damaged row."""
    if None in row or None in row.values():
        raise ValueError(f"line {line} has not as many cells as the header")
    if row["status"] not in STATUSES:
        raise ValueError(f"line {line}: status {row['status']!r} is none of {', '.join(STATUSES)}")
    # The whole key where two swept keys share their last part.
    designs = {*trial.design, *map(last_part, trial.design)}
    try:
        measures = {
            str(name): _finite(cell) for name, cell in row.items() if name not in labels() | designs
        }
    except ValueError as error:
        raise ValueError(f"line {line}: {error}") from error
    return replace(trial, status=row["status"], measures=measures, reason=row.get("reason", ""))


def _finite(cell: str) -> float | None:
    """Returns a cell's number; None where it is empty or not finite (the loss when diverged)."""
    value = float(cell or "nan")
    return value if math.isfinite(value) else None
