"""Tests a study's claim by differences paired by seed, and tells the verdict.

A claim is a list of differences between two design points, each said to be above a bound. It is

supported      where each of them is shown to be above its bound. All must be, so each is tested at
               5 % (intersection-union test, Berger 1982): a false claim is supported at most that
               often.
contradicted   where any of them is shown to be below its bound, after Holm's correction for their
               number: a true claim is contradicted in at most 5 % of studies.
undecided      otherwise.

The tests are Student's paired t tests, one-sided. A pair is one seed of both points, which has the
same order of images; a seed that did not learn at either is in no pair.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from squeeze_jax.report.statistics import (
    ALPHA,
    Interval,
    confidence,
    holm,
    p_above,
    p_below,
    p_different,
)
from squeeze_jax.report.tables import Point, describe, group_lines, show, show_interval
from squeeze_jax.study.columns import column
from squeeze_jax.study.hypothesis import Hypothesis
from squeeze_jax.study.records import StudyRecord

SUPPORTED, CONTRADICTED, UNDECIDED = "supported", "contradicted", "undecided"


@dataclass(frozen=True)
class Comparison:
    """The difference of two design points over the seeds that learned at both.

    Attributes:
      first: the point that is compared.
      second: the point that it is compared with.
      bound: what a claim says that the difference is above.
      differences: of the metric, first minus second, one a seed.
    """

    first: Point
    second: Point
    bound: float
    differences: tuple[float, ...]

    @property
    def interval(self) -> Interval | None:
        """Returns the mean difference with its 95 % interval; None without a pair."""
        return confidence(self.differences) if self.differences else None


@dataclass(frozen=True)
class Verdict:
    """What the seeds say of a claim, with the numbers behind it.

    Attributes:
      claim: in words.
      outcome: SUPPORTED, CONTRADICTED or UNDECIDED.
      why: what keeps it from being tested; "" where it was.
      comparisons: that it is made of.
      p_supports: of each, one-sided: that the difference is above its bound.
      p_contradicts: of each, one-sided: that it is below, corrected for their number.
    """

    claim: str
    outcome: str
    why: str = ""
    comparisons: tuple[Comparison, ...] = ()
    p_supports: tuple[float, ...] = ()
    p_contradicts: tuple[float, ...] = ()


def compare(first: Point, second: Point, metric: str, bound: float = 0.0) -> Comparison:
    """Returns the differences of a metric, seed by seed, where both points have learned."""
    at, before = (_by_seed(point, metric) for point in (first, second))
    return Comparison(
        first, second, bound, tuple(at[seed] - before[seed] for seed in at if seed in before)
    )


def neighbours(study: StudyRecord, points: Sequence[Point]) -> list[Comparison]:
    """Returns each point's difference from the one before it along x, those without pairs too."""
    return [
        compare(second, first, study.metric)
        for line in _lines(study, points)
        for first, second in zip(line, line[1:], strict=False)
    ]


def judge(study: StudyRecord, points: Sequence[Point]) -> Verdict | None:
    """Returns the verdict on a study's claim; None where it states none.

    Where other keys than x are swept, the claim is about each of their values.
    """
    if (claim := study.claim) is None:
        return None
    words = _in_words(claim, study)
    comparisons, unlearned = [], []
    for line in _lines(study, points):
        known = [point for point in line if point.values(study.metric, "ok")]
        places = {show(point.design.get(study.x)): i for i, point in enumerate(known)}
        if missing := [show(value) for value in claim.values if show(value) not in places]:
            return Verdict(words, UNDECIDED, f"no net has learned at {', '.join(missing)}")
        if claim.kind != "beats":  # the others are about each point of the line
            unlearned += [show(point.design[study.x]) for point in line if point not in known]
        named = [known[places[show(value)]] for value in claim.values]
        comparisons += [
            compare(first, second, study.metric, bound)
            for first, second, bound in _differences(claim, known, named)
        ]
    if not comparisons:
        return Verdict(words, UNDECIDED, "there are no two design points to compare")
    seeds = min(len(each.differences) for each in comparisons)
    supports = [p_above(each.differences, each.bound) for each in comparisons]
    contradicts = holm([p_below(each.differences, each.bound) for each in comparisons])
    outcome = (
        SUPPORTED
        if max(supports) <= ALPHA
        else CONTRADICTED
        if min(contradicts) <= ALPHA
        else UNDECIDED
    )
    why = "a difference has fewer than two pairs of seeds" if seeds < 2 else ""
    if outcome == SUPPORTED and unlearned:
        outcome, why = UNDECIDED, f"no net has learned at {', '.join(dict.fromkeys(unlearned))}"
    return Verdict(
        words,
        outcome,
        why if outcome == UNDECIDED else "",
        tuple(comparisons),
        tuple(supports),
        tuple(contradicts),
    )


