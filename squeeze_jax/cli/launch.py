"""`squeeze-jax launch NAME|PATH[:PRESET]` and launch.py: trains a study and draws its report.

Running the same command again continues where the last one stopped.
"""

import functools
import hashlib
import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags
from ml_collections import config_flags

from squeeze_jax.errors import UserError, nearest
from squeeze_jax.startup import CACHE
from squeeze_jax.storage import as_path
from squeeze_jax.study.config_errors import missing_key, named_errors
from squeeze_jax.study.config_files import (
    find_config_file,
    list_studies,
    load_config_file,
)
from squeeze_jax.study.schema import current_key

if TYPE_CHECKING:
    from squeeze_jax.study import Plan

LUNCH = 3600.0  # seconds
USAGE = """\
usage: squeeze-jax launch STUDY[:PRESET] [--config.KEY=VALUE ...] [flags]
       python launch.py --config STUDY[:PRESET] [--config.KEY=VALUE ...] [flags]

Trains a study. STUDY is a name or the path of a config file; PRESET is data with a recipe, most
often digits by default. Running the same command again continues where it stopped.

example: squeeze-jax launch sr_sweep:digits --config.train.epochs=5 --jobs 2
"""


def main(argv: list[str]) -> int:
    """Runs the study that the arguments name, or lists the studies; returns the exit code."""
    from squeeze_jax.cli.exit_code import exit_code

    return exit_code(lambda: _launch(argv), resumes=True)


def _launch(argv: list[str]) -> int:
    argv = [_underscored(_renamed(argument)) for argument in argv]
    if argv and not argv[0].startswith("-"):
        argv = [f"--config={argv[0]}", *argv[1:]]
    argv = _with_config_path(argv)
    values = _define_flags(argv)
    if {"-h", "--help", "-help", "--helpfull"} & set(argv):
        from squeeze_jax.configs.base import PRESETS
        from squeeze_jax.study.executors import EXECUTORS

        choices = f"presets: {', '.join(PRESETS)}\nexecutors: {', '.join(EXECUTORS)}"
        print(f"{USAGE}\n{choices}\n{_hyphenated(values.get_help())}")
        return 0
    if not any(argument.lstrip("-").partition("=")[0] == "config" for argument in argv):
        _parse(values, argv)
        return _list_studies()
    return _run(values, _parse(values, argv), argv)


def _underscored(argument: str) -> str:
    """Returns --dry-run as absl knows it, --dry_run; the keys of a config have underscores."""
    flag, equals, value = argument.partition("=")
    if not flag.startswith("--") or flag.startswith("--config"):
        return argument
    return f"--{flag[2:].replace('-', '_')}{equals}{value}"


def _hyphenated(text: str) -> str:
    """Returns a help text with the flags as every other command has them, --dry-run."""
    return re.sub(r"--(\[no\])?([a-z_]+)", lambda flag: flag[0].replace("_", "-"), text)


def _with_config_path(argv: list[str]) -> list[str]:
    """Returns the arguments with the path of the config file in place of a study's name."""
    for i, argument in enumerate(argv):
        flag, equals, value = argument.partition("=")
        if flag not in ("-config", "--config"):
            continue
        if not equals and i + 1 == len(argv):
            break  # absl says what is missing
        name, colon, preset = (value if equals else argv[i + 1]).partition(":")
        path = f"--config={find_config_file(name)}{colon}{preset}"
        return [*argv[:i], path, *argv[i + (1 if equals else 2) :]]
    return argv


