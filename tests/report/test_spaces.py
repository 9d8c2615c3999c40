"""Design spaces: against definitions, scipy, and simulated spaces whose truth is known."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from squeeze_jax.cli.main import main
from squeeze_jax.errors import UserError
from squeeze_jax.report.axis_shares import axis_shares
from squeeze_jax.report.best_design import best_designs
from squeeze_jax.report.spaces import (
    Space,
    _after,
    band,
    check_comparable,
    describe_errors,
    differences,
    distribution,
    read_space,
)
from squeeze_jax.report.tables import Point
from squeeze_jax.study import Workdir
from squeeze_jax.study.records import StudyRecord, TrialRecord

STUDY = StudyRecord("s", "p", "", "", {}, "", "", {}, ("a", "b", "c"), "a", "a", "top1", None, ())
ANY = {"macs": None, "params": None}


def space(values, designs=None, name="space", steps=(10,)):
    """A space: `values` [designs, seeds] of top-1 in %."""
    designs = designs or [{"a": i} for i in range(len(values))]
    points = tuple(
        Point(design, tuple(TrialRecord("", {}, s, "ok", {"top1": v}) for s, v in enumerate(row)))
        for design, row in zip(designs, values, strict=True)
    )
    return Space(name, STUDY, points, {}, frozenset(steps))


def test_distribution_is_the_share_of_designs_with_at_most_the_error():
    errors, grid = np.array([30.0, 10.0, 20.0, 20.0]), np.array([5.0, 10.0, 19.9, 20.0, 40.0])
    assert list(distribution(errors, grid)) == [0, 0.25, 0.25, 0.75, 1]
    low, high = band(errors, grid)
    assert np.all(low <= distribution(errors, grid)) and np.all(distribution(errors, grid) <= high)
    found = describe_errors(errors)
    assert (found["designs"], found["min_error"], found["median_error"]) == (4, 10, 20)
    area = np.trapezoid(1 - distribution(errors, (fine := np.linspace(0, 100, 100_001))), fine)
    assert found["mean_error"] == pytest.approx(area, abs=0.01)


def test_interval_of_the_difference_is_that_of_normal_theory():
    random = np.random.default_rng(0)
    one, two = (space(random.normal(mean, 4, (80, 1)), name=str(mean)) for mean in (70, 65))
    (found,) = differences([one, two])
    expected = stats.ttest_ind(one.errors, two.errors, equal_var=False).confidence_interval()
    assert found["interval"] == pytest.approx([expected.low, expected.high], abs=0.15)
    assert found["p_mann_whitney"] == stats.mannwhitneyu(one.errors, two.errors).pvalue
    assert found["p_kolmogorov_smirnov"] == stats.ks_2samp(one.errors, two.errors).pvalue
    p = {(each["first"], each["second"]): each for each in differences([one, two, one])}
    assert p["70", "65"]["p_mann_whitney"] == pytest.approx(3 * found["p_mann_whitney"])


def test_axes_have_their_share_of_the_variance(monkeypatch):
    """An additive space of which the shares are known: 64, 36 and 0 %."""
    monkeypatch.setattr("squeeze_jax.report.axis_shares.REFITS", 10)
    random = np.random.default_rng(0)
    drawn = random.integers(0, (4, 2, 50), (300, 3))
    designs = [{"a": int(a), "b": "xy"[b], "c": c / 50} for a, b, c in drawn]
    effect = {0: -1.0, 1: -1.0, 2: 1.0, 3: 1.0}
    values = [[60 + 4 * effect[d["a"]] + (3 if d["b"] == "x" else -3)] for d in designs]
    found = axis_shares(space(values, designs))
    shares = {key: each["share"] for key, each in found["axes"].items()}
    assert shares == pytest.approx({"a": 64, "b": 36, "c": 0}, abs=4)
    assert list(shares) == ["a", "b", "c"] and found["together"] < 3 and found["r2"] > 0.95
    low, high = found["axes"]["a"]["interval"]
    assert low < 64 < high and high - low < 20


def test_axes_that_act_together_or_are_lacking(monkeypatch):
    """In a product of two signs neither matters alone; c exists where a is 1 alone."""
    random = np.random.default_rng(0)
    monkeypatch.setattr("squeeze_jax.report.axis_shares.REFITS", 2)
    pairs = random.integers(0, 2, (200, 2))
    designs = [{"a": int(a), "b": int(b), "c": 3 if a else None} for a, b in pairs]
    values = [[60.0 + (2 * a - 1) * (2 * b - 1)] for a, b in pairs]
    found = axis_shares(space(values, designs))
    assert found["together"] > 80 and set(found["axes"]) == {"a", "b", "c"}
    assert axis_shares(space(values[:9], designs[:9])) is None


def test_noise_alone_is_called_noise(monkeypatch):
    monkeypatch.setattr("squeeze_jax.report.axis_shares.REFITS", 2)
    random = np.random.default_rng(0)
    designs = [{"a": i % 5, "b": i % 3} for i in range(60)]
    assert axis_shares(space(random.normal(60, 1, (60, 1)), designs))["r2"] < 0.1


def test_the_probability_of_the_best_is_calibrated():
    """Of 300 spaces; the measured mean of the best is too high, the expected one is not."""
    random = np.random.default_rng(0)
    said, right, luck, bias = [], [], [], []
    for _ in range(300):
        truth = random.normal(60, 1.5, 8)
        best = best_designs(space(truth[:, None] + random.normal(0, 1.5, (8, 3))))[0]
        chosen = int(best["design"].rpartition(" ")[2])
        said.append(best["probability"])
        right.append(chosen == truth.argmax())
        luck.append(best["mean"] - truth[chosen])
        bias.append(best["expected"] - truth[chosen])
    error = (np.var(np.array(right) - said) / 300) ** 0.5
    assert abs(np.mean(said) - np.mean(right)) < 3 * error and 0.3 < np.mean(said) < 0.8
    assert abs(np.mean(bias)) < 3 * np.std(bias) / 300**0.5 < 0.3 < np.mean(luck)


def test_designs_that_do_not_differ_share_the_probability():
    found = best_designs(space([[60.0, 62.0], [61.0, 61.0], [62.0, 60.0]]))
    assert [each["probability"] for each in found] == pytest.approx([1 / 3] * 3)
    assert best_designs(space([[60.0], [61.0]])) is None
    assert [each["probability"] for each in best_designs(space([[60.0] * 2, [61.0] * 2]))] == [1, 0]


def test_what_cannot_be_compared_is_refused():
    one = space([[60.0]] * 5)
    check_comparable([one, one], 5)
    with pytest.raises(UserError, match="space has 5 finished designs, fewer than the 6"):
        check_comparable([one], 6)
    with pytest.raises(UserError, match=r"different number of training steps \(10; 1,000\)"):
        check_comparable([one, space([[60.0]] * 5, steps=(1000,))], 5)
    other = replace(one, study=replace(STUDY, metric="top5"))
    with pytest.raises(UserError, match=r"different metric \(top1; top5\)"):
        check_comparable([one, other], 5)
    data = {"class_names": ["a"], "images": {"eval": 1000}, "fingerprint": "abc"}
    pair = [replace(one, study=replace(STUDY, data=({**data, "fingerprint": f},))) for f in "ab"]
    with pytest.raises(UserError, match="different evaluation data"):
        check_comparable(pair, 5)
    lengths = [
        replace(one, study=replace(STUDY, config={"train": {"epochs": n}}), steps=frozenset())
        for n in (4.0, 8.0)
    ]
    with pytest.raises(UserError, match=r"different length of training \(epochs 4.0; epochs 8.0\)"):
        check_comparable(lengths, 5)


def test_trials_that_did_not_end_are_left_out_and_counted(sweep, troubled, monkeypatch):
    known = ("ok", "diverged", "chance", "failed", "pending", "stopped")
    monkeypatch.setattr("squeeze_jax.study.workdir.STATUSES", known)
    workdir = sweep(troubled | {(0, 0): ("stopped", 99.0)})
    found = read_space(Workdir(workdir), ANY)
    assert [point.design["model.squeeze_ratio"] for point in found.points] == [0.125, 0.5]
    assert list(found.errors) == [19.0, 5.0]
    assert found.left_out == {
        "trials stopped": 1,
        "trials failed": 1,
        "trials pending": 1,
        "designs collapsed": 1,
        "collapsed seeds": 2,
    }
    small = read_space(Workdir(workdir), ANY | {"params": 1500})
    assert len(small.points) == 1 and small.left_out["designs over the limits"] == 2
    with pytest.raises(
        UserError, match="fewer than the 3 of --min-designs; left out: .*1 trials stopped"
    ):
        check_comparable([found], 3)


def test_the_length_is_that_of_the_seeds_that_learned(sweep, troubled):
    """Not of one that diverged on its way."""
    workdir = Workdir(sweep(troubled))
    for trial in workdir.read_trials():
        workdir.trial_directory(trial.name).mkdir(parents=True, exist_ok=True)
        steps = 40 if trial.status == "diverged" else 220
        workdir.write_result(trial.name, {"status": trial.status, "steps": steps})
    found = read_space(workdir, ANY)
    assert found.left_out["collapsed seeds"] and found.steps == {220}


@pytest.mark.parametrize(
    ("status", "steps", "expected"),
    [
        ("ok", 10, ("ok", 70.0)),
        ("ok", 5, ("ok", 50.0)),
        ("ok", 7, ("stopped", 70.0)),  # it was not evaluated there
        ("chance", 10, ("chance", 70.0)),
        ("chance", 5, ("chance", 70.0)),
        ("diverged", 10, ("diverged", None)),
        ("diverged", 5, ("ok", 50.0)),  # it was well there
    ],
)
def test_collapsed_nets_are_no_nets_that_learned_at_any_step(status, steps, expected):
    top1 = None if status == "diverged" else 70.0
    trial = TrialRecord("a", {}, 0, status, {"top1": top1})
    result = {"status": status, "steps": 10, "top1": top1, "rungs": [{"steps": 5, "top1": 50.0}]}
    found = _after(trial, result, "top1", steps)
    assert (found.status, found.measures["top1"]) == expected


def test_a_trial_without_the_metric_was_not_measured():
    trial = TrialRecord("a", {}, 0, "ok", {})
    found = _after(trial, {"status": "ok", "steps": 10, "top1": 70.0}, "sqz_top1", 10)
    assert (found.status, found.measures) == ("stopped", {})


def test_command_prints_tables_or_json_and_draws(sweep, finished, tmp_path, capsys):
    workdir, figure = str(sweep(finished)), tmp_path / "edf.svg"
    arguments = ["compare", workdir, workdir, "--min-designs", "3"]
    assert main([*arguments, "--figure", str(figure)]) == 0
    text = capsys.readouterr().out
    for said in (
        "| 3 | 3.0 | 5.0 (3.0 to 20.0) |",
        "+0.0 (",
        "Probability",
        "fewer than 10 designs",
    ):
        assert said in text
    assert "Designs (%)" in figure.read_text()
    assert main([*arguments, "--format=json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [each["min_error"] for each in record["spaces"]] == [3.0, 3.0]
    assert record["differences"][0]["p_mann_whitney"] == 1.0
    assert record["spaces"][0]["best"][0]["design"] == "squeeze_ratio = 1"
    assert main(["compare", workdir]) == 2
    assert "3 finished designs, fewer than the 5" in capsys.readouterr().err
    assert main([*arguments, "--figure", "edf.gif"]) == 2


def test_a_metric_that_is_no_percentage_is_refused(sweep, finished):
    with pytest.raises(UserError, match="is about loss"):
        read_space(Workdir(sweep(finished, metric="loss")), ANY)
