"""Early stopping: who goes on, by whose results, at what price."""

import itertools

import numpy as np
import pytest
from ml_collections import ConfigDict

from squeeze_jax.errors import UserError
from squeeze_jax.study import Trial
from squeeze_jax.study.scheduler import Schedule, StoppingConfig

TOTAL = 90


def make_schedule(designs, seeds=1, scheduler="asha", metric="top1", **settings):
    trials = [
        Trial(f"{design}-{seed}", {"model.width": design, "seed": seed}, ConfigDict())
        for design in range(designs)
        for seed in range(seeds)
    ]
    settings = {"reduction_factor": 3} | settings
    stopping = StoppingConfig(scheduler, **settings)
    return Schedule.of(stopping, trials, {trial.name: TOTAL for trial in trials}, metric)


@pytest.fixture(autouse=True)
def no_parents(monkeypatch):
    """Trials of an empty config."""
    monkeypatch.setattr(Trial, "parents", {})


def simulate(schedule, value, launchers=1, seed=0, metric="top1"):
    """Runs a schedule with some launchers that take turns at random; returns results and steps."""
    names = [trial.name for design in schedule.designs for trial in design]
    results, held, taken = dict.fromkeys(names), {}, 0
    random = np.random.default_rng(seed)
    while True:
        free = [(t, stop) for t, stop in schedule.due(results) if t.name not in held]
        if free and len(held) < launchers:
            trial, stop = free[0]
            held[trial.name] = trial, stop
            continue
        if not held:
            return results, taken
        trial, stop = held.pop(random.choice(sorted(held)))
        before = results[trial.name] or {"steps": 0, "rungs": []}
        step = stop or TOTAL
        assert step > before["steps"], "a trial is never trained twice over the same steps"
        taken += step - before["steps"]
        measured = value(trial, step)
        status = "diverged" if measured is None else "stopped" if stop else "ok"
        rungs = [
            *before["rungs"],
            *([{"steps": step, metric: measured}] if status == "stopped" else []),
        ]
        results[trial.name] = {"status": status, metric: measured, "steps": step, "rungs": rungs}


def finished(results):
    return {name for name, result in results.items() if result["status"] == "ok"}


def test_successive_halving_by_hand():
    # 9 designs, rungs at 10 and 30 of 90 steps: 9 -> 3 -> 1
    schedule = make_schedule(9, scheduler="successive_halving")
    assert schedule.rungs["0-0"] == (10, 30)
    results, taken = simulate(schedule, lambda trial, step: trial.overrides["model.width"])
    assert finished(results) == {"8-0"}
    assert [results[f"{i}-0"]["steps"] for i in range(9)] == [10] * 6 + [30, 30, 90]
    assert taken == 9 * 10 + 3 * 20 + 60 == schedule.planned_steps(dict.fromkeys(results, TOTAL))


@pytest.mark.parametrize("scheduler", ["asha", "successive_halving"])
@pytest.mark.parametrize(
    "steps, status, due",
    [
        ((50,), "stopped", None),  # from a launch without a scheduler: past both rungs
        ((10, 10), "stopped", 30),  # failed after the first rung and was tried again
        ((10, 10, 30), "stopped", None),
    ],
)
def test_entries_count_by_their_steps(scheduler, steps, status, due):
    schedule = make_schedule(3, scheduler=scheduler)  # rungs at 10 and 30
    results = {
        f"{i}-0": {"status": "stopped", "steps": 10, "rungs": [{"steps": 10, "top1": i}]}
        for i in range(2)
    }
    entries = [{"steps": step, "top1": 90.0} for step in steps]
    results["2-0"] = {"status": status, "steps": steps[-1], "rungs": entries}
    assert [(trial.name, stop) for trial, stop in schedule.due(results)] == [("2-0", due)]


def test_no_trial_needs_no_schedule():
    assert make_schedule(0) is None


def test_successive_halving_does_not_depend_on_how_many_launchers_there_are():
    def value(trial, step):
        return (trial.overrides["model.width"] * 7 + step) % 11

    found = [
        simulate(make_schedule(12, scheduler="successive_halving"), value, launchers, seed)[0]
        for launchers, seed in ((1, 0), (3, 1), (5, 2))
    ]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("launchers", [1, 4])