def _define_flags(argv: list[str]) -> flags.FlagValues:
    """Returns the flags of a launch; the overrides of the config are read from `argv`."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config",
        None,
        "The study: a name, or the path of a config file; perhaps with :PRESET.",
        values,
        sys_argv=["launch", *argv],
    )
    _string(values, "workdir", None, "Where results go; runs/STUDY-PRESET by default.")
    _string(
        values,
        "executor",
        None,
        "Where trials run, one of the executors; jobs if --jobs > 1, else local.",
    )
    flags.DEFINE_integer(
        "jobs",
        1,
        "How many trials to train at once on this machine, each on its share of the CPU cores, or "
        "of the GPUs or TPU chips.",
        lower_bound=1,
        upper_bound=1024,
        flag_values=values,
    )
    _string(
        values,
        "address",
        None,
        "Address of the Ray cluster, HOST:PORT or auto; by default this machine's, or one started "
        "here.",
    )
    _string(
        values,
        "trial_resources",
        None,
        "What a trial gets of a Ray node: CPU=1, GPU=1, TPU=4 or CPU=8,GPU=1.",
    )
    flags.DEFINE_bool(
        "new_data",
        False,
        "Train on data that changed since an earlier launch, in rows of their own.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "dry_run",
        False,
        "Tell the trials, their costs and the time that they would take; train nothing.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "distributed",
        False,
        "Train as one of several processes (a TPU pod slice, several GPU hosts).",
        flag_values=values,
    )
    _string(
        values,
        "coordinator",
        None,
        "HOST:PORT of the first of the processes; found by itself on Cloud TPU, Slurm and GKE.",
    )
    for name, text in (
        ("processes", "How many processes there are; found by itself like --coordinator."),
        (
            "process_id",
            "Which of the processes this one is, from 0; found by itself like --coordinator.",
        ),
    ):
        flags.DEFINE_integer(name, None, text, lower_bound=0, flag_values=values)
    for name, default, text in (
        ("join_timeout", 300.0, "Seconds to wait for the other processes to start."),
        (
            "heartbeat_timeout",
            30.0,
            "Seconds of silence after which another process counts as lost.",
        ),
    ):
        flags.DEFINE_float(name, default, text, lower_bound=0.1, flag_values=values)
    flags.DEFINE_bool("verbose", False, "Also show what libraries log.", flag_values=values)
    _string(
        values,
        "compilation_cache",
        os.environ.get("JAX_COMPILATION_CACHE_DIR", str(CACHE)),
        "Where compiled programs are kept; '' for nowhere.",
    )
    return values


def _string(values: flags.FlagValues, name: str, default: str | None, text: str) -> None:
    flags.DEFINE_string(name, default, text, flag_values=values)


def _parse(values: flags.FlagValues, argv: list[str]) -> Any:
    """Reads the flags and the config file that they name; returns the config.

    Raises:
      UserError: an unknown flag or key, or a value that cannot be used.
    """
    given = [flag.partition("=")[2] for flag in argv if flag.startswith("--config=")]
    file = Path(given[0].partition(":")[0] if given else "")
    try:
        with named_errors(file):
            rest = values(["launch", *argv])
            if (config := values["config"].value) is not None:
                _ = config.study  # a lazy proxy: this loads the file, unless an override did so
        if len(rest) > 1:
            raise UserError(f"unexpected argument {rest[1]!r}")
        return config
    except flags.UnrecognizedFlagError as e:
        raise UserError(_unknown_flag(e.flagname, values)) from e
    except flags.IllegalFlagValueError as e:
        raise UserError(_wrong_value(str(e))) from e
    except flags.Error as e:
        raise UserError(str(e)) from e
    except (AttributeError, KeyError) as e:
        if not any(argument.startswith(("--config.", "-config.")) for argument in argv):
            raise  # not an override's key but a fault inside the config file
        raise UserError(_missing_key(str(e.args[0]), argv)) from e


def _wrong_value(message: str) -> str:
    """Returns absl's message about a value, in words of its own where they are Python's."""
    for kind, words in (("an int", "invalid literal for int"), ("a float", "could not convert")):
        if found := re.match(f"flag (--[^=]+)=(.*): {words}", message):
            return f"{found[1]} is {kind}; got {found[2]!r}"
    return message


def _unknown_flag(name: str, values: flags.FlagValues) -> str:
    """Returns one line about a flag that does not exist, perhaps with the key of the config."""
    from squeeze_jax.configs.base import defaults

    keys = defaults().to_dict()
    found = [f"--config.{name}"] if name in keys else []
    found += [
        f"--config.{section}.{name}"
        for section, part in keys.items()
        if isinstance(part, dict) and name in part
    ]
    if not found and (flag := nearest(name, [each for each in values if each != "config"])):
        found = [f"--{flag.replace('_', '-')}"]
    hint = f"; did you mean {found[0]}?" if found else ""
    return f"launch has no flag --{name.replace('_', '-')}{hint}"


def _missing_key(message: str, argv: list[str]) -> str:
    """Returns one line of ml_collections' message about an override of no key of the config."""
    name, close = missing_key(message)
    keys = [argument.partition("config.")[2].partition("=")[0] for argument in argv]
    key = next((key for key in keys if name in key.split(".")), name)
    near = key.replace(name, close) if close else ""
    return f"the config has no key {key}" + (f"; did you mean {near}?" if near else "")


