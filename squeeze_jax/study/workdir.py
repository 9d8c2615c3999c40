"""The files of a study: the only module that knows, reads and writes them.

<workdir>/study.json                  command, commit, versions, device, config, data, trials, costs
<workdir>/search.json                 the designs drawn from a space, see search.py
<workdir>/sweep.csv                   one row a trial; its columns are those of columns.COLUMNS
<workdir>/trials/<name>/config.json   the trial's config and class names
                       /metrics.jsonl, /checkpoints/   written while it trains, as are the files
                       of train.trackers
                       /classes.json  its final evaluation by class
                       /result.json   how it ended; a trial without one is pending
                       /error.txt     the traceback of a trial that failed
                       /net.<coder>.sqz   its compressed net, where `compress` asks for it
                       /claims/       which launcher runs it, see claims.py
"""

import csv
import io
import json
import math
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from squeeze_jax import storage
from squeeze_jax.data import Data, DataConfig
from squeeze_jax.errors import UserError
from squeeze_jax.files import check_file, nearest_existing, write_atomically
from squeeze_jax.study import data_versions
from squeeze_jax.study.axes import find_axis
from squeeze_jax.study.claims import Claim, Claims
from squeeze_jax.study.columns import all_columns, labels
from squeeze_jax.study.curves import parse_curve
from squeeze_jax.study.environment import environment
from squeeze_jax.study.hypothesis import Hypothesis
from squeeze_jax.study.records import FINISHED, STATUSES, Paper, StudyRecord, TrialRecord
from squeeze_jax.study.schema import SCHEMA, flatten, upgrade_study
from squeeze_jax.study.trials import Trial, last_part, short_names
from squeeze_jax.train import has_batch_norm
from squeeze_jax.train.checkpoint import CLASSES_FILE, CONFIG_FILE, METRICS_FILE, WEIGHTS

# Keys that say which trials there are, how they are drawn and what is written of them.
FREE_KEYS = (
    *("seeds", "budget.", "report.", "compress.", "train.trackers"),
    *("search.", "stopping.scheduler"),
)
_AT_ONCE = 500  # files that are in memory at once


