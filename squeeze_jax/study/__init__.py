"""A study: one config, many trials, one table. `run` continues whatever its workdir already holds."""

from squeeze_jax.study.runner import run
from squeeze_jax.study.trials import Trial, make_trials
from squeeze_jax.study.workdir import counts, write_table

__all__ = ["Trial", "counts", "make_trials", "run", "write_table"]
