"""MLflow: a run for each trial, in an experiment that is called as the workdir.

It is kept at MLFLOW_TRACKING_URI, or in WORKDIR/mlflow.db where that is not set:

    mlflow ui --backend-store-uri sqlite:///WORKDIR/mlflow.db
"""

import contextlib
import importlib
import os
import time
from collections.abc import Mapping
from typing import Any

from squeeze_jax.files import write_atomically
from squeeze_jax.train.trackers.trial import Series, TrackedTrial, numbers

RUN_FILE = "mlflow.id"  # in a trial's folder
URI = "MLFLOW_TRACKING_URI"
_PARAMETERS, _CHARACTERS = 100, 6000  # of a call, and of a value, at most


class MLflow:
    """A run of MLflow, which a resumed trial continues: the store takes no step twice."""

    def __init__(self, trial: TrackedTrial):
        workdir = trial.workdir.absolute()
        self._mlflow: Any = importlib.import_module("mlflow")
        self._client: Any = self._mlflow.MlflowClient(
            os.environ.get(URI) or f"sqlite:///{workdir}/mlflow.db"
        )
        path = trial.directory / RUN_FILE
        known = path.read_text() if path.exists() else None
        self._run = self._reopen(known) or self._create(trial)
        write_atomically(path, self._run)
        entities = self._mlflow.entities
        parameters = [
            entities.Param(key, str(value)[:_CHARACTERS]) for key, value in trial.settings.items()
        ]
        for first in range(0, len(parameters), _PARAMETERS):
            part = parameters[first : first + _PARAMETERS]
            self._client.log_batch(self._run, params=part)
        names = self._client.get_run(self._run).data.metrics
        self._series = Series(
            {
                name: max(each.step for each in self._client.get_metric_history(self._run, name))
                for name in names
            }
        )
        for record in trial.records:
            self.write(record)

    def write(self, record: Mapping[str, Any]) -> None:
        """Logs a metric for each number of the record."""
        self._log(self._series.advance(record), record["step"])

    def finish(self, result: Mapping[str, Any] | None) -> None:
        """Logs the result, and ends the run."""
        if result is None:
            self._client.set_terminated(self._run, "KILLED")
            return
        step = result["steps"]
        self._log(self._series.advance(numbers(result) | {"step": step}), step)
        self._client.set_tag(self._run, "status", result["status"])
        self._client.set_terminated(self._run, "FINISHED")

    def _log(self, values: Mapping[str, float], step: int) -> None:
        now = int(1000 * time.time())
        metrics = [
            self._mlflow.entities.Metric(name, value, now, step) for name, value in values.items()
        ]
        self._client.log_batch(self._run, metrics=metrics)

    def _reopen(self, run: str | None) -> str | None:
        """Makes a run of an earlier launch active again; None where the store has no such run."""
        if run is None:
            return None
        try:
            self._client.update_run(run, status="RUNNING")
        except self._mlflow.MlflowException:
            return None
        return run

    def _create(self, trial: TrackedTrial) -> str:
        name = trial.workdir.name
        if (experiment := self._client.get_experiment_by_name(name)) is None:
            with contextlib.suppress(self._mlflow.MlflowException):  # another job has, meanwhile
                self._client.create_experiment(name)
            experiment = self._client.get_experiment_by_name(name)
        return self._client.create_run(experiment.experiment_id, run_name=trial.name).info.run_id
