"""What a tracker is: the trial that it is made of, and what it is then told."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from squeeze_jax.config_parsing import plain_section
from squeeze_jax.train.checkpoint import METRICS_FILE
from squeeze_jax.train.config import TrialConfig


@dataclass(frozen=True)
class TrackedTrial:
    """A trial as its trackers see it.

    Attributes:
      directory: the trial's folder, WORKDIR/trials/NAME.
      step: that training starts from or was restored at.
      config: the trial's.
    """

    directory: Path
    step: int
    config: TrialConfig

    @property
    def name(self) -> str:
        """Returns the trial's name, such as squeeze_ratio=0.25,seed=1."""
        return self.directory.name

    @property
    def workdir(self) -> Path:
        """Returns the study's folder."""
        return self.directory.parent.parent

    @property
    def settings(self) -> dict[str, Any]:
        """Returns the hyperparameters as dotted key -> value, model.squeeze_ratio among them."""
        sections = {
            "model": self.config.model.to_mapping(),
            "data": plain_section(self.config.data),
            "train": plain_section(self.config.train),
        }
        flat = {"seed": self.config.seed}
        for name, section in sections.items():
            flat |= {f"{name}.{key}": value for key, value in section.items()}
        return flat

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        """The records of earlier launches up to `step`, from metrics.jsonl.

        Later ones were lost with the state that they were of, and will be made again.
        """
        path = self.directory / METRICS_FILE
        if not path.exists():
            return []
        lines = path.read_text().splitlines(keepends=True)
        # A kill may have cut the last line short.
        whole = [json.loads(line) for line in lines if line.endswith("\n")]
        return [record for record in whole if record["step"] <= self.step]


class Tracker(Protocol):
    """A place for records."""

    def write(self, record: Mapping[str, Any]) -> None:
        """Adds a record: "step", and what was measured there."""
        ...

    def finish(self, result: Mapping[str, Any] | None) -> None:
        """Ends the trial for now.

        Args:
          result: what came of it, see `train`; None where it was interrupted or failed.
        """
        ...


class Series:
    """Picks from records what no series has yet, so that each has one value a step.

    The records of a step share "epoch" and "seconds"; and after a kill some steps are taken again.
    """

    def __init__(self, last: Mapping[str, int] | None = None):
        """Takes the last step of each series that is there already."""
        self._last = dict(last or {})

    def advance(self, record: Mapping[str, Any]) -> dict[str, float]:
        """Returns the values of a record whose series end before its step."""
        step = record["step"]
        fresh = {
            name: float(value)
            for name, value in record.items()
            if name != "step" and value is not None and self._last.get(name, -1) < step
        }
        self._last |= dict.fromkeys(fresh, step)
        return fresh


def numbers(result: Mapping[str, Any]) -> dict[str, float]:
    """Returns the numbers of a trial's result by name: "result/top1"."""
    return {
        f"result/{key}": float(value)
        for key, value in result.items()
        if isinstance(value, int | float)
    }