@pytest.mark.parametrize("scheduler", ["asha", "successive_halving"])
def test_the_best_of_64_designs_for_a_third_of_the_steps(scheduler, launchers):
    for seed in range(10):
        random = np.random.default_rng(seed)
        best, speed = random.permutation(64), random.uniform(0.5, 1, 64)

        def value(trial, step, best=best, speed=speed):
            i = trial.overrides["model.width"]
            return best[i] - 10 * speed[i] * (1 - step / TOTAL)  # some learn more slowly

        schedule = make_schedule(64, scheduler=scheduler, reduction_factor=4)
        results, taken = simulate(schedule, value, launchers, seed)
        assert max(results[name]["top1"] for name in finished(results)) == 63
        assert taken <= 64 * TOTAL / 3


def test_asha_promotes_before_all_designs_have_begun():
    schedule = make_schedule(9)
    results = dict.fromkeys(f"{i}-0" for i in range(9))
    for i in range(3):
        results[f"{i}-0"] = {
            "status": "stopped",
            "top1": i,
            "steps": 10,
            "rungs": [{"steps": 10, "top1": i}],
        }
    trial, stop = schedule.due(results)[0]
    assert (trial.name, stop) == ("2-0", 30)
    waits = make_schedule(9, scheduler="successive_halving")
    assert {(trial.name, stop) for trial, stop in waits.due(results)} == {
        (f"{i}-0", 10) for i in range(3, 9)
    }


def test_a_design_is_judged_by_the_mean_of_all_its_seeds():
    # Design 0 has the best seed and a bad one; design 1 is good twice.
    values = {(0, 0): 90, (0, 1): 10, (1, 0): 70, (1, 1): 72, (2, 0): 50, (2, 1): 50}

    def value(trial, step):
        return values[trial.overrides["model.width"], trial.overrides["seed"]]

    results, _ = simulate(make_schedule(3, seeds=2, scheduler="successive_halving"), value)
    assert finished(results) == {"1-0", "1-1"}


def test_a_seed_that_diverges_counts_against_its_design():
    def value(trial, step):
        design, seed = trial.overrides["model.width"], trial.overrides["seed"]
        return None if (design, seed) == (2, 1) else 60 + design

    results, _ = simulate(make_schedule(3, seeds=2, scheduler="successive_halving"), value)
    assert finished(results) == {"1-0", "1-1"}


def test_of_losses_the_smallest_goes_on():
    schedule = make_schedule(3, scheduler="successive_halving", metric="loss")
    results, _ = simulate(
        schedule, lambda trial, step: trial.overrides["model.width"] + 1, metric="loss"
    )
    assert finished(results) == {"0-0"}


def test_a_failed_trial_is_tried_once_a_launch():
    schedule = make_schedule(2, rungs=(10,))
    results = {"0-0": {"status": "failed"}, "1-0": None}
    assert [trial.name for trial, _ in schedule.due(results)] == ["0-0", "1-0"]
    assert [trial.name for trial, _ in schedule.due(results, tried={"0-0"})] == ["1-0"]


def test_launchers_begin_at_designs_of_their_own():
    schedule = make_schedule(6)
    nothing = dict.fromkeys(schedule.rungs)
    assert [trial.name for trial, _ in schedule.due(nothing, 3)] == [
        f"{i}-0" for i in (3, 4, 5, 0, 1, 2)
    ]


def test_a_study_without_a_scheduler_has_no_schedule():
    assert make_schedule(3, scheduler="") is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scheduler": "hyperband"}, "successive_halving, asha; got 'hyperband'"),
        ({"rungs": (30, 10)}, "ascending"),
        ({"rungs": (10, 90)}, "10, 90 are not all from 1 to below the 90 steps"),
        ({"reduction_factor": 50}, "0, 1 are not all from 1"),
    ],
)
def test_settings_that_cannot_be_used(settings, message):
    with pytest.raises(UserError, match=message):
        make_schedule(3, **{"scheduler": "asha", **settings})


def test_every_launch_agrees_on_what_is_due():
    """Whatever the results, a design that is due at a rung has reached the one before."""
    schedule = make_schedule(7, scheduler="asha")
    for stages in itertools.islice(itertools.product(range(3), repeat=7), 0, 2187, 17):
        results = {
            f"{i}-0": {
                "status": "stopped",
                "top1": i,
                "steps": (10, 30)[n - 1],
                "rungs": [{"steps": steps, "top1": i} for steps in (10, 30)][:n],
            }
            if n
            else None
            for i, n in enumerate(stages)
        }
        for trial, stop in schedule.due(results):
            reached = results[trial.name]["steps"] if results[trial.name] else 0
            assert (stop or TOTAL) == {0: 10, 10: 30, 30: 90}[reached]
