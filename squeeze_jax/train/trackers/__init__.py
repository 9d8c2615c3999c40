"""Where the metrics of a trial are recorded.

jsonl        metrics.jsonl, always
tensorboard  an event file
wandb        a run of Weights & Biases
mlflow       a run of MLflow
"""

import importlib.util
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from squeeze_jax import storage
from squeeze_jax.errors import UserError
from squeeze_jax.train.config import TrainConfig, TrialConfig
from squeeze_jax.train.trackers.event_file import TensorBoard
from squeeze_jax.train.trackers.jsonl import JsonLines
from squeeze_jax.train.trackers.mlflow_run import URI, MLflow
from squeeze_jax.train.trackers.trial import TrackedTrial, Tracker
from squeeze_jax.train.trackers.wandb_run import WandB

__all__ = ["TRACKERS", "TrackedTrial", "Tracker", "Trackers", "check_folder", "check_trackers"]

# By name: a trial, at the step that it starts from or was restored at -> a tracker.
TRACKERS: dict[str, Callable[[TrackedTrial], Tracker]] = {
    "jsonl": JsonLines,
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "mlflow": MLflow,
}
_PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow"}


class Trackers:
    """All trackers of a trial: jsonl, and those that its config names, on the first process."""

    def __init__(self, directory: Path, config: TrialConfig):
        """Opens nothing before `open`."""
        self._directory, self._config = directory, config
        self._lines: JsonLines | None = None
        self._others: list[Tracker] = []

    def open(self, step: int) -> float:
        """Opens the trackers at the step that training starts from.

        Returns the seconds that earlier launches took up to there.
        """
        trial = TrackedTrial(self._directory, step, self._config)
        before = trial.records[-1]["seconds"] if trial.records else 0.0
        self._lines = JsonLines(trial)
        if jax.process_index() == 0:
            for name in self._config.train.trackers:
                if name != "jsonl":
                    self._others.append(TRACKERS[name](trial))
        return before

    def write(self, record: Mapping[str, Any]) -> None:
        """Hands a record to all trackers."""
        if self._lines is not None:
            self._lines.write(record)
        for tracker in self._others:
            tracker.write(record)

    def flush(self) -> None:
        """Makes what was recorded last as long as a checkpoint of this step."""
        if self._lines is not None:
            self._lines.flush()

    def finish(self, result: Mapping[str, Any]) -> None:
        """Hands the trial's result to all trackers."""
        while self._others:
            self._others.pop().finish(result)

    def close(self) -> None:
        """Ends the trackers of a trial that has no result."""
        while self._others:
            self._others.pop().finish(None)


def check_trackers(config: TrainConfig) -> None:
    """Rejects, with a UserError, a tracker that is none of TRACKERS or whose package is missing."""
    for name in config.trackers:
        if name not in TRACKERS:
            raise UserError(f"train.trackers: {name!r} is none of {', '.join(TRACKERS)}")
        package = _PACKAGES.get(name)
        if package and importlib.util.find_spec(package) is None:
            raise UserError(
                f"train.trackers: {name} needs {package}: pip install 'squeeze_jax[{name}]'"
            )


def check_folder(config: TrainConfig, workdir: Path) -> None:
    """Rejects, with a UserError, a tracker that keeps its files in a workdir that is on no disk."""
    if not storage.is_remote(workdir):
        return
    for name in _PACKAGES:
        if name in config.trackers and not (name == "mlflow" and os.environ.get(URI)):
            more = f", or set {URI}" if name == "mlflow" else ""
            raise UserError(
                f"train.trackers: {name} writes into the workdir, and {workdir} is on no disk; "
                f"give a --workdir that is{more}"
            )
