"""What a study would take, told before anything is trained."""

from types import SimpleNamespace

import pytest

from squeeze_jax.cli import launch
from squeeze_jax.configs import ablation, sr_sweep
from squeeze_jax.study import Plan, dry_run, make_trials
from squeeze_jax.study.dry_run import DryRun, Estimate, _between, _spread, estimate
from squeeze_jax.study.preflight import program_of, step_macs
from squeeze_jax.train.measure import Speed

SMALL = {"model.num_fire": 2, "model.pool_after": ("conv1",), "model.base_e": 8}


def test_speeds_lie_between_the_measured_ones():
    found = [(100.0, Speed(10.0, 1.0, 4.0)), (300.0, Speed(20.0, 3.0, 8.0))]
    assert _between(found, 200.0) == Speed(15.0, 2.0, 6.0)
    assert _between(found[:1], 200.0) == found[0][1]
    assert Speed(15.0, 2.0, 6.0).trial(steps=10, evaluations=2) == 15 + 20 + 12
    assert _spread(range(7)) == [0, 3, 6] and _spread([]) == [] and _spread("ab") == ["a", "b"]


def test_what_an_ablation_changes_is_another_program():
    config = ablation.get_config("cifar10_modern")
    config.bundled_teacher = ""  # each seed trains its own
    trials = make_trials(config, ablation.sweep, derive=ablation.derive)
    stages = {trial.name: trial.name.partition(",")[0] for trial in trials}
    programs = {program_of(trial): stages[trial.name] for trial in trials}
    assert sorted(programs.values()) == sorted(
        f"stage={stage}" for stage in ("teacher", *ablation.CHANGES)
    )
    # The teacher's forward pass beside the net's three passes.
    assert macs_of_a_step(config, "taught") == pytest.approx(128 * (100 + 100 / 3))
    assert macs_of_a_step(config, "recipe") == 128 * 100
    # cifar10-100k has 29.95 M, see experiments/tiny.
    config.bundled_teacher = "cifar10-100k"
    assert macs_of_a_step(config, "taught") == pytest.approx(128 * 29.95e6 / 3, rel=1e-3)
    config.bundled_teacher = ""
    # A quarter of the epochs ask the teacher.
    config.train.update(epochs=16.0, teacher_views=4)
    assert macs_of_a_step(config, "taught") == pytest.approx(128 * (100 + 100 / 3 / 4))


def test_designs_that_a_sampler_has_not_drawn_yet_count(monkeypatch):
    trials = [SimpleNamespace(name=f"{design}-{seed}") for design in range(8) for seed in (0, 1)]
    estimates = [Estimate(trial, {}, 10, 60.0) for trial in trials]
    monkeypatch.setattr(dry_run, "estimate", lambda plan: DryRun(estimates, 1.0))
    config = SimpleNamespace(seeds=2, search=SimpleNamespace(designs=64))
    plan = SimpleNamespace(config=config, trials=trials, renew=lambda: None)
    text = launch._dry_run(plan)
    assert "about 16.0 minutes on" in text and "longer than a lunch break" in text
    assert "8 of 64 designs" in text and "about 2.1 hours in all" in text
    plan.renew = None
    assert "designs" not in launch._dry_run(plan)


def macs_of_a_step(config, stage):
    """Of nets of 100 MACs an image, on ten batches."""
    trials = make_trials(config, ablation.sweep, derive=ablation.derive)
    trial = next(trial for trial in trials if trial.overrides["stage"] == stage)
    study = SimpleNamespace(
        costs={trial.name: {"macs": 100} for trial in trials},
        data_of={trial.name: SimpleNamespace(num_train=10 * 128 + 5)},
        total_steps={trial.name: round(10 * config.train.epochs)},
    )
    return step_macs(study, trial)


@pytest.mark.slow
def test_trials_that_share_a_program_compile_it_once_and_nothing_is_written(tmp_path):
    """A net that does not fit its images is named; of 220 steps each takes as long."""
    config = sr_sweep.get_config()
    config.update_from_flattened_dict(SMALL)
    points = [
        {"model.squeeze_ratio": ratio, "seed": seed} for ratio in (0.25, 1.0) for seed in (0, 1)
    ]
    points.append({"model.conv1_kernel": 33, "seed": 0})
    trials = make_trials(config, lambda config: points)
    config.stopping.update(scheduler="successive_halving", rungs=(22,), reduction_factor=2)
    found = estimate(Plan(config, trials, tmp_path / "work", "test"))
    estimates = found.estimates
    assert [each.trial for each in estimates] == trials and not (tmp_path / "work").exists()
    *good, bad = estimates
    assert bad.seconds is None and "33x33 convolution" in bad.problem
    assert {each.steps for each in good} == {220}
    assert good[0].seconds > good[1].seconds > 0 and good[2].seconds > good[3].seconds
    # Of two designs of two seeds, one is stopped at a tenth of its steps.
    assert found.share == pytest.approx(0.55) and found.steps == 2 * 22 + 2 * 220
    assert found.seconds == pytest.approx(0.55 * sum(each.seconds for each in good))
    assert good[0].costs["macs"] < good[2].costs["macs"]
