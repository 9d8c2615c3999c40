"""Which trials are run: the budget, and what is found from shapes alone."""

import pytest

from squeeze_jax.configs import base, sr_sweep
from squeeze_jax.data import open_data
from squeeze_jax.errors import UserError
from squeeze_jax.study import Plan, budget, make_trials, preflight
from squeeze_jax.train import TrialConfig


@pytest.fixture(scope="module")
def digits():
    return open_data(TrialConfig.parse(base.get_config("digits", "x")).data)


@pytest.fixture
def config():
    config = sr_sweep.get_config()
    config.seeds = 1
    return config


def checked(config, sweep, data):
    trials = make_trials(config, sweep)
    return trials, *preflight._preflight(trials, {trial.name: data for trial in trials}, {})


def test_the_budget_leaves_costly_points_out_and_says_so(config, digits, capsys):
    trials, costs, problems = checked(config, sr_sweep.sweep, digits)
    assert not problems
    config.budget.max_params = costs[trials[2].name]["params"]
    assert preflight._within_budget(trials, costs, config.budget) == trials[:3]
    assert (
        "left out: squeeze_ratio=0.75,seed=0, squeeze_ratio=1.0,seed=0" in capsys.readouterr().err
    )
    config.budget.max_macs = costs[trials[0].name]["macs"]
    assert preflight._within_budget(trials, costs, config.budget) == trials[:1]


def test_a_claim_that_cannot_be_tested_is_refused_before_training(config, tmp_path):
    config.report.claim.kind = "sinks"
    plan = Plan(config, make_trials(config, sr_sweep.sweep), tmp_path, "test")
    with pytest.raises(UserError, match="report.claim.kind is one of rises, .*; got 'sinks'"):
        preflight.check(plan)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"report.metric": "top_1"}, "no report.metric 'top_1'; did you mean top1"),
        ({"report.metric": "seconds"}, "no report.metric 'seconds'; there are top1, top5, loss"),
        (
            {"report.metric": "sqz_top1", "stopping.scheduler": "asha"},
            "sqz_top1 is known at a trial's end alone; stopping.scheduler compares by top1, top5",
        ),
        ({"report.metric": "loss"}, "of which more is better; report.metric is loss"),
    ],
)
def test_a_metric_that_cannot_be_used_is_refused_before_training(config, tmp_path, changes, words):
    config.report.claim = {"kind": "rises"}
    config.update_from_flattened_dict(changes)
    plan = Plan(config, make_trials(config, sr_sweep.sweep), tmp_path, "test")
    with pytest.raises(UserError, match=words):
        preflight.check(plan)


def test_the_budget_of_the_c_engine_leaves_out_what_it_cannot_run(config, digits):
    trials, costs, _ = checked(config, sr_sweep.sweep, digits)
    config.budget.max_engine_ram = costs[trials[1].name]["engine_ram_bytes"]
    kept = preflight._within_budget(trials, costs, config.budget)
    assert kept == [
        trial
        for trial in trials
        if costs[trial.name]["engine_ram_bytes"] <= config.budget.max_engine_ram
    ]
    assert len(kept) > 0
    del costs[trials[0].name]["engine_ram_bytes"]
    assert trials[0] not in preflight._within_budget(trials, costs, config.budget)


def test_a_window_of_costs_leaves_out_what_is_below_it_too(config, digits):
    trials, costs, _ = checked(config, sr_sweep.sweep, digits)
    config.budget.min_macs = costs[trials[1].name]["macs"]
    config.budget.max_macs = costs[trials[3].name]["macs"]
    assert preflight._within_budget(trials, costs, config.budget) == trials[1:4]
    text = budget.describe(budget.limits(config.budget))
    assert text == f"{config.budget.min_macs:,} to {config.budget.max_macs:,} macs"


def test_no_budget_keeps_all(config, digits):
    trials, costs, _ = checked(config, sr_sweep.sweep, digits)
    assert preflight._within_budget(trials, costs, config.budget) == trials


def test_a_budget_that_nothing_meets_is_an_error(config, digits):
    trials, costs, _ = checked(config, sr_sweep.sweep, digits)
    config.budget.max_params = 1000
    with pytest.raises(UserError, match="within the budget of 1,000 params"):
        preflight._within_budget(trials, costs, config.budget)


def test_one_bad_point_is_its_own_problem_and_a_shared_fault_is_the_studys(config, digits):
    trials, costs, problems = checked(
        config, lambda config: [{"model.base_e": 8}, {"model.base_e": 1}], digits
    )
    assert list(problems) == [trials[1].name] and "base_e is 2 to" in problems[trials[1].name]
    assert costs[trials[0].name]["params"] > 0
    config.train.batch_size = 7
    with pytest.raises(UserError, match="batch_size 7"):
        checked(config, sr_sweep.sweep, digits)