def _list_studies() -> int:
    studies = list_studies()
    width = max(map(len, studies))
    for name, study in studies.items():
        print(f"{name:{width}}  {study.question}")
        if study.effort:
            print(f"{'':{width}}  {study.effort}")
    print("\nTrain one: squeeze-jax launch NAME[:PRESET], see squeeze-jax launch --help")
    return 0


def _run(values: flags.FlagValues, config: Any, argv: list[str]) -> int:
    # JAX is imported here, so that a mistyped flag answers at once.
    import jax

    executor = _executor(values)
    if values.compilation_cache:
        jax.config.update("jax_compilation_cache_dir", values.compilation_cache)
        # A small trial is made of small programs.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    train = functools.partial(_train, executor, values, config, argv)
    if not values.distributed:
        return train()
    # Only here: it takes the machinery of sockets along.
    from squeeze_jax.cli.exit_code import describe_error
    from squeeze_jax.study import hosts

    place = hosts.find_place(values.coordinator, values.processes, values.process_id)
    patience = hosts.Patience(values.join_timeout, values.heartbeat_timeout)
    describe = functools.partial(describe_error, resumes=True)
    with hosts.joined(place, patience, _describe_run(values, config), describe) as group:
        return train(confirm=group.confirm, agree_to_stop=group.agree_to_stop)


def _describe_run(values: flags.FlagValues, config: Any) -> dict[str, str]:
    """Returns, by name, what must be the same in all processes of a run."""
    import jax

    from squeeze_jax import __version__
    from squeeze_jax.study.schema import flatten

    path = _config_path(values)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    return {
        **{f"--config.{key}": repr(value) for key, value in flatten(config.to_dict()).items()},
        "--workdir": str(values.workdir),
        "the config file": f"{path.name} ({digest})",
        "squeeze_jax": __version__,
        "jax": jax.__version__,
    }


