"""Spaces, the designs that samplers draw from them, and what a relaunch draws again."""

import importlib
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from squeeze_jax import study
from squeeze_jax.configs import base
from squeeze_jax.cost import design_costs
from squeeze_jax.errors import UserError
from squeeze_jax.study import Choice, Plan, Uniform, Workdir, runner, search
from squeeze_jax.study.config_files import load_config_file
from squeeze_jax.study.drawn_designs import _worth
from squeeze_jax.study.samplers import SAMPLERS
from squeeze_jax.study.search import KEPT, OVER_BUDGET, REPEATED, SearchConfig
from squeeze_jax.study.space import check_space, design_at
from squeeze_jax.train import Interrupted
from tests.study.staged import staged_config

SPACE = {
    "model.bypass": Choice("none", "complex"),
    "model.base_e": Uniform(16, 64, step=8),
    "train.learning_rate": Uniform(1e-3, 1e-1, log=True),
    "model.freq": Choice(1, 2, 4, when=lambda design: design["model.bypass"] == "complex"),
}


def test_a_sampler_learns_from_the_newest_data():
    """As designs that are drawn after the data have changed have been trained on no other."""
    designs = [{"model.base_e": width} for width in (8, 16, 24)]
    versions, top1 = ((1, 2), (2,), (1,)), {(0, 1): 50.0, (0, 2): 60.0, (1, 2): 70.0, (2, 1): 80.0}
    trials = [
        SimpleNamespace(name=(i, data), overrides={**design, "seed": 0}, data=data, costs={})
        for i, design in enumerate(designs)
        for data in versions[i]
    ]
    workdir = SimpleNamespace(
        has_study=lambda: True,
        read_record=lambda: SimpleNamespace(trials=trials),
        read_results=lambda names: {n: {"status": "ok", "top1": top1[n]} for n in names},
    )
    assert _worth(workdir, designs, "top1", ()) == [[60.0], [70.0], [80.0]]
    assert _worth(workdir, [{"model.base_e": 32}], "top1", ()) is None


@pytest.mark.parametrize(
    ("axis", "values"),
    [
        (Choice("a", ("b", "c"), None), ["a", ("b", "c"), None]),
        (Uniform(2, 5), [2, 3, 4, 5]),
        (Uniform(16, 64, step=16), [16, 32, 48, 64]),
        (Uniform(16, 60, step=16), [16, 32, 48]),
        (Uniform(0.1, 0.4, step=0.1), [0.1, 0.2, 0.3, 0.4]),
    ],
)
def test_each_value_of_an_axis_is_as_likely_as_the_others(axis, values):
    found = [axis.value(quantile) for quantile in (np.arange(1200) + 0.5) / 1200]
    assert sorted(set(map(repr, found))) == sorted(map(repr, values))
    assert {found.count(value) for value in values} == {1200 // len(values)}
    assert axis.value(np.nextafter(1, 0)) == values[-1]


def test_a_logarithmic_axis_has_as_many_values_in_each_decade():
    axis = Uniform(1e-3, 1e-1, log=True)
    found = [axis.value(q) for q in np.linspace(0, 1, 1000, endpoint=False)]
    assert min(found) == 1e-3 and max(found) <= 1e-1
    assert abs(sum(value < 1e-2 for value in found) - 500) <= 2
    assert all(value == float(f"{value:.3g}") for value in found)
    assert {Uniform(8, 32, step=8, log=True).value(q) for q in np.linspace(0, 0.999, 99)} == {
        8,
        16,
        24,
        32,
    }


def test_an_axis_may_depend_on_the_ones_before_it():
    assert "model.freq" not in design_at(SPACE, [0.1, 0, 0, 0.9])
    assert design_at(SPACE, [0.9, 0, 0, 0.9])["model.freq"] == 4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Choice(), "no values"),
        (lambda: Uniform(3, 3), "low is below high"),
        (lambda: Uniform(0, 3, log=True), "above 0"),
        (lambda: Uniform(0, 3, step=4), "step"),
        (lambda: Uniform(0, float("inf")), "low is below high"),
        (lambda: check_space({}), "dict of dotted keys"),
        (lambda: check_space({"seed": (1, 2)}), "dict of dotted keys"),
        (lambda: check_space([("seed", Choice(1))]), "dict of dotted keys"),
    ],
)
def test_axes_and_spaces_that_cannot_be_used(make, message):
    with pytest.raises(UserError, match=message):
        make()


