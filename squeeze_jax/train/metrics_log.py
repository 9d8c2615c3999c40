"""The record of one run: metrics as JSON lines, and the speed of training alone."""

import json
import time
from pathlib import Path
from typing import Any

import jax

from squeeze_jax.files import write_atomically


class Stopwatch:
    """Images a second of training, leaving out what lies between a lap and the next start (compilation, evaluation, saving)."""

    def __init__(self, batch_size: int):
        self._batch_size, self._steps, self._seconds = batch_size, 0, 0.0
        self._from: tuple[int, float] | None = None

    def start(self, step: int) -> None:
        """Starts counting after `step`, whose result is there."""
        self._from = (step, time.perf_counter())

    def lap(self, step: int) -> float | None:
        """The rate since the last start or lap, None if no step lies between."""
        since, now = self._from, time.perf_counter()
        self._from = (step, now)
        if since is None or step == since[0]:
            return None
        self._steps, self._seconds = self._steps + step - since[0], self._seconds + now - since[1]
        return (step - since[0]) * self._batch_size / (now - since[1])

    def rate(self) -> float | None:
        """The rate over all laps, None before the first."""
        return self._steps * self._batch_size / self._seconds if self._steps else None


class Log:
    """JSON lines; on resumption the lines after the restored step are dropped, so the file equals an unbroken run's."""

    def __init__(self, path: Path, step: int):
        self._path, self._begun = path, time.perf_counter()
        lines = [line for line in _whole_lines(path) if line["step"] <= step]
        self._before = lines[-1]["seconds"] if lines else 0.0
        if jax.process_index() == 0:
            write_atomically(path, "".join(json.dumps(line) + "\n" for line in lines))

    def seconds(self) -> float:
        """Seconds spent on this run, earlier launches included."""
        return self._before + time.perf_counter() - self._begun

    def write(self, **fields) -> None:
        """Appends one line; only the first process writes."""
        if jax.process_index() == 0:
            with self._path.open("a") as file:
                file.write(json.dumps(fields | {"seconds": self.seconds()}) + "\n")


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """The parsed lines of a JSON-lines file; a last line cut short by a kill is left out."""
    if not path.exists():
        return []
    return [
        json.loads(line)
        for line in path.read_text().splitlines(keepends=True)
        if line.endswith("\n")
    ]
