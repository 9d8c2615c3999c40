"""Where the trials of a study run. An executor is one file here and one line in EXECUTORS.

It takes a plan, runs its trials until none is left that it can run, and returns an exit code: 0,
1 where a trial failed, and a larger one where the study was stopped and the reason was printed.
"""

from collections.abc import Callable
from typing import Any

from squeeze_jax.errors import UserError
from squeeze_jax.study.executors import jobs, local, ray
from squeeze_jax.study.plan import Plan

EXECUTORS: dict[str, Callable[[Plan], int]] = {
    "local": local.run,
    "jobs": jobs.run,
    "ray": ray.run,
}


# The executor that an option is for.
_OWNERS = {"jobs": "jobs", "address": "ray", "trial_resources": "ray"}


def choose(name: str | None, options: dict[str, Any], prefix: str = "") -> str:
    """Returns a key of EXECUTORS: the one named, otherwise jobs for several jobs, and local.

    Args:
      name: the one named, or None.
      options: jobs, and address and trial_resources, None where they are not set.
      prefix: of the options' names in messages: "--" for flags.

    Raises:
      UserError: there is none of this name, or an option is set that is for another one.
    """
    executor = name or ("jobs" if options["jobs"] > 1 else "local")
    if executor not in EXECUTORS:
        raise UserError(f"{prefix}executor is one of {', '.join(EXECUTORS)}; got {executor}")
    for option, owner in _OWNERS.items():
        if owner != executor and options[option] not in (None, 1):
            shown = option.replace("_", "-") if prefix else option
            raise UserError(f"{prefix}{shown} goes with {prefix}executor {owner}, not {executor}")
    return executor


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
