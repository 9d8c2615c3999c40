"""Verdicts on claims: what is known of simulated studies, and what the report says."""

from dataclasses import replace

import numpy as np
import pytest

from configs import sr_sweep
from squeeze_jax.cli.main import main
from squeeze_jax.errors import UserError
from squeeze_jax.report.page import draw
from squeeze_jax.report.tables import Point, aggregate
from squeeze_jax.report.verdict import (
    compare,
    difference_table,
    judge,
    neighbours,
    verdict_sentence,
)
from squeeze_jax.study import Workdir
from squeeze_jax.study.hypothesis import Hypothesis
from squeeze_jax.study.records import StudyRecord, TrialRecord

STUDY = StudyRecord("s", "p", "", "", {}, "", "", {}, ("x",), "x", "width", "top1", None, ())
SATURATES = {"kind": "saturates", "at": 3, "margin": 0.5}
BEATS = {"kind": "beats", "values": (3, 2, 1)}


def points(values):
    """Design points at x = 1, 2, ...: `values` [points, seeds] in %."""
    return [
        Point(
            {"x": i},
            tuple(TrialRecord("", {"x": i}, s, "ok", {"top1": v}) for s, v in enumerate(row)),
        )
        for i, row in enumerate(values, start=1)
    ]


def outcomes(claim, means, seeds=5, studies=600, spread=1.0):
    """How often each outcome comes of studies with these true means and correlated seeds."""
    study = replace(STUDY, claim=Hypothesis.parse(claim))
    random = np.random.default_rng(0)
    found = []
    for _ in range(studies):
        noise = random.normal(0, spread, (len(means), seeds)) + random.normal(0, 2, seeds)
        found.append(judge(study, points(np.array(means)[:, None] + noise)).outcome)
    return {
        name: found.count(name) / studies for name in ("supported", "contradicted", "undecided")
    }


# Of 600 studies, 5 % and three standard errors: 7.7 %.
@pytest.mark.parametrize(
    "claim, means",
    [
        (SATURATES, [50, 60, 62, 62.5]),  # gains just the margin, once
        (SATURATES, [62, 62, 62, 62]),  # has not risen
        (BEATS, [60, 60, 62]),
        ({"kind": "best", "value": 3}, [60, 62, 62]),
        ({"kind": "rises"}, [50, 60, 60, 70]),
    ],
)
def test_a_claim_that_just_fails_is_rarely_supported(claim, means):
    assert outcomes(claim, means)["supported"] <= 0.077


@pytest.mark.parametrize(
    "claim, means",
    [
        (SATURATES, [62, 62, 62, 62.5, 62.5, 62.5]),
        (BEATS, [60, 60, 60]),
        ({"kind": "best", "value": 1}, [60] * 5),
        ({"kind": "rises"}, [60] * 5),
    ],
)
def test_a_claim_that_just_holds_is_rarely_contradicted(claim, means):
    found = outcomes(claim, means)
    assert 0.005 < found["contradicted"] <= 0.077


@pytest.mark.parametrize(
    "claim, true, false",
    [
        (SATURATES, [50, 55, 60, 56], [50, 55, 60, 66]),
        (BEATS, [50, 55, 60], [60, 55, 50]),
        ({"kind": "rises"}, [50, 55, 60], [50, 60, 55]),
        ({"kind": "best", "value": 2}, [50, 60, 55], [50, 55, 60]),
    ],
)
def test_clear_cases_are_decided(claim, true, false):
    assert outcomes(claim, true, studies=50)["supported"] > 0.9
    assert outcomes(claim, false, studies=50)["contradicted"] > 0.9


def test_pairs_are_of_one_seed_that_learned_at_both():
    first, second = points([[60.0, 61.0, 62.0], [63.0, 60.0, 70.0]])
    second = replace(
        second, trials=(replace(second.trials[0], status="chance"), *second.trials[:0:-1])
    )
    assert compare(second, first, "top1").differences == (8.0, -1.0)


def test_what_cannot_be_tested_is_undecided():
    study = replace(STUDY, claim=Hypothesis.parse({"kind": "best", "value": 7}))
    verdict = judge(study, points([[60.0, 61.0], [50.0, 51.0]]))
    assert (verdict.outcome, verdict.why) == ("undecided", "no net has learned at 7")
    study = replace(STUDY, claim=Hypothesis.parse({"kind": "rises"}))
    verdict = judge(study, points([[50.0], [60.0]]))
    assert verdict.outcome == "undecided" and "fewer than two pairs" in verdict_sentence(verdict)
    assert judge(STUDY, points([[50.0], [60.0]])) is None


