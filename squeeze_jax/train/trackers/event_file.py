"""TensorBoard: an event file in the trial's folder, written without TensorFlow.

tensorboard --logdir WORKDIR/trials
"""

import importlib
import time
from collections.abc import Mapping
from typing import Any

from squeeze_jax.train.trackers.trial import Series, TrackedTrial, numbers


class TensorBoard:
    """Scalars of each step, the config as text, and at the end the hyperparameters and the result.

    On resumption the event file is written anew from the records that are kept, so that no step is
    there twice.
    """

    def __init__(self, trial: TrackedTrial):
        for left in trial.directory.glob("events.out.tfevents.*"):
            left.unlink()
        self._settings, self._series = trial.settings, Series()
        self._library: Any = importlib.import_module("tensorboardX")
        self._writer: Any = self._library.SummaryWriter(str(trial.directory))
        text = "\n".join(f"    {key} = {value!r}" for key, value in trial.settings.items())
        self._writer.add_text("config", text)
        last = trial.records[-1]["seconds"] if trial.records else 0.0
        for record in trial.records:
            self._add(record, time.time() - (last - record["seconds"]))
        self._writer.flush()

    def write(self, record: Mapping[str, Any]) -> None:
        """Adds a scalar for each number of the record."""
        self._add(record, time.time())
        self._writer.flush()

    def finish(self, result: Mapping[str, Any] | None) -> None:
        """Adds what the page HPARAMS shows, and closes the file."""
        if result is not None:
            known = numbers(result)
            for summary in self._library.summary.hparams(
                {key: _plain(v) for key, v in self._settings.items()}, known
            ):
                self._writer.file_writer.add_summary(summary)
            for name, value in known.items():
                self._writer.add_scalar(name, value, result["steps"])
        self._writer.close()

    def _add(self, record: Mapping[str, Any], when: float) -> None:
        for name, value in self._series.advance(record).items():
            self._writer.add_scalar(name, value, record["step"], walltime=when)


def _plain(value: Any) -> bool | float | str:
    return value if isinstance(value, bool | int | float | str) else str(value)
