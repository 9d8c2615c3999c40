"""A study: one config, many trials, one table.

Running it again continues what its workdir holds.
"""

from squeeze_jax.study.api import read_study, run_study
from squeeze_jax.study.columns import COLUMNS, Column
from squeeze_jax.study.executors import EXECUTORS, run_to_end
from squeeze_jax.study.plan import Plan
from squeeze_jax.study.runner import run
from squeeze_jax.study.space import Choice, Uniform
from squeeze_jax.study.trials import Trial, make_trials
from squeeze_jax.study.workdir import Workdir

__all__ = [
    "COLUMNS",
    "EXECUTORS",
    "Choice",
    "Column",
    "Plan",
    "Trial",
    "Uniform",
    "Workdir",
    "make_trials",
    "read_study",
    "run",
    "run_study",
    "run_to_end",
]
