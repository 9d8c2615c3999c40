"""Weights & Biases: a run for each trial, in a project that is called as the workdir.

Without an API key the run is kept in the trial's folder wandb/, and `wandb sync` uploads it.
WANDB_MODE and WANDB_PROJECT say otherwise.
"""

import importlib
import os
import uuid
from collections.abc import Mapping
from typing import Any

from squeeze_jax.files import remove, write_atomically
from squeeze_jax.train.trackers.trial import Series, TrackedTrial, numbers

RUN_FILE = "wandb.id"  # in a trial's folder


class WandB:
    """A run of Weights & Biases, which a resumed trial continues.

    Offline, the run is written anew from the records that are kept. Online, wandb has them, and
    steps that it has are not sent again.
    """

    def __init__(self, trial: TrackedTrial):
        wandb: Any = importlib.import_module("wandb")
        path = trial.directory / RUN_FILE
        name = path.read_text() if path.exists() else uuid.uuid4().hex[:8]
        write_atomically(path, name)
        has_key = wandb.login(prompt=False, verify=False)
        mode = os.environ.get("WANDB_MODE") or ("online" if has_key else "offline")
        if mode == "offline":
            for left in (trial.directory / "wandb").glob(f"offline-run-*-{name}"):
                remove(left)
        self._run: Any = wandb.init(
            dir=trial.directory,
            id=name,
            resume="allow",
            mode=mode,
            project=os.environ.get("WANDB_PROJECT", trial.workdir.name),
            name=trial.name,
            config=trial.settings,
            reinit="create_new",  # the next trial of this process is another run
            settings=wandb.Settings(silent=True, console="off"),
        )
        self._series, self._start = Series(), self._run.step
        for record in trial.records:
            self.write(record)

    def write(self, record: Mapping[str, Any]) -> None:
        """Logs the record at its step."""
        if record["step"] >= self._start:
            self._run.log(self._series.advance(record), step=record["step"])

    def finish(self, result: Mapping[str, Any] | None) -> None:
        """Puts the result into the run's summary, and ends this process's part of it."""
        if result is not None:
            self._run.summary.update(numbers(result) | {"status": result["status"]})
        self._run.finish(exit_code=0 if result is not None else 1)