def verdict_sentence(verdict: Verdict) -> str:
    """Returns the claim and what became of it: "Claim: top-1 rises … : undecided, …"."""
    why = f" ({verdict.why})" if verdict.why else ""
    count = len(verdict.comparisons)
    tests = (
        f" Student's paired t test by seed, one-sided; {count} "
        f"comparison{'s' if count > 1 else ''}: supported if each p ≤ {ALPHA:g} for it, "
        f"contradicted if any p ≤ {ALPHA:g} against it after Holm's correction."
        if count
        else ""
    )
    return f"Claim: {verdict.claim}. Verdict: {verdict.outcome}{why}.{tests}"


def verdict_table(metric: str, verdict: Verdict) -> list[list[str]]:
    """Returns the comparisons behind a verdict: headings, then a row for each."""
    head = ["Difference", f"{column(metric).title}", "Claimed", "Pairs", "p for", "p against"]
    rows = [
        [
            *_difference_cells(metric, each),
            f"above {column(metric).show(each.bound)}",
            str(len(each.differences)),
            _show_p(p_for),
            _show_p(p_against),
        ]
        for each, p_for, p_against in zip(
            verdict.comparisons, verdict.p_supports, verdict.p_contradicts, strict=True
        )
    ]
    return [head, *rows]


def difference_table(metric: str, comparisons: Sequence[Comparison]) -> list[list[str]]:
    """Returns a table of differences with two-sided p-values corrected for their number (Holm)."""
    corrected = holm([p_different(each.differences) for each in comparisons])
    head = ["Difference", column(metric).title, "Pairs", f"p (Holm, {len(comparisons)})"]
    rows = [
        [*_difference_cells(metric, each), str(len(each.differences)), _show_p(p)]
        for each, p in zip(comparisons, corrected, strict=True)
    ]
    return [head, *rows]


def _difference_cells(metric: str, each: Comparison) -> list[str]:
    names = [describe(point.design) for point in (each.first, each.second)]
    return [" − ".join(names), show_interval(metric, each.interval, sign="+")]


def _show_p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _by_seed(point: Point, metric: str) -> dict[int | None, float]:
    """Returns the metric of a point's seeds that learned."""
    found = {
        trial.seed: trial.measures.get(metric) for trial in point.trials if trial.status == "ok"
    }
    return {seed: value for seed, value in found.items() if value is not None}


def _lines(study: StudyRecord, points: Sequence[Point]) -> list[list[Point]]:
    """Returns the points that differ only in x, by ascending x where it is a number."""
    known = [point for point in points if study.x in point.design]
    return [_in_order(line, study.x) for line in group_lines(study, known).values()]


def _in_order(line: list[Point], x: str) -> list[Point]:
    values = [point.design[x] for point in line]
    if not all(isinstance(value, int | float) for value in values):
        return line
    return sorted(line, key=lambda point: point.design[x])


def _differences(
    claim: Hypothesis, line: Sequence[Point], named: Sequence[Point]
) -> list[tuple[Point, Point, float]]:
    """Returns what a claim says of a line: (first, second, bound), first − second > bound."""
    if claim.kind == "rises":
        return [(after, before, 0.0) for before, after in zip(line, line[1:], strict=False)]
    if claim.kind == "saturates":
        (at,) = named
        place = line.index(at)
        rise = [(at, line[0], 0.0)] if place else []
        return rise + [(at, higher, -claim.margin) for higher in line[place + 1 :]]
    if claim.kind == "best":
        (best,) = named
        return [(best, other, 0.0) for other in line if other is not best]
    return [(better, worse, 0.0) for better, worse in zip(named, named[1:], strict=False)]


def _in_words(claim: Hypothesis, study: StudyRecord) -> str:
    metric, values = column(study.metric), [show(value) for value in claim.values]
    name = metric.heading.lower()
    if claim.kind == "rises":
        return f"{name} rises with the {study.label}"
    if claim.kind == "saturates":
        unit = " points" if metric.unit == "%" else ""
        margin = f" (no higher value gains {claim.margin:g}{unit} more)" if claim.margin else ""
        return f"{name} saturates at {values[0]} of the {study.label}{margin}"
    if claim.kind == "best":
        return f"{name} is highest at {values[0]} of the {study.label}"
    return f"{study.label} {values[0]} beats {', which beats '.join(values[1:])} in {name}"
