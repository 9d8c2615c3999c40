"""Where the trials of a study run. An executor is one file here and one line in EXECUTORS.

It takes a plan, runs its trials until none is left that it can run, and returns an exit code: 0,
1 where a trial failed, and a larger one where the study was stopped and the reason was printed.
"""

from collections.abc import Callable

from squeeze_jax.study.executors import jobs, local, ray
from squeeze_jax.study.plan import Plan

EXECUTORS: dict[str, Callable[[Plan], int]] = {
    "local": local.run,
    "jobs": jobs.run,
    "ray": ray.run,
}


def run_to_end(executor: str, plan: Plan) -> int:
    """Runs a plan, and then the trials that its sampler proposes by what these were worth.

    Returns the exit code of the executor, a key of EXECUTORS.
    """
    while True:
        code = EXECUTORS[executor](plan)
        if code > 1 or plan.renew is None:
            return code
        renewed = plan.renew()
        if len(renewed.trials) == len(plan.trials):  # other launchers run some of them
            return code
        plan = renewed