@pytest.mark.parametrize(
    "claim, means, outcome",
    [
        ({"kind": "rises"}, [50, 60, 40, 0], "contradicted"),
        ({"kind": "rises"}, [50, 55, 60, 65], "undecided"),
        ({"kind": "best", "value": 2}, [50, 60, 40, 0], "undecided"),
        (SATURATES, [50, 60, 60, 60], "undecided"),
        ({"kind": "beats", "values": (2, 1)}, [50, 55, 60, 65], "supported"),
        ({"kind": "beats", "values": (2, 1)}, [50, 60, 40, 0], "supported"),
        ({"kind": "beats", "values": (2, 1)}, [50, 60, 60, 60], "supported"),
    ],
)
def test_a_claim_about_every_point_needs_every_point(claim, means, outcome):
    """It may be contradicted without, and a claim about named points may be supported."""
    noise = np.random.default_rng(0).normal(0, 0.3, (len(means), 5))
    *known, last = points(np.array(means)[:, None] + noise)
    lost = replace(last, trials=tuple(replace(trial, status="chance") for trial in last.trials))
    verdict = judge(replace(STUDY, claim=Hypothesis.parse(claim)), [*known, lost])
    why = "no net has learned at 4" if outcome == "undecided" else ""
    assert (verdict.outcome, verdict.why) == (outcome, why)


def test_other_keys_are_lines_of_their_own():
    claim = Hypothesis.parse({"kind": "rises"})
    made = [
        Point(
            {"x": x, "y": y}, tuple(TrialRecord("", {}, s, "ok", {"top1": v + s}) for s in range(3))
        )
        for y, row in ((0, (50.0, 60.0)), (1, (70.0, 55.0)))
        for x, v in enumerate(row)
    ]
    verdict = judge(replace(STUDY, claim=claim), made)
    assert [each.differences[0] for each in verdict.comparisons] == [10.0, -15.0]


def test_differences_of_neighbours_are_corrected_for_their_number():
    made = points([[50.0, 51.0, 52.5], [60.0, 61.5, 62.0], [61.0, 61.0, 63.0]])
    head, *rows = difference_table("top1", neighbours(STUDY, made))
    assert head[-1] == "p (Holm, 2)" and [row[0] for row in rows] == [
        "x = 2 − x = 1",
        "x = 3 − x = 2",
    ]
    assert rows[0][1] == "+10.0 ± 1.2" and float(rows[0][-1].strip("< ")) <= 0.002


@pytest.mark.parametrize(
    "claim, told",
    [
        ({"kind": "sinks"}, "kind is one of rises, saturates, best, beats; got 'sinks'"),
        ({"kind": "saturates"}, "kind saturates has at, perhaps margin; got none"),
        ({"kind": "rises", "at": 1}, "kind rises has no other key; got at"),
        ({"kind": "saturates", "at": 1, "margin": -1}, "margin is at least 0; got -1"),
        ({"kind": "beats", "values": (1,)}, "values are two or more values of x"),
        ({"kind": "beats", "values": 3}, "report.claim.values is a tuple; got 3"),
    ],
)
def test_wrong_claims_are_refused(claim, told):
    with pytest.raises(UserError, match=told):
        Hypothesis.parse(claim)


def test_report_shows_the_verdict(sweep, finished, capsys):
    claim = sr_sweep.get_config().report.claim.to_dict() | {"at": 0.5}
    workdir = sweep(finished, claim=claim)
    draw(workdir)
    page = (workdir / "report.html").read_text()
    for said in (
        "saturates at 0.5 of the Squeeze",
        "Verdict: undecided",
        "p against",
        "Holm",
    ):
        assert said in page
    assert main(["report", str(workdir)]) == 0
    said = capsys.readouterr().out
    assert "Claim: top-1 saturates at 0.5" in said and "Verdict: undecided" in said
    study = Workdir(workdir).read_record()
    assert judge(study, aggregate(Workdir(workdir).read_trials())).outcome == "undecided"