def _train(
    executor: str, values: flags.FlagValues, config: Any, argv: list[str], **options: Any
) -> int:
    """Trains the study and draws its report; returns the exit code."""
    import jax

    from squeeze_jax import study
    from squeeze_jax.configs import base
    from squeeze_jax.report import page, terminal_table
    from squeeze_jax.study.api import launch_command
    from squeeze_jax.study.executors.jobs import job_index, stop_with_parent
    from squeeze_jax.study.executors.ray import parse_resources
    from squeeze_jax.study.records import COLLAPSED

    is_job = job_index()[1] > 1
    if is_job:
        stop_with_parent()
    if executor != "local" and not is_job and not values.dry_run:
        # The accelerators are for the processes that train: opening one here would hold it.
        jax.config.update("jax_platforms", "cpu")
    path = _config_path(values)
    plan = study.Plan.of(
        load_config_file(path),
        config,
        config_flags.get_override_values(values["config"]),
        as_path(values.workdir) if values.workdir else None,
        command=shlex.join(["squeeze-jax", "launch", *argv]),
        arguments=launch_command(*argv),
        defaults=base.defaults(),
        jobs=values.jobs,
        config_file=path,
        address=values.address,
        trial_resources=parse_resources(values.trial_resources)
        if values["trial_resources"].present
        else None,
        new_data=values.new_data,
        **options,
    )
    if values.dry_run:
        print(_dry_run(plan))
        return 0
    # Further trials are for the process that started the jobs to look for.
    code = study.EXECUTORS["local"](plan) if is_job else study.run_to_end(executor, plan)
    if code > 1:
        return code
    workdir = study.Workdir(plan.workdir)
    counts = workdir.counts()
    if not is_job and jax.process_index() == 0:
        workdir.write_table()
        page.draw(plan.workdir)
        print(terminal_table.points_text(workdir, shutil.get_terminal_size().columns))
        left_out = sum(counts.get(status, 0) for status in (*COLLAPSED, "failed"))
        print(
            f"{plan.workdir}/: "
            + ", ".join(f"{count} {status}" for status, count in counts.items())
            + (f"; means leave out {left_out} of {sum(counts.values())} trials" if left_out else "")
            + "; see sweep.csv, sweep.png, report.html"
        )
    return 1 if counts.get("failed") else code


def _dry_run(plan: "Plan") -> str:
    """Returns a table of design points, and how long the study would take."""
    from squeeze_jax.report.layer_table import text_table
    from squeeze_jax.study.dry_run import estimate
    from squeeze_jax.study.environment import environment

    found = estimate(plan)
    rows = [["trial", "parameters", "MACs", "steps", "minutes"]]
    for each in found.estimates:
        costs = [f"{each.costs[name]:,}" if each.costs else "–" for name in ("params", "macs")]
        minutes = f"{each.seconds / 60:.1f}" if each.seconds is not None else each.problem
        minutes = "has ended" if each.seconds == 0 else minutes
        rows.append([each.trial.name, *costs, f"{each.steps:,}", minutes])
    count = f"{len(found.estimates)} trials"
    count += f", {100 * found.share:.0f} % of their steps" if found.share < 1 else ""
    rows.append([count, "", "", f"{found.steps:,}", f"{found.seconds / 60:.1f}"])
    device = environment("")["device"]
    lines = [
        text_table(rows, numeric=(1, 2, 3, 4)),
        f"about {_duration(found.seconds)} on {device}, one trial after another",
    ]
    total = found.seconds
    if plan.renew is not None:
        config: Any = plan.config
        designs, drawn = config.search.designs, len(plan.trials) // config.seeds
        total *= designs / drawn
        lines.append(
            f"these are {drawn} of {designs} designs, as search.sampler draws the others by their "
            f"results: about {_duration(total)} in all"
        )
    if total > LUNCH:
        lines.append(
            "longer than a lunch break: fewer --config.seeds or --config.train.epochs help"
        )
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{minutes:.1f} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"


def _config_path(values: flags.FlagValues) -> Path:
    return Path(config_flags.get_config_filename(values["config"]).partition(":")[0])


def _executor(values: flags.FlagValues) -> str:
    """Returns the executor that the flags name; raises UserError for flags of another one."""
    from squeeze_jax.study import executors

    options = {name: values[name].value for name in ("jobs", "address", "trial_resources")}
    executor = executors.choose(values.executor, options, prefix="--")
    if executor != "local" and values.distributed:
        raise UserError(f"--executor {executor} starts processes itself: not with --distributed")
    return executor


def _renamed(argument: str) -> str:
    """Returns a --config.KEY flag under today's name of the key; prints a line if it is another."""
    flag, equals, value = argument.partition("=")
    dashes, config, key = flag.partition("config.")
    if dashes not in ("-", "--") or current_key(key) == key:
        return argument
    print(f"--config.{key} is called --config.{current_key(key)} now", file=sys.stderr)
    return f"{dashes}{config}{current_key(key)}{equals}{value}"
