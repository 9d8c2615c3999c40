"""Design spaces side by side: the distributions of their designs' errors.

A space is the designs of a study, each with the mean of its seeds that learned. Two spaces are
compared by the distribution of their designs' errors, not by their best designs, of which a larger
search finds a better one (Radosavovic et al. 2019, arXiv 1905.13214; 2020, arXiv 2003.13678).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from squeeze_jax.errors import UserError, list_names
from squeeze_jax.report.statistics import LEVEL, holm
from squeeze_jax.report.tables import Point, aggregate
from squeeze_jax.study.columns import column
from squeeze_jax.study.records import COLLAPSED, FINISHED, STOPPED, StudyRecord, TrialRecord
from squeeze_jax.study.workdir import Workdir

RESAMPLES = 2000  # of a bootstrap
ENDS = (50 * (1 - LEVEL), 50 * (1 + LEVEL))  # percentiles of an interval


@dataclass(frozen=True)
class Space:
    """The designs of a study that have learned, within a cost window.

    Attributes:
      name: the workdir's.
      study: its record.
      points: the designs.
      left_out: what is not among them -> how many: trials that were stopped early, failed or are
        pending, and designs that collapsed or cost too much.
      steps: that its trials were trained for.
    """

    name: str
    study: StudyRecord
    points: tuple[Point, ...]
    left_out: Mapping[str, int]
    steps: frozenset[int]

    @property
    def errors(self) -> np.ndarray:
        """Returns the designs' errors [designs] in %: 100 - the mean of the metric."""
        metric = self.study.metric
        return 100 - np.array([np.mean(point.values(metric, "ok")) for point in self.points])


def read_space(
    workdir: Workdir, limits: Mapping[str, float | None], steps: int | None = None
) -> Space:
    """Returns the designs of a workdir that cost at most what `limits` say.

    Args:
      workdir: of a study, finished or not. Only trials that were trained to their end count.
      limits: column of a design's cost, such as "macs" -> the most; None: any.
      steps: compare the nets as they were after so many steps, a rung of `stopping.rungs` or their
        end; None: those that were trained to their end.

    Raises:
      UserError: the folder is no workdir or is damaged, or its metric is no percentage.
    """
    study, trials = workdir.read_record(), workdir.read_trials()
    if column(study.metric).unit != "%":
        raise UserError(
            f"{workdir.path} is about {study.metric}: error distributions are of percentages"
        )
    if steps is not None:
        results = workdir.read_results(trial.name for trial in trials)
        trials = [_after(trial, results[trial.name], study.metric, steps) for trial in trials]
    latest = max(trial.data for trial in trials)
    ended = [trial for trial in trials if trial.status in FINISHED and trial.data == latest]
    left_out = Counter(
        "trials on older data" if trial.data < latest else f"trials {trial.status}"
        for trial in trials
        if trial not in ended
    )
    points = []
    for point in aggregate(ended):
        if any(
            limit is not None and (point.constant(name) or 0) > limit
            for name, limit in limits.items()
        ):
            left_out["designs over the limits"] += 1
        elif not point.values(study.metric, "ok"):
            left_out["designs collapsed"] += 1
        else:
            points.append(point)
            if lost := point.count(*COLLAPSED):
                left_out["collapsed seeds"] += lost
    names = [trial.name for point in points for trial in point.trials if trial.status == "ok"]
    ends = workdir.read_results(names).values()
    taken = {result["steps"] for result in ends if result and "steps" in result}
    taken = taken if steps is None else {steps}
    return Space(str(workdir.path), study, tuple(points), dict(left_out), frozenset(taken))


def _after(
    trial: TrialRecord, result: Mapping[str, Any] | None, metric: str, steps: int
) -> TrialRecord:
    """Returns a trial as it was after some steps: `ok`, or `stopped` where it was not evaluated.

    One that collapsed stays as it is.
    """
    if result is None or result["status"] == "failed":
        return trial
    if trial.status == "chance" or (trial.status == "diverged" and steps >= result["steps"]):
        return trial
    known = {rung["steps"]: rung.get(metric) for rung in result.get("rungs", ())}
    if result["status"] != STOPPED:
        known[result["steps"]] = result.get(metric)
    if (value := known.get(steps)) is None:
        return replace(trial, status=STOPPED)
    return replace(trial, status="ok", measures={**trial.measures, metric: value})