def run(settings, fits=lambda design: True, worth=None, known=(), metric="top1"):
    worth = worth or (lambda designs: [[design["model.base_e"]] for design in designs])
    return search.draw(SPACE, metric, settings, known, fits, worth)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_same_seed_draws_the_same_designs_within_the_budget(sampler):
    settings = SearchConfig(designs=24, sampler=sampler, seed=3)
    draws = run(settings, lambda design: design["model.base_e"] < 48)
    designs = search.kept_designs(draws)
    assert draws == run(settings, lambda design: design["model.base_e"] < 48)
    assert len(designs) == 24 and all(design["model.base_e"] < 48 for design in designs)
    assert len({json.dumps(design) for design in designs}) == 24
    assert any(each.verdict == OVER_BUDGET for each in draws)
    other = run(SearchConfig(designs=24, sampler=sampler, seed=4))
    assert search.kept_designs(other) != designs


@pytest.mark.parametrize("sampler", ["sobol", "latin_hypercube"])
def test_designs_cover_each_axis_evenly(sampler):
    designs = search.kept_designs(run(SearchConfig(designs=16, sampler=sampler)))
    rates = sorted(np.log10(design["train.learning_rate"]) for design in designs)
    strata = np.clip(np.floor((np.array(rates) + 3) / 2 * 16), 0, 15)
    assert len(set(strata)) >= 15  # one in each sixteenth, but for rounding


def test_more_designs_go_on_with_the_same_ones():
    few, many = (run(SearchConfig(designs=n, sampler="sobol")) for n in (8, 20))
    assert many[: len(few)] == few


def test_a_design_is_trained_once():
    space = {"model.base_e": Uniform(16, 64, step=16)}
    settings = SearchConfig(designs=4, sampler="random")
    draws = search.draw(space, "top1", settings, (), lambda _: True, lambda _: None)
    assert sorted(d["model.base_e"] for d in search.kept_designs(draws)) == [16, 32, 48, 64]
    assert any(each.verdict == REPEATED for each in draws)
    assert "repeated" in search.describe(draws)
    five = SearchConfig(designs=5, sampler="random")
    with pytest.raises(UserError, match="4 of 5 designs found"):
        search.draw(space, "top1", five, (), lambda _: True, lambda _: None)


def test_a_sampler_that_learns_finds_better_designs_than_chance():
    def value(design):
        return -abs(np.log10(design["train.learning_rate"]) + 1.5) + design["model.base_e"] / 64

    def mean(sampler):
        settings = SearchConfig(designs=48, sampler=sampler, batch=8)
        draws = run(settings, worth=lambda designs: [[value(design)] for design in designs])
        return np.mean([value(design) for design in search.kept_designs(draws)[24:]])

    assert mean("tpe") > mean("random") + 0.2


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_a_resumed_search_proposes_what_an_untouched_one_would(sampler):
    costs = ("macs",) if sampler == "nsga2" else ()
    settings = SearchConfig(designs=20, sampler=sampler, batch=4, objectives=costs)

    def worth(designs):
        return [
            None
            if design["model.base_e"] == 16
            else [design["model.base_e"], *(1.0 for _ in costs)]
            for design in designs
        ]

    untouched = run(settings, worth=worth)
    draws, launches, ended = [], 0, 0
    while len(search.kept_designs(draws)) < 20:
        # A launch sees the results of the batches that ended; what it drew goes through a file.
        record = json.loads(json.dumps(search.to_record(draws, {})))
        known = search.from_record(record, {})
        batches = iter(range(ended + 1))
        draws = run(
            settings,
            worth=lambda designs, batches=batches: (
                worth(designs)
                if next(batches) < ended  # noqa: B023
                else None
            ),
            known=known,
        )
        assert draws[: len(known)] == known
        launches, ended = launches + 1, ended + 1
    assert draws == untouched and launches == 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampler": "grid"}, "random, latin_hypercube, sobol, tpe, nsga2; got 'grid'"),
        ({"sampler": "sobol", "objectives": ("macs",)}, "of nsga2"),
        ({"sampler": "nsga2", "objectives": ("top5",)}, "top5 is none"),
    ],
)
def test_settings_that_cannot_be_used(settings, message):
    with pytest.raises(UserError, match=message):
        run(SearchConfig(**settings))


def test_without_optuna_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"pip install 'squeeze_jax\[optuna\]'"):
        run(SearchConfig(sampler="tpe"))


# ------------------------------------------------------------ a study


def module_of(space, **changes):
    def get_config():
        config = base.get_config("digits", "a_space")
        config.search = base.search(designs=4, sampler="sobol")
        config.update(changes)
        return config

    return SimpleNamespace(get_config=get_config, space=lambda config: space)