class Workdir:
    """The folder of a study, on a disk or in object storage.

    The result of a trial that has finished does not change any more, so it is read once.
    """

    def __init__(self, path: Path | str):
        """Names a folder, which need not exist yet."""
        self.path = storage.as_path(path)
        self.table = self.path / "sweep.csv"
        self.claims = Claims(self.path)
        self._study = self.path / "study.json"
        self._search = self.path / "search.json"
        self._finished: dict[str, dict[str, Any]] = {}

    def trial_directory(self, name: str) -> Path:
        """Returns the folder of a trial's files."""
        return self.path / "trials" / name

    def trial_names(self) -> set[str]:
        """Returns the names of the trials that have a folder."""
        return set(storage.list_names(self.path / "trials"))

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
        question: str = "",
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
          question: that the study answers, for its report.

        Raises:
          UserError: the workdir holds trials of another config, or one for which derive() now
            sets something else; the message shows what differs.
        """
        settings = _as_json(config)
        shared = flatten(settings)
        derived = {trial.name: _derived(shared, trial) for trial in trials}
        others = []
        if self.has_study():
            known = flatten(_as_json(defaults)) if defaults else {}
            self._check_same_study(shared, derived, known | _before_there_was(shared, trials))
            before = upgrade_study(json.loads(self._study.read_bytes()))["trials"]
            others = [each for each in before if not data_versions.is_current(each, trials, data)]
        swept = dict.fromkeys(key for trial in trials for key in trial.overrides if key != "seed")
        study = {
            "schema": SCHEMA,
            "study": config.study,
            "preset": config.preset,
            "question": question,
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
        config = defaults | flatten(before.config)
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
                    f"give another folder, or remove {self.path}"
                )

    def has_study(self) -> bool:
        """Returns whether a study was launched here."""
        return self._study.exists()

    def known_data(self) -> tuple[Mapping[str, Any], ...]:
        """Returns the versions of the data that study.json holds; none before the first launch."""
        return self.read_record().data if self.has_study() else ()

    def locate(self, data: DataConfig) -> DataConfig:
        """Returns the data section with the whole path of its folder.

        A relative path that leads nowhere from here is taken from where the study began.
        """
        path = Path(data.data_dir).expanduser()
        if not data.data_dir or "://" in data.data_dir or path.is_absolute():
            return data
        if not path.exists() and self.has_study():
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
            record = StudyRecord(
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
                metric=report["metric"],
                paper=Paper(
                    paper["source"],
                    tuple((x, float(y)) for x, y in paper["points"]),
                )
                if paper and paper["metric"] == report["metric"]
                else None,
                trials=_planned(raw, swept),
                data=tuple(raw.get("data") or ()),
                claim=Hypothesis.parse(report.get("claim") or {}),
                question=str(raw.get("question", "")),  # older workdirs have none
            )
            x = find_axis(record.x, [trial.design for trial in record.trials])
            return record if x == record.x else replace(record, x=x, label=last_part(x))
        except KeyError as error:
            raise UserError(f"{self._study} is incomplete: no {error}") from error
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{self._study} is damaged: {error}") from error

    def read_search(self) -> dict[str, Any] | None:
        """Returns what search.json holds, see `search.to_record`; None where there is none.

        Raises:
          UserError: the file is damaged.
        """
        if not self._search.exists():
            return None
        try:
            record = json.loads(self._search.read_bytes())
            _ = record["signature"], [(each["design"], each["verdict"]) for each in record["draws"]]
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{self._search} is damaged: {error!r}") from error
        return record

    def write_search(self, record: Mapping[str, Any]) -> None:
        """Writes search.json."""
        write_atomically(self._search, json.dumps(record, indent=1))

    # ------------------------------------------------------------ a trial

    def claim(self, name: str) -> AbstractContextManager[Claim | None]:
        """Yields this launcher's claim on the trial; None where another launcher holds it."""
        return self.claims.claim(self.trial_directory(name) / "claims")

    def is_claimed(self, name: str) -> bool:
        """Returns whether a launcher is running a trial, as far as can be told."""
        return self.claims.is_held(self.trial_directory(name) / "claims")

    def has_checkpoint(self, name: str) -> bool:
        """Returns whether the trial has saved its state."""
        saved = storage.list_names(self.trial_directory(name) / WEIGHTS)
        return any(each.isdecimal() for each in saved)

    def free_bytes(self) -> float:
        """Returns how many bytes the disk of the folder still takes; object storage is endless."""
        if storage.is_remote(self.path):
            return math.inf
        return shutil.disk_usage(nearest_existing(self.path)).free

    def write_config(self, trial: Trial, data: Data) -> None:
        """Writes the trial's config and its class names, for whoever opens its checkpoint alone."""
        record = trial.config.to_dict() | {
            "num_classes": data.num_classes,
            "class_names": data.class_names,
        }
        record["model"] |= trial.parsed.model.to_mapping()  # with the channels of the images
        record["data"]["data_dir"] = data.config.data_dir
        path = self.trial_directory(trial.name) / CONFIG_FILE
        write_atomically(path, json.dumps(record, indent=1))

    def write_result(self, name: str, result: Mapping[str, Any]) -> None:
        """Marks a trial as ended: {"status": "ok", "top1": 96.1, ...}."""
        write_atomically(self._result(name), json.dumps(result, indent=1))
        self._remember(name, dict(result))

    def read_result(self, name: str) -> dict[str, Any] | None:
        """Returns how a trial ended, as it is written now; None while it is pending."""
        self._finished.pop(name, None)
        return self.read_results([name])[name]

    def read_results(self, names: Iterable[str]) -> dict[str, dict[str, Any] | None]:
        """Returns how trials ended; None of those that are pending.

        It reads the results of those that had not finished the last time.
        """
        names = list(names)
        missing = [name for name in names if name not in self._finished]
        found: dict[str, dict[str, Any] | None] = {}
        contents = storage.read_all([self._result(name) for name in missing])
        for name, content in zip(missing, contents, strict=True):
            found[name] = None if content is None else json.loads(content)
            self._remember(name, found[name])
        return {name: found[name] if name in found else self._finished[name] for name in names}

    @property
    def finished(self) -> set[str]:
        """Returns the names of the trials that are known to have finished; reads nothing."""
        return set(self._finished)

    def _remember(self, name: str, result: dict[str, Any] | None) -> None:
        self._finished.pop(name, None)
        if result is not None and result["status"] in FINISHED:
            self._finished[name] = result

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
        return self.statuses([name])[name]

    def statuses(self, names: Iterable[str]) -> dict[str, str]:
        """Returns each trial's status; see `read_results`."""
        results = self.read_results(names)
        return {name: result["status"] if result else "pending" for name, result in results.items()}

    def counts(self) -> dict[str, int]:
        """Returns how many of the study's trials have each status."""
        names = [trial.name for trial in self.read_record().trials]
        return dict(Counter(self.statuses(names).values()))

    def read_curve(self, name: str) -> list[dict[str, Any]]:
        """Reads metrics.jsonl: one entry a step, in order; empty while there is none.

        Raises:
          UserError: the file is damaged.
        """
        return self.read_curves([name])[name]

    def read_curves(
        self, names: Sequence[str], at_most: int | None = None
    ) -> dict[str, list[dict[str, Any]]]:
        """Returns the `read_curve` of each of some trials by name.

        Args:
          names: of the trials.
          at_most: see `parse_curve`.
        """
        curves = {}
        for begin in range(0, len(names), _AT_ONCE):
            some = names[begin : begin + _AT_ONCE]
            paths = [self.trial_directory(name) / METRICS_FILE for name in some]
            for name, path, content in zip(some, paths, storage.read_all(paths), strict=True):
                curves[name] = parse_curve(path, content or b"", at_most)
        return curves

    def read_file_names(self, trials: Iterable[TrialRecord]) -> dict[str, list[str]]:
        """Returns the names of what each trial's folder holds, but for claims, by trial.

        In object storage, where each folder is a request, it lists only what a finished trial has.

        Args:
          trials: with their status.
        """
        if storage.is_remote(self.path):
            return {trial.name: [WEIGHTS] for trial in trials if trial.status in FINISHED}
        found = {
            trial.name: storage.list_names(self.trial_directory(trial.name)) for trial in trials
        }
        return {name: [each for each in names if each != "claims"] for name, names in found.items()}

    def read_classes(self, name: str) -> dict[str, Any] | None:
        """Returns a trial's final evaluation by class, see `train.evaluation.by_class`.

        None where there is none: the trial has not learned, or an older version trained it.

        Raises:
          UserError: the file is damaged.
        """
        path = self.trial_directory(name) / CLASSES_FILE
        if not path.exists():
            return None
        try:
            record = json.loads(path.read_bytes())
            float(record["calibration_error"])
            for each in record["classes"]:
                _ = each["name"], int(each["images"]), float(each["top1"] or 0)
            for label, answer, images in record["confusion"] or ():
                _ = record["classes"][label], record["classes"][answer], int(images)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise UserError(f"{path} is damaged: {error!r}") from error
        return record

    def _result(self, name: str) -> Path:
        return self.trial_directory(name) / "result.json"

    # ------------------------------------------------------------ sweep.csv

    def read_rows(self) -> list[dict[str, Any]]:
        """Returns the rows of the table from study.json and the trials' results, all of equal keys.

        Raises:
          UserError: the folder is no workdir.
        """
        study = self.read_record()
        short = _column_names(study.swept)
        several = any(trial.data > 1 for trial in study.trials)
        found = self.read_results(trial.name for trial in study.trials)
        ended = [(trial, found[trial.name] or {"status": "pending"}) for trial in study.trials]
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


