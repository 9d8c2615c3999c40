"""The tracker that is always on: metrics.jsonl in the trial's folder."""

import json
from collections.abc import Mapping
from typing import Any

import jax

from squeeze_jax import storage
from squeeze_jax.files import append, write_atomically
from squeeze_jax.train.checkpoint import METRICS_FILE
from squeeze_jax.train.trackers.trial import TrackedTrial


class JsonLines:
    """The file metrics.jsonl in a trial's folder, one line a record; only the first process writes.

    On resumption the lines after the restored step are dropped, so that the file equals an unbroken
    run's. In object storage nothing can be appended: there, `flush` writes the file anew.
    """

    def __init__(self, trial: TrackedTrial):
        self._path = trial.directory / METRICS_FILE
        self._is_first, self._is_flushed = jax.process_index() == 0, True
        self.lines = list(trial.records)
        if self._is_first:
            self._write_all()

    def write(self, record: Mapping[str, Any]) -> None:
        """Appends one line, at once or at the next `flush`."""
        if self._is_first and storage.is_remote(self._path):
            self.lines.append(dict(record))
            self._is_flushed = False
        elif self._is_first:
            append(self._path, json.dumps(dict(record)))

    def finish(self, result: Mapping[str, Any] | None) -> None:
        """Does nothing: the study keeps the result."""

    def flush(self) -> None:
        """Makes the file hold every record, before a checkpoint that it must not lag behind."""
        if not self._is_flushed:
            self._write_all()
            self._is_flushed = True

    def _write_all(self) -> None:
        write_atomically(self._path, "".join(json.dumps(line) + "\n" for line in self.lines))
