"""Studies as Python functions: run one, read what came out."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from squeeze_jax.configs import base
from squeeze_jax.errors import UserError
from squeeze_jax.storage import as_path
from squeeze_jax.study import executors
from squeeze_jax.study.config_files import find_config_file, load_config_file
from squeeze_jax.study.plan import Plan
from squeeze_jax.study.schema import current_key, flatten
from squeeze_jax.study.workdir import Workdir


def launch_command(*arguments: str) -> list[str]:
    """Returns the command line of a process that runs `squeeze-jax launch` with these arguments."""
    return [sys.executable, "-m", "squeeze_jax", "launch", *arguments]


def run_study(
    config: str | Path,
    preset: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    workdir: str | Path | None = None,
    jobs: int = 1,
    new_data: bool = False,
    executor: str | None = None,
    address: str | None = None,
    trial_resources: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Runs the trials of a study that have not finished yet.

    Args:
      config: the name of a study, such as "sr_sweep", or the path of a config file.
      preset: a preset, such as "cifar10"; the config file's own default if None.
      overrides: dotted config key -> value, such as {"train.epochs": 5.0}.
      workdir: receives the results; runs/STUDY-PRESET by default.
      jobs: how many trials to train at once, each on its share of the cores or GPUs.
      new_data: whether data that changed since an earlier run are welcome, in rows of their own.
      executor: a key of EXECUTORS; None: jobs if there are several, otherwise local.
      address: of the Ray cluster, for the executor ray; None: this machine's.
      trial_resources: what a trial gets there, such as {"CPU": 2, "GPU": 1}.

    Returns:
      See `read_study`.

    Raises:
      UserError: a setting that cannot be used, or a job ended before the study did.
      WriteError: the disk is full, or cannot be written; what was finished is kept.
    """
    executor = executors.choose(
        executor, dict(jobs=jobs, address=address, trial_resources=trial_resources)
    )
    path = find_config_file(str(config))
    module = load_config_file(path)
    settings = module.get_config(*([preset] if preset else []))
    changes = {current_key(key): value for key, value in (overrides or {}).items()}
    try:
        settings.lock()
        settings.update_from_flattened_dict(changes)
    except (KeyError, AttributeError) as e:
        unknown = [key for key in changes if key not in flatten(settings.to_dict())]
        raise UserError(f"the config has no key {', '.join(unknown) or e.args[0]}") from e
    except TypeError as e:
        raise UserError(f"overrides: {str(e).splitlines()[0]}") from e
    arguments = [
        f"--config={path}" + (f":{preset}" if preset else ""),
        *(f"--config.{key}={value}" for key, value in changes.items()),
        *([f"--workdir={workdir}"] if workdir else []),
        *([f"--jobs={jobs}"] if jobs > 1 else []),
        *(["--new_data"] if new_data else []),
    ]
    plan = Plan.of(
        module,
        settings,
        changes,
        as_path(workdir) if workdir else None,
        command=shlex.join(["squeeze-jax", "launch", *arguments]),
        arguments=launch_command(*arguments),
        defaults=base.defaults(),
        jobs=jobs,
        config_file=path,
        address=address,
        trial_resources=trial_resources,
        new_data=new_data,
    )
    code = executors.run_to_end(executor, plan)
    if code > 1:
        raise UserError(f"a job ended with exit code {code}; its message is on stderr")
    return read_study(plan.workdir)


def read_study(workdir: str | Path) -> list[dict[str, Any]]:
    """Returns one record a trial, ready for a data frame: pandas.DataFrame(read_study(workdir)).

    The keys are the columns of sweep.csv: trial, the swept keys, seed, status, costs and results.
    What is not measured yet is None.

    Raises:
      UserError: the folder is no workdir, or its study.json is damaged.
    """
    return Workdir(workdir).read_rows()
