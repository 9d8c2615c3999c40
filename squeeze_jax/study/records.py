"""What a workdir says of a study and its trials, as typed records."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from squeeze_jax.study.hypothesis import Hypothesis

COLLAPSED = ("diverged", "chance")  # trained to the end, and learned nothing
FINISHED = ("ok", *COLLAPSED)  # a "failed" trial is tried again
STOPPED = "stopped"  # early, at a rung: see scheduler.py
STATUSES = (*FINISHED, STOPPED, "failed", "pending")


@dataclass(frozen=True)
class TrialRecord:
    """One training: its place in the design space and what was measured.

    Attributes:
      name: the name of its folder.
      design: swept key -> value, the config's where the trial does not override it; and "data"
        where the study has several versions of its data.
      seed: of its weights and of the order of its images.
      status: one of STATUSES.
      measures: column of sweep.csv -> a finite number, or None.
      reason: why it failed.
      overrides: dotted key -> value, as sweep() yielded it.
      derived: what derive() set besides; None in studies that do not record it.
      costs: what the design costs; empty where it cannot be built.
      data: the version of its data.
    """

    name: str
    design: Mapping[str, Any]
    seed: int | None
    status: str = "pending"
    measures: Mapping[str, float | None] = field(default_factory=dict)
    reason: str = ""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    derived: Mapping[str, Any] | None = None
    costs: Mapping[str, float] = field(default_factory=dict)
    data: int = 1


@dataclass(frozen=True)
class Paper:
    """A published curve to compare with: (x, value) points of the study's metric."""

    source: str
    points: tuple[tuple[Any, float], ...]


@dataclass(frozen=True)
class StudyRecord:
    """What a study was asked to do, how it was run, and what to draw; its trials as planned."""

    name: str
    preset: str
    command: str
    commit: str
    versions: Mapping[str, str]
    device: str
    started: str
    config: Mapping[str, Any]
    swept: tuple[str, ...]  # dotted keys, without the seed
    x: str
    label: str
    metric: str
    paper: Paper | None
    trials: tuple[TrialRecord, ...]
    data: tuple[Mapping[str, Any], ...] = ()  # the versions of its data, see data_versions.py
    claim: Hypothesis | None = None  # of its metric and x, see report/verdict.py
    question: str = ""  # the first line of its config file

    @property
    def title(self) -> str:
        """Returns the study's question; its name and preset where it has none."""
        return self.question or f"{self.name} · {self.preset}"
