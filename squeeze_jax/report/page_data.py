"""What the page's script knows: the tables, the figures' points, and an entry for each trial."""

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from typing import Any

from squeeze_jax.report.tables import Point, cost_columns
from squeeze_jax.study.columns import column
from squeeze_jax.study.curves import thin
from squeeze_jax.study.records import StudyRecord, TrialRecord
from squeeze_jax.study.schema import flatten

_CURVE_POINTS = 80_000  # of all trials' training curves together
Curves = Mapping[str, Sequence[Mapping[str, Any]]]


def entries(
    study: StudyRecord,
    points: Sequence[Point],
    trials: Sequence[TrialRecord],
    curves: Curves,
    files: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """Returns what the page shows of each trial beside its row of the table.

    Args:
      study: the study.
      points: its design points.
      trials: its trials, with results.
      curves: records of steps by trial name, see `Workdir.read_curves`.
      files: names of files by trial name, see `Workdir.read_file_names`.

    Returns:
      point: index of each trial's design point. keys, shared: what trials change, and the values of
      the study's config. values: each trial's, in the order of the keys; [] where it is the
      study's. files: the lists of files that occur. files_of: which of them each trial has. curves:
      of each trial, loss and top-1: epoch, value, epoch, value, ...
    """
    changes = [dict(trial.overrides) | dict(trial.derived or {}) for trial in trials]
    keys = list(dict.fromkeys(key for change in changes for key in change))
    shared = flatten(study.config)
    point_of = {trial.name: i for i, point in enumerate(points) for trial in point.trials}
    kinds: dict[tuple[str, ...], int] = {}
    files_of = [
        kinds.setdefault(tuple(sorted(files.get(trial.name, ()))), len(kinds)) for trial in trials
    ]
    each = min(200, max(8, _CURVE_POINTS // (2 * max(len(trials), 1))))
    return {
        "point": [point_of[trial.name] for trial in trials],
        "seed": [trial.seed for trial in trials],
        "keys": keys,
        "shared": [_plain(shared.get(key)) for key in keys],
        "values": [
            [[_plain(change[key])] if key in change else [] for key in keys] for change in changes
        ],
        "files": [list(kind) for kind in kinds],
        "files_of": files_of,
        "curves": [_thin_curves(curves.get(trial.name, ()), each) for trial in trials],
    }


def tooltip_columns(study: StudyRecord, points: Sequence[Point], head: Sequence[str]) -> list[int]:
    """Returns which columns of the table of design points a figure's tooltip shows.

    They are the design, the study's metric, the number of seeds, and the costs that differ.
    """
    costs = cost_columns(points, study.metric)
    wanted = {column(name).title for name in (study.metric, *costs)} | {"Seeds"}
    designs = len(study.trials[0].design) if study.trials else 0
    return [i for i, heading in enumerate(head) if i < designs or heading in wanted]


def to_script(data: Mapping[str, Any]) -> str:
    """Returns data as the text of a script element: JSON, compressed by gzip, in base64.

    No content of it can end the element, and 10,000 trials take a third of the bytes.
    """
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    content = gzip.compress(text.encode(errors="surrogatepass"), mtime=0)
    return base64.b64encode(content).decode()


def _thin_curves(curve: Sequence[Mapping[str, Any]], at_most: int) -> list[list[float]]:
    """Returns training loss and held-out top-1 against the epoch, each as a flat list."""
    lines = []
    for name in ("loss", "top1"):
        known = [
            (entry["epoch"], entry[name])
            for entry in curve
            if "epoch" in entry and _is_finite(entry.get(name))
        ]
        lines.append([float(f"{x:.4g}") for pair in thin(known, at_most) for x in pair])
    return lines


def _plain(value: Any) -> Any:
    """Returns a value of the config, which JSON has; a number that is not finite as text."""
    return value if not isinstance(value, float) or _is_finite(value) else str(value)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < float("inf")
