"""The speed of training alone."""

import time


class Stopwatch:
    """Counts images a second, without what lies between a lap and the next start.

    That is compilation, evaluation and saving.
    """

    def __init__(self, batch_size: int):
        self._batch_size, self._steps, self._seconds = batch_size, 0, 0.0
        self._from: tuple[int, float] | None = None

    def start(self, step: int) -> None:
        """Starts counting after `step`, whose result is there."""
        self._from = (step, time.perf_counter())

    def lap(self, step: int) -> float | None:
        """Returns the rate since the last start or lap, None where no step lies between."""
        since, now = self._from, time.perf_counter()
        self._from = (step, now)
        if since is None or step == since[0]:
            return None
        self._steps, self._seconds = self._steps + step - since[0], self._seconds + now - since[1]
        return (step - since[0]) * self._batch_size / (now - since[1])

    def rate(self) -> float | None:
        """Returns the rate over all laps, None before the first."""
        return self._steps * self._batch_size / self._seconds if self._steps else None
