"""A study: one config, many trials, one table. `run` continues whatever its workdir already holds."""

from squeeze_jax.sweep.results import counts, write_table
from squeeze_jax.sweep.runner import run
from squeeze_jax.sweep.trials import Trial, make_trials

__all__ = ["Trial", "counts", "make_trials", "run", "write_table"]
