"""The sweep of a study that has a space: its designs, drawn within the budget."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict
from tqdm import tqdm

from squeeze_jax.config_parsing import parse_section
from squeeze_jax.data import Data, open_data
from squeeze_jax.errors import UserError
from squeeze_jax.study import budget, search
from squeeze_jax.study.processes import first_process
from squeeze_jax.study.scheduler import value_of
from squeeze_jax.study.space import Design, check_space
from squeeze_jax.study.trials import Trial, design_key, make_trials
from squeeze_jax.study.workdir import Workdir


@dataclass(frozen=True)
class DrawnDesigns:
    """The designs of a study that are drawn so far.

    Attributes:
      sweep: yields the overrides of each trial.
      costs: `budget.cost_key` -> what a design costs, of those that were asked for.
      is_complete: whether there are as many designs as the study is to have.
    """

    sweep: Callable[[ConfigDict], Iterator[Mapping[str, Any]]]
    costs: dict[Any, dict[str, float]]
    is_complete: bool


def draw_designs(
    module: ModuleType, config: ConfigDict, set_by_user: Iterable[str], workdir: Workdir
) -> DrawnDesigns:
    """Draws the designs of a study, as far as its results allow, and keeps them in its workdir.

    Args:
      module: the config file, with space(config) and perhaps derive(config).
      config: the study's.
      set_by_user: dotted keys set on the command line.
      workdir: of the study.

    Raises:
      UserError: a space, a search section or a design that cannot be used; see `search.draw`.
    """
    space = check_space(module.space(config))
    plain = config.to_dict()
    if "search" not in plain:
        raise UserError("a study with space(config) has config.search = base.search()")
    settings = parse_section(search.SearchConfig, plain["search"], "search")
    metric = plain["report"]["metric"]
    if settings.sampler_for(space, metric).learns and plain["stopping"]["scheduler"]:
        raise UserError(
            f"{settings.sampler} learns from trials that are trained to their end: "
            "leave stopping.scheduler empty, or take another search.sampler"
        )
    limits = budget.limits(plain["budget"])
    set_by_user = list(set_by_user)
    costs: dict[Any, dict[str, float]] = {}
    opened: dict[Any, Data] = {}
    bar = tqdm(desc="drawing designs", unit="design", disable=not sys.stderr.isatty(), leave=False)

    def trial_of(design: Design) -> Trial:
        point = {**design, "seed": 0}
        derive = getattr(module, "derive", None)
        return make_trials(config, lambda _: [point], set_by_user, derive)[0]

    def fits(design: Design) -> bool:
        if not limits:
            return True
        bar.update()
        trial = trial_of(design)
        if (key := budget.cost_key(trial)) not in costs:
            if trial.parsed.data not in opened:
                opened[trial.parsed.data] = open_data(workdir.locate(trial.parsed.data))
            try:
                costs[key] = budget.trial_costs(trial, opened[trial.parsed.data])
            except (UserError, ValueError):  # it cannot be built
                costs[key] = {}
        return bool(costs[key]) and budget.fits(costs[key], limits)

    def worth(designs: Sequence[Design]) -> list[Sequence[float] | None] | None:
        return _worth(workdir, designs, metric, settings.objectives)

    signature = search.signature(settings, space, plain["budget"])
    known = search.from_record(workdir.read_search(), signature)
    if limits and not known and first_process():
        print(
            f"drawing {settings.designs} designs within {budget.describe(limits)}", file=sys.stderr
        )
    with bar:
        draws = search.draw(space, metric, settings, known, fits, worth)
    designs = search.kept_designs(draws)
    if first_process() and draws != known:
        workdir.write_search(search.to_record(draws, signature))
        if text := search.describe(draws):
            print(text, file=sys.stderr)

    def sweep(config: ConfigDict) -> Iterator[Mapping[str, Any]]:
        for design in designs:
            for seed in range(config.to_dict()["seeds"]):
                yield {**design, "seed": seed}

    return DrawnDesigns(sweep, costs, len(designs) == settings.designs)


def _worth(
    workdir: Workdir, designs: Sequence[Design], metric: str, objectives: Sequence[str]
) -> list[Sequence[float] | None] | None:
    """Returns what designs were worth on the newest data they have seen, see `search.Worth`."""
    if not workdir.has_study():
        return None
    trials = workdir.read_record().trials
    results = workdir.read_results(trial.name for trial in trials)
    versions: dict[str, dict[int, list[Any]]] = {}  # of the data
    for trial in trials:
        by_version = versions.setdefault(design_key(trial.overrides), {})
        by_version.setdefault(trial.data, []).append(trial)
    found: list[Sequence[float] | None] = []
    for design in designs:
        by_version = versions.get(design_key(design), {0: []})
        seeds = by_version[max(by_version)]
        ended = [result for trial in seeds if (result := results[trial.name]) is not None]
        if not seeds or len(ended) < len(seeds):
            return None
        values = [value for result in ended if (value := value_of(result, metric)) is not None]
        costs = [seeds[0].costs.get(name) for name in objectives]
        has_trained = any(result["status"] != "failed" for result in ended)
        found.append([fmean(values), *costs] if has_trained and None not in costs else None)
    return found
