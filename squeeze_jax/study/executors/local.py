"""The trials of a study one after another, in this process, over all its devices."""

from squeeze_jax.study import runner
from squeeze_jax.study.executors.jobs import job_index
from squeeze_jax.study.plan import Plan


def run(plan: Plan) -> int:
    """Runs a plan in this process; returns 1 where a trial failed.

    Raises:
      UserError, Interrupted, WriteError: see `runner.run`.
    """
    counts = runner.run(plan, job_index())
    return 1 if counts.get("failed") else 0