def _before_there_was(shared: Mapping[str, Any], trials: Sequence[Trial]) -> dict[str, Any]:
    """Returns the values of keys that older workdirs lack and that are not today's defaults."""

    def changed_by_groups(trial: Trial) -> bool:
        train = trial.parsed.train
        return 0 < train.bn_group_size < train.batch_size and has_batch_norm(trial.parsed)

    values = {}
    if (key := "train.min_steps") in shared:  # a floor of steps, which few data sets reach
        values[key] = shared[key]
    if (key := "train.bn_group_size") in shared:
        values[key] = 0 if any(map(changed_by_groups, trials)) else shared[key]
    return values


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


def _planned(study: Mapping[str, Any], swept: Sequence[str]) -> tuple[TrialRecord, ...]:
    """Returns the trials of study.json; a key that one does not override has the config's value."""
    config = study["config"]
    several = any(trial.get("data", 1) > 1 for trial in study["trials"])

    def value(overrides: Mapping[str, Any], key: str) -> Any:
        if key in overrides:
            return overrides[key]
        return reduce(lambda node, part: node[part], key.split("."), config)

    def planned(trial: Mapping[str, Any]) -> TrialRecord:
        overrides, version = trial["overrides"], trial.get("data", 1)
        design = {key: value(overrides, key) for key in swept}
        return TrialRecord(
            name=trial["name"],
            design=design | ({"data": version} if several else {}),
            seed=overrides.get("seed", config.get("seed")),
            overrides=overrides,
            derived=trial.get("derived"),
            costs=trial.get("costs", {}),
            data=version,
        )

    return tuple(map(planned, study["trials"]))


def _column_names(keys: Iterable[str]) -> dict[str, str]:
    """Returns the column of each swept key: its short name, unless that is another column's."""
    taken = all_columns()
    return {key: key if name in taken else name for key, name in short_names(keys).items()}


def _with_row(trial: TrialRecord, row: Mapping[str | None, Any], line: int) -> TrialRecord:
    """Returns the trial with its row of sweep.csv; raises ValueError for a damaged row."""
    if None in row or None in row.values():
        raise ValueError(f"line {line} has not as many cells as the header")
    if row["status"] not in STATUSES:
        raise ValueError(f"line {line}: status {row['status']!r} is none of {', '.join(STATUSES)}")
    others = labels() | set(_column_names(trial.design).values())
    try:
        measures = {str(name): _finite(cell) for name, cell in row.items() if name not in others}
    except ValueError as error:
        raise ValueError(f"line {line}: {error}") from error
    return replace(trial, status=row["status"], measures=measures, reason=row.get("reason", ""))


def _finite(cell: str) -> float | None:
    """Returns a cell's number; None where it is empty or not finite (the loss when diverged)."""
    value = float(cell or "nan")
    return value if math.isfinite(value) else None
