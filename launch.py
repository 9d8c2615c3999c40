"""Trains a study: `python launch.py --config configs/sr_sweep.py[:preset] [--config.train.epochs=5] [--workdir DIR]`.

Running the same command again continues where the last one stopped. See README.md for the presets and for Cloud TPU.
"""

import shlex
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from squeeze_jax import cli
from squeeze_jax.errors import UserError
from squeeze_jax.schema import current_key

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The study: configs/NAME.py or configs/NAME.py:PRESET."
)
WORKDIR = flags.DEFINE_string("workdir", None, "Where results go; runs/STUDY-PRESET by default.")
DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "One of several processes (a TPU pod slice, several GPU hosts)."
)
COORDINATOR = flags.DEFINE_string(
    "coordinator",
    None,
    "host:port of the first process; found by itself on Cloud TPU, Slurm and GKE.",
)
PROCESSES = flags.DEFINE_integer("processes", None, "How many processes there are; likewise.")
PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "Which of them this one is, from 0; likewise."
)
JOBS = flags.DEFINE_integer(
    "jobs",
    1,
    "How many trials to train at once, each on its share of the CPU cores, or of the GPUs.",
    lower_bound=1,
)
CACHE = flags.DEFINE_string(
    "compilation_cache",
    str(Path.home() / ".cache/squeeze_jax"),
    "Where compiled programs are kept; '' for nowhere.",
)


def main() -> int:
    """Runs the study named by the flags; returns the exit code."""
    # JAX is imported here, so that --help and a mistyped flag answer at once.
    import jax

    from squeeze_jax import study, train
    from squeeze_jax.configs import base
    from squeeze_jax.report import page
    from squeeze_jax.study.executors import jobs

    logging.set_verbosity(
        logging.FATAL
    )  # Orbax tells of every file it writes, and logs the traceback of what it raises anyhow
    if CACHE.value:
        jax.config.update("jax_compilation_cache_dir", CACHE.value)
        jax.config.update(
            "jax_persistent_cache_min_compile_time_secs", 0.0
        )  # a small trial is made of small programs
    if DISTRIBUTED.value:
        jax.distributed.initialize(COORDINATOR.value, PROCESSES.value, PROCESS_ID.value)
    config = train.fill_from_checkpoint(CONFIG.value)
    workdir = Path(WORKDIR.value or f"runs/{config.study}-{config.preset}")
    module, overrides = _study_module(), config_flags.get_override_values(flags.FLAGS["config"])
    trials = study.make_trials(config, module.sweep, overrides, getattr(module, "derive", None))
    code, one_of = 0, jobs.job_index()[1]
    if JOBS.value > one_of:
        if DISTRIBUTED.value:
            raise UserError("--jobs shares one machine's devices: not with --distributed")
        if (code := jobs.run(JOBS.value, [sys.executable, *sys.argv])) > 1:
            return code
        counts = study.counts(workdir)
    else:
        counts = study.run(
            config, trials, workdir, shlex.join(["python", *sys.argv]), base.defaults()
        )
    if one_of == 1 and jax.process_index() == 0:
        study.write_table(workdir)
        page.draw(workdir)
        print(
            f"{workdir}/: "
            + ", ".join(f"{count} {status}" for status, count in counts.items())
            + "; see sweep.csv, sweep.png, report.html"
        )
    return 1 if counts.get("failed") else code


def _study_module():
    """The config file as a module; its sweep() yields the trials, its derive(), if any, completes each one's config."""
    spec = spec_from_file_location(
        "study", config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")[0]
    )
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "sweep"):
        raise UserError(f"{spec.origin} has no sweep(config): see configs/squeezenet.py")
    return module


def _renamed(argument: str) -> str:
    """A --config.KEY flag under today's name of the key; says so where that is another."""
    flag, equals, value = argument.partition("=")
    dashes, config, key = flag.partition("config.")
    if dashes not in ("-", "--") or current_key(key) == key:
        return argument
    print(f"--config.{key} is called --config.{current_key(key)} now", file=sys.stderr)
    return f"{dashes}{config}{current_key(key)}{equals}{value}"


def _parse_flags(argv: list[str]) -> list[str]:
    """Reads the flags, and the config file they name; whatever is wrong with them is one line."""
    sys.argv[:] = argv = [
        _renamed(argument) for argument in argv
    ]  # config_flags reads the overrides from there
    try:
        rest = flags.FLAGS(argv)
        _ = CONFIG.value.study  # a lazy proxy: this loads the file, if no override has done so yet
        return rest
    except (flags.Error, UserError) as e:
        message = str(e)
    except (AttributeError, KeyError) as e:
        if not any(argument.startswith(("--config.", "-config.")) for argument in argv):
            raise  # not an override's key but a fault inside the config file
        message = "the config has no key " + "; ".join(str(e.args[0]).splitlines())
    except OSError:
        message = f"no such config file; there are {', '.join(str(path) for path in sorted(Path('configs').glob('*.py')))}"
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(lambda _: sys.exit(cli.exit_code(main)), flags_parser=_parse_flags)
