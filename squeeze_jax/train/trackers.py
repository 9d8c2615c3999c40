"""Where the metrics of a run are recorded."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax

from squeeze_jax import storage
from squeeze_jax.errors import UserError
from squeeze_jax.files import append, write_atomically
from squeeze_jax.train.checkpoint import METRICS_FILE
from squeeze_jax.train.config import TrainConfig


class Tracker(Protocol):
    """A place for records."""

    def write(self, record: Mapping[str, Any]) -> None:
        """Adds a record: "step", and what was measured there."""
        ...


class JsonLines:
    """The file metrics.jsonl in a trial's folder, one line a record; only the first process writes.

    On resumption the lines after the restored step are dropped, so that the file equals an unbroken
    run's. In object storage nothing can be appended: there, `flush` writes the file anew.
    """

    def __init__(self, directory: Path, step: int):
        self._path = directory / METRICS_FILE
        self._is_first, self._is_flushed = jax.process_index() == 0, True
        self.lines = [line for line in _whole_lines(self._path) if line["step"] <= step]
        if self._is_first:
            self._write_all()

    def write(self, record: Mapping[str, Any]) -> None:
        """Appends one line, at once or at the next `flush`."""
        if self._is_first and storage.is_remote(self._path):
            self.lines.append(dict(record))
            self._is_flushed = False
        elif self._is_first:
            append(self._path, json.dumps(dict(record)))

    def flush(self) -> None:
        """Makes the file hold every record, before a checkpoint that it must not lag behind."""
        if not self._is_flushed:
            self._write_all()
            self._is_flushed = True

    def _write_all(self) -> None:
        write_atomically(self._path, "".join(json.dumps(line) + "\n" for line in self.lines))


# By name: a trial's folder and the step that it starts from or was restored at -> a tracker.
TRACKERS: dict[str, Callable[[Path, int], Tracker]] = {"jsonl": JsonLines}


def check_trackers(config: TrainConfig) -> None:
    """Rejects a tracker that is none of TRACKERS, with a UserError."""
    if unknown := [name for name in config.trackers if name not in TRACKERS]:
        raise UserError(f"train.trackers: {unknown[0]!r} is none of {', '.join(TRACKERS)}")


def open_trackers(config: TrainConfig, directory: Path, step: int) -> list[Tracker]:
    """Returns the trackers that the recipe names besides "jsonl"; on the first process alone."""
    if jax.process_index() > 0:
        return []
    return [TRACKERS[name](directory, step) for name in config.trackers if name != "jsonl"]


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """Returns the parsed lines of a file, without a last one that a kill cut short."""
    if not path.exists():
        return []
    return [
        json.loads(line)
        for line in path.read_text().splitlines(keepends=True)
        if line.endswith("\n")
    ]
