"""A study to run: what an executor is given."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from squeeze_jax.study.config_errors import named_errors
from squeeze_jax.study.drawn_designs import draw_designs
from squeeze_jax.study.trials import Trial, check_values, make_trials
from squeeze_jax.study.workdir import Workdir
from squeeze_jax.train import fill_from_checkpoint


def accept_error(error: Exception) -> None:
    """Takes an exception for the trial's fault."""


@dataclass(frozen=True)
class Plan:
    """A study to run.

    Attributes:
      config: the study's config.
      trials: its trials, each with its own config.
      workdir: receives the results.
      command: the command line, for the records.
      arguments: the program and the arguments of a process that runs the same study.
      defaults: every config key with its default value, see `Workdir.open_study`.
      jobs: how many trials to train at once, where the executor trains several.
      config_file: the config file that the study is from, where it is known.
      address: of the cluster to run on, where the executor needs one; None: this machine's.
      trial_resources: what a trial gets there, {"CPU": 2, "GPU": 1}; None: one device of the best.
      new_data: whether data that changed since an earlier launch are welcome, in rows of their own.
      question: the first line of the config file, for the report.
      confirm: called with a trial's exception before the trial is recorded as failed; raises it
        where it is not the trial's fault, see `Hosts.confirm`.
      agree_to_stop: how several processes agree on where to stop, see `interruptible`.
      known_costs: what designs cost whose costs are known already, see `budget.cost_key`.
      renew: returns the plan once more, with the trials that a sampler proposes after these; None
        where these are all.
    """

    config: ConfigDict
    trials: Sequence[Trial]
    workdir: Path
    command: str
    arguments: Sequence[str] = ()
    defaults: ConfigDict | None = None
    jobs: int = 1
    config_file: Path | None = None
    address: str | None = None
    trial_resources: Mapping[str, float] | None = None
    new_data: bool = False
    question: str = ""
    confirm: Callable[[Exception], None] = accept_error
    agree_to_stop: Callable[[int | None], int | None] | None = None
    known_costs: Mapping[Any, dict[str, float]] = field(default_factory=dict)
    renew: Callable[[], "Plan"] | None = None

    @property
    def metric(self) -> str:
        """Returns the column that designs are compared by."""
        return self.config.to_dict()["report"]["metric"]

    @classmethod
    def of(
        cls,
        module: ModuleType,
        config: ConfigDict,
        set_by_user: Iterable[str],
        workdir: Path | None,
        **options: Any,
    ) -> "Plan":
        """Returns the plan of a config file's module and its config, with the user's changes in it.

        Args:
          module: has sweep(config) or space(config), and perhaps derive(config).
          config: what its get_config returned, as the user changed it.
          set_by_user: the dotted keys that the user set.
          workdir: receives the results; runs/STUDY-PRESET by default.
          **options: the other attributes of a plan.

        Raises:
          UserError: the workdir cannot be written; and see `make_trials`, `check_values` and
            `fill_from_checkpoint`.
        """
        config = fill_from_checkpoint(config)
        derive = getattr(module, "derive", None)
        folder = workdir or Path("runs") / f"{config.study}-{config.preset}"
        Workdir(folder).check_writable()
        existing = Workdir(folder).trial_names()
        sweep, costs, renew = getattr(module, "sweep", None), {}, None
        with named_errors(Path(getattr(module, "__file__", None) or "")):
            if sweep is None:
                drawn = draw_designs(module, config, set_by_user, Workdir(folder))
                sweep, costs = drawn.sweep, drawn.costs
                if not drawn.is_complete:
                    renew = partial(cls.of, module, config, set_by_user, workdir, **options)
            trials = make_trials(config, sweep, set_by_user, derive, existing)
        check_values(trials)
        question = (module.__doc__ or "").strip().partition("\n")[0]
        options |= {"question": question, "known_costs": costs, "renew": renew}
        return cls(config, trials, folder, **options)