def check_comparable(spaces: Sequence[Space], least: int) -> None:
    """Rejects, with a UserError, spaces that cannot be compared.

    Args:
      spaces: one or more.
      least: designs that each must have.
    """
    for space in spaces:
        if len(space.points) < least:
            because = ", ".join(f"{count} {what}" for what, count in space.left_out.items())
            raise UserError(
                f"{space.name} has {len(space.points)} finished designs, fewer than the {least} of "
                "--min-designs" + (f"; left out: {because}" if because else "")
            )
    first = spaces[0]
    for other in spaces[1:]:
        for what, of in (
            ("metric", lambda space: space.study.metric),
            ("evaluation data", _evaluation_data),
            ("number of training steps", lambda space: sorted(space.steps)),
            ("length of training", _length),
        ):
            one, two = of(first), of(other)
            if one != two and one and two:
                raise UserError(
                    f"{first.name} and {other.name} cannot be compared: different {what} "
                    f"({_short(one)}; {_short(two)})"
                )


def _evaluation_data(space: Space) -> dict[str, Any]:
    """Returns what tells the images that a space's nets are evaluated on."""
    config = space.study.config.get("data", {})
    known = {key: config[key] for key in ("name", "eval_split") if key in config}
    latest = space.study.data[-1] if space.study.data else {}
    kept = ("class_names", "images", "fingerprint")
    return known | {key: latest[key] for key in kept if key in latest}


def _length(space: Space) -> dict[str, Any]:
    """Returns the keys that set the steps of a space whose results do not tell them."""
    train = space.study.config.get("train", {})
    kept = ("epochs", "steps", "min_steps", "batch_size")
    return {} if space.steps else {key: train[key] for key in kept if key in train}


def _short(value: Any) -> str:
    if isinstance(value, list):
        return list_names([f"{each:,}" for each in value])
    if not isinstance(value, dict):
        return str(value)
    if "images" in value:
        value = value | {"images": value["images"].get("eval"), "class_names": None}
    return ", ".join(f"{key} {each}" for key, each in value.items() if each is not None)


def distribution(errors: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Returns the share of designs with at most each error: [errors] at [grid] -> [grid]."""
    return np.searchsorted(np.sort(errors), grid, side="right") / len(errors)


def band(errors: np.ndarray, grid: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ends of the distribution's pointwise 95 % band [grid], by bootstrap."""
    drawn = np.random.default_rng(seed).choice(errors, (RESAMPLES, len(errors)))
    shares = np.stack([distribution(row, grid) for row in drawn])
    low, high = np.percentile(shares, ENDS, axis=0)
    return low, high


def describe_errors(errors: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """Returns the number of designs, and their least, median and mean error in %.

    The mean is the area over the distribution function. Median and mean come with their 95 %
    interval by bootstrap of designs, which says nothing of a minimum.
    """
    drawn = np.random.default_rng(seed).choice(errors, (RESAMPLES, len(errors)))
    return {
        "designs": len(errors),
        "min_error": float(errors.min()),
        "median_error": float(np.median(errors)),
        "median_interval": interval(np.median(drawn, axis=1)),
        "mean_error": float(errors.mean()),
        "mean_interval": interval(drawn.mean(axis=1)),
    }


def differences(spaces: Sequence[Space], seed: int = 0) -> list[dict[str, Any]]:
    """Returns, for each pair of spaces, how much the first one's errors are above the second's.

    Returns:
      first, second: names; mean_difference (points) and its 95 % interval by bootstrap of designs;
      p_mann_whitney and p_kolmogorov_smirnov, two-sided, corrected for the number of pairs (Holm).
    """
    from scipy import stats  # takes half a second

    random = np.random.default_rng(seed)
    found = []
    for first, second in combinations(spaces, 2):
        one, two = first.errors, second.errors
        means = [random.choice(each, (RESAMPLES, len(each))).mean(axis=1) for each in (one, two)]
        tests: dict[str, Any] = {
            "p_mann_whitney": stats.mannwhitneyu(one, two),
            "p_kolmogorov_smirnov": stats.ks_2samp(one, two),
        }
        found.append(
            {
                "first": first.name,
                "second": second.name,
                "mean_difference": float(one.mean() - two.mean()),
                "interval": interval(means[0] - means[1]),
                **{name: float(test.pvalue) for name, test in tests.items()},
            }
        )
    for test in ("p_mann_whitney", "p_kolmogorov_smirnov"):
        corrected = holm([each[test] for each in found])
        found = [each | {test: p} for each, p in zip(found, corrected, strict=True)]
    return found


def interval(values: np.ndarray) -> list[float]:
    """Returns the ends of the 95 % interval of what a bootstrap has drawn."""
    return [float(end) for end in np.percentile(values, ENDS)]