def plan(module, workdir, **budget):
    config = module.get_config()
    config.budget.update(budget)
    return Plan.of(module, config, (), workdir, command="test")


def test_designs_out_of_the_window_of_costs_are_drawn_again(tmp_path, capsys):
    module = module_of({"model.base_e": Uniform(8, 48, step=8), "model.pct3x3": Choice(0.25, 0.5)})
    window = dict(min_macs=300_000, max_macs=600_000)
    first = plan(module, tmp_path, **window)
    assert len(first.trials) == 12  # three seeds
    for trial in first.trials:
        macs = design_costs(trial.parsed.model, 10, (32, 32, 3))["macs"]
        assert 300_000 <= macs <= 600_000
    assert "over the budget" in capsys.readouterr().err
    again = plan(module, tmp_path, **window)
    assert [trial.name for trial in again.trials] == [trial.name for trial in first.trials]
    assert capsys.readouterr().err == ""
    record = Workdir(tmp_path).read_search()
    assert sum(each["verdict"] == KEPT for each in record["draws"]) == 4


@pytest.mark.parametrize("name", ["squeezenet_space", "squeezenext_space"])
def test_the_projects_spaces_hold_designs_that_can_be_built(name, tmp_path):
    module = importlib.import_module(f"configs.{name}")
    config = module.get_config("digits")
    config.search.update(designs=2)
    trials = Plan.of(module, config, (), tmp_path, command="test").trials
    assert len(trials) == 2
    for trial in trials:
        macs = design_costs(trial.parsed.model, 10, (32, 32, 3))["macs"]
        assert config.budget.min_macs <= macs <= config.budget.max_macs
    for preset in ("cifar10_modern", "imagenet", "imagenet_modern"):
        config = module.get_config(preset)
        config.budget.update(min_macs=None, max_macs=None)
        config.search.update(designs=3)
        for trial in Plan.of(module, config, (), tmp_path / preset, command="test").trials:
            assert design_costs(trial.parsed.model, 10, (64, 64, 3))["macs"] > 0


def test_a_damaged_search_file_is_one_line(tmp_path):
    module = module_of(SPACE)
    plan(module, tmp_path)
    (tmp_path / "search.json").write_text("{")
    with pytest.raises(UserError, match="search.json is damaged"):
        plan(module, tmp_path)


def test_a_sampler_that_learns_does_not_go_with_early_stopping(tmp_path):
    module = module_of(SPACE)
    config = module.get_config()
    config.search.sampler, config.stopping.scheduler = "tpe", "asha"
    with pytest.raises(UserError, match="trained to their end"):
        Plan.of(module, config, (), tmp_path, command="test")


def test_a_config_file_has_a_sweep_or_a_space(tmp_path):
    path = tmp_path / "both.py"
    path.write_text("def sweep(config): ...\ndef space(config): ...\n")
    with pytest.raises(UserError, match="both sweep"):
        load_config_file(path)


@pytest.mark.slow
def test_a_study_goes_on_with_what_a_sampler_proposes_by_its_results(tmp_path, monkeypatch):
    space = {"model.base_e": Uniform(8, 40, step=8), "train.learning_rate": Uniform(0.01, 0.1)}

    def config():
        config = staged_config("learning", steps=4)
        config.seeds = 1
        config.search = base.search(sampler="nsga2", designs=6, batch=3, objectives=("macs",))
        return config

    def launch(workdir):
        module = SimpleNamespace(space=lambda config: space)
        plan = Plan.of(module, config(), (), workdir, command="test")
        return study.run_to_end("local", plan)

    assert launch(tmp_path / "untouched") == 0
    names = Workdir(tmp_path / "untouched").statuses(
        trial.name for trial in Workdir(tmp_path / "untouched").read_record().trials
    )
    assert len(names) == 6 and "pending" not in names.values()

    runs, trained = [], runner.train

    def killed(*arguments, **options):
        runs.append(1)
        if len(runs) in (2, 6):  # in the first batch and in the second
            raise Interrupted(15)
        return trained(*arguments, **options)

    monkeypatch.setattr(runner, "train", killed)
    for _ in range(2):
        with pytest.raises(Interrupted):
            launch(tmp_path / "killed")
    assert launch(tmp_path / "killed") == 0
    again = Workdir(tmp_path / "killed")
    assert {trial.name for trial in again.read_record().trials} == set(names)
    assert again.read_search() == Workdir(tmp_path / "untouched").read_search()
