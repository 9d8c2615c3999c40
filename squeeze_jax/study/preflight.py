"""Gets a study ready to run: opens its data, checks every trial, and writes study.json.

All of it from shapes alone: nothing is trained here.
"""

import dataclasses
import functools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from squeeze_jax.config_parsing import parse_section, plain_section
from squeeze_jax.cost import design_costs
from squeeze_jax.data import Data, open_data
from squeeze_jax.errors import UserError, suggest
from squeeze_jax.network import Network, Preprocessing
from squeeze_jax.study import budget, data_versions, sqz_files
from squeeze_jax.study.columns import all_columns, direction
from squeeze_jax.study.hypothesis import Hypothesis
from squeeze_jax.study.plan import Plan
from squeeze_jax.study.processes import agreed, first_process
from squeeze_jax.study.records import FINISHED, STOPPED
from squeeze_jax.study.scheduler import MEASURED_AT_RUNGS, Schedule, StoppingConfig
from squeeze_jax.study.time_left import Expected
from squeeze_jax.study.trials import TEACHER, TRIAL_PREFIX, Trial, last_part, set_key
from squeeze_jax.study.workdir import Workdir
from squeeze_jax.train import (
    TrialConfig,
    as_teacher,
    check_config,
    check_views,
    checkpoint_bytes,
    describe_start,
    fitting_batch_size,
    has_batch_norm,
    open_once,
    open_teacher,
    share_asked,
    total_steps,
)
from squeeze_jax.train.trackers import check_folder

BATCH_SIZE = "train.batch_size"
TRAINING_PASSES = 3  # forward, and two products of the same size backward; a teacher makes one


@dataclass(frozen=True)
class ReadyStudy:
    """What is left of a study to run.

    Attributes:
      workdir: knows already which trials have finished.
      waiting: the trials that have not finished, in the order in which they are to run.
      data_of: trial name -> its data.
      problems: trial name -> what keeps it from being trained.
      steps: trial name -> how many steps it takes, as if it began anew.
      schedule: which trials are due, where some are stopped early.
      planned_steps: of all that is left.
      expected: trial name -> what is known of its time, where none is stopped early.
    """

    workdir: Workdir
    waiting: Sequence[Trial]
    data_of: Mapping[str, Data]
    problems: Mapping[str, str]
    steps: Mapping[str, int]
    schedule: Schedule | None
    planned_steps: int
    expected: Mapping[str, Expected]


@dataclass(frozen=True)
class CheckedStudy:
    """The trials of a study that are within its budget.

    Attributes:
      workdir: of the study.
      trials: in their order.
      data_of: trial name -> its data.
      versions: of the data, see `data_versions`.
      costs: trial name -> what its design point costs.
      problems: trial name -> what keeps it from being trained.
      total_steps: trial name -> how many steps it takes, of those that can be trained.
      schedule: which trials are due, where some are stopped early.
    """

    workdir: Workdir
    trials: Sequence[Trial]
    data_of: Mapping[str, Data]
    versions: Sequence[Mapping[str, Any]]
    costs: dict[str, Any]
    problems: Mapping[str, str]
    total_steps: Mapping[str, int]
    schedule: Schedule | None

    @property
    def trainable(self) -> list[Trial]:
        """Returns the trials without a problem."""
        return [trial for trial in self.trials if trial.name in self.total_steps]


def check(plan: Plan) -> CheckedStudy:
    """Opens a study's data and checks its trials; writes nothing.

    Raises:
      UserError: bad data, a config that no trial can run with, no room for its checkpoints.
    """
    open_once.cache_clear()  # what lies at a path may be another network by now
    _macs_at.cache_clear()
    workdir = Workdir(plan.workdir)
    stopping = parse_section(StoppingConfig, plan.config.to_dict().get("stopping", {}), "stopping")
    claim = Hypothesis.parse(plan.config.to_dict()["report"].get("claim", {}))
    _check_metric(plan.metric, claim is not None, bool(stopping.scheduler))
    configs = dict.fromkeys(trial.parsed.data for trial in plan.trials)
    datasets = {config: open_data(workdir.locate(config)) for config in configs}
    planned, versions = data_versions.assign(
        plan.trials,
        {trial.name: datasets[trial.parsed.data] for trial in plan.trials},
        workdir.known_data(),
        plan.new_data,
    )
    for recipe in dict.fromkeys(trial.parsed.train for trial in planned):
        check_folder(recipe, workdir.path)
    data_of = {trial.name: datasets[trial.parsed.data] for trial in planned}
    planned = _fit_batches(planned, data_of)
    costs, problems = _preflight(planned, data_of, dict(plan.known_costs))
    trials = _within_budget(planned, costs, plan.config.to_dict()["budget"])
    trainable = [trial for trial in trials if trial.name not in problems]
    total = {trial.name: total_steps(trial.parsed, data_of[trial.name]) for trial in trainable}
    schedule = Schedule.of(stopping, trainable, total, plan.metric)
    study = CheckedStudy(workdir, trials, data_of, versions, costs, problems, total, schedule)
    _check_free_space(workdir, study.trainable, data_of, plan.jobs)
    return study


def prepare(plan: Plan, tells: bool = True) -> ReadyStudy:
    """Checks a study and writes study.json; returns what is left to run.

    Args:
      plan: the study.
      tells: whether to print how many trials are left, and what there is to say of the checkpoints
        that they start from.

    Raises:
      UserError: see `check`; a workdir of another config.
      WriteError: the workdir cannot be written.
    """
    study = check(plan)
    workdir, trials, data_of = study.workdir, study.trials, study.data_of
    total, schedule = study.total_steps, study.schedule
    if first_process():
        workdir.open_study(
            plan.config,
            trials,
            study.costs,
            plan.command,
            plan.defaults,
            study.versions,
            plan.question,
        )
        workdir.write_table()
    results = workdir.read_results(trial.name for trial in trials)
    done = agreed([is_done(trial, results[trial.name]) for trial in trials])
    waiting = [trial for trial, ended in zip(trials, done, strict=True) if not ended]
    if first_process() and tells:
        left = f"{len(waiting)} of {len(trials)} trials to train in {plan.workdir}"
        print(left, file=sys.stderr, flush=True)
        _tell_starts(study.trainable, data_of)
    steps = {
        trial.name: 0
        if trial.name in study.problems or has_finished(results[trial.name])
        else total[trial.name]
        for trial in waiting
    }
    planned = sum(steps.values())
    if schedule is not None:
        taken = sum(result.get("steps", 0) for result in results.values() if result is not None)
        planned = max(schedule.planned_steps(total) - taken, 0)
    programs: dict[str, int] = {}
    expected = {
        trial.name: Expected(
            steps[trial.name],
            step_macs(study, trial),
            programs.setdefault(program_of(trial), len(programs)),
        )
        for trial in waiting
        if steps[trial.name] and schedule is None
    }
    return ReadyStudy(workdir, waiting, data_of, study.problems, steps, schedule, planned, expected)


def step_macs(study: CheckedStudy, trial: Trial) -> float:
    """Returns the MACs of a trial's batch forward, and a TRAINING_PASSES-th of its teacher's."""
    macs, recipe = study.costs[trial.name].get("macs", 0), trial.parsed.train
    if recipe.teacher:
        steps_per_epoch = study.data_of[trial.name].num_train // recipe.batch_size
        asked = share_asked(recipe, steps_per_epoch, study.total_steps[trial.name])
        macs += asked * _teacher_macs(study, trial) / TRAINING_PASSES
    return macs * recipe.batch_size


def _teacher_macs(study: CheckedStudy, trial: Trial) -> float:
    if parent := trial.parents.get(TEACHER):
        return study.costs[parent].get("macs", 0)
    return _macs_at(trial.parsed.train.teacher)


@functools.cache  # all trials of a study may have one teacher
def _macs_at(path: str) -> float:
    network = open_once(path)
    return design_costs(network.model, len(network.class_names), network.input_shape)["macs"]


def _fit_batches(trials: Sequence[Trial], data_of: Mapping[str, Data]) -> list[Trial]:
    """Returns the trials with the batch lowered to a smaller training set; prints where it is.

    A batch size that is swept stays: the trial is named after it.
    """
    fitted, printed = [], set()
    for trial in trials:
        recipe, num_train = trial.parsed.train, data_of[trial.name].num_train
        size = fitting_batch_size(
            recipe, num_train, jax.device_count(), has_batch_norm(trial.parsed)
        )
        if size != recipe.batch_size and BATCH_SIZE not in trial.overrides:
            config = trial.config.copy_and_resolve_references()
            set_key(config, BATCH_SIZE, size)
            trial = dataclasses.replace(trial, config=config)
            line = (
                f"{BATCH_SIZE} {recipe.batch_size} is larger than the {num_train} training "
                f"images; lowered to {size}"
            )
            if line not in printed and first_process():
                print(line, file=sys.stderr)
            printed.add(line)
        fitted.append(trial)
    return fitted


def _preflight(
    trials: Sequence[Trial], data_of: Mapping[str, Data], known: dict[Any, dict[str, float]]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns the costs, and what keeps a trial from running, by trial; from shapes alone.

    Args:
      trials: of the study.
      data_of: trial name -> its data.
      known: `budget.cost_key` -> costs that are known already; receives the others.

    Raises:
      UserError: no trial can run; then the fault lies in what they share.
    """
    costs, problems = {}, {}
    by_name = {trial.name: trial for trial in trials}
    for trial in trials:
        data = data_of[trial.name]
        key = budget.cost_key(trial)
        try:
            check_config(without_parents(trial), data, jax.devices())
            if teacher := by_name.get(trial.parents.get(TEACHER, "")):
                as_teacher(_untrained(teacher, data_of[teacher.name]), data, teacher.name)
                check_views(trial.parsed.train, data)
            if broken := [parent for parent in trial.parents.values() if parent in problems]:
                raise UserError(f"it needs {broken[0]}: {problems[broken[0]]}")
            sqz_files.check_settings(trial.compress)
            if key not in known:
                known[key] = budget.trial_costs(trial, data)
        except (UserError, ValueError) as e:
            problems[trial.name] = str(e)
        costs[trial.name] = known.get(key, {})
    if len(problems) == len(trials):
        raise UserError(next(iter(problems.values())))
    return costs, problems


def _within_budget(
    trials: Sequence[Trial], costs: dict[str, Any], limited: Mapping[str, int | None]
) -> list[Trial]:
    """Returns the trials whose costs are within the budget; prints which it leaves out.

    A trial that starts or learns from one that is left out is left out too, and so is one that
    lacks a cost because the C engine cannot run it; one that cannot be trained is kept.

    Raises:
      UserError: that leaves none.
    """
    limits = budget.limits(limited)
    kept: dict[str, Trial] = {}
    for trial in trials:  # a trial comes after its parents
        parents = set(trial.parents.values())
        if kept.keys() >= parents and budget.fits(costs[trial.name], limits):
            kept[trial.name] = trial
    if not kept:
        raise UserError(f"no design point is within the budget of {budget.describe(limits)}")
    if len(kept) < len(trials) and first_process():
        left_out = ", ".join(trial.name for trial in trials if trial.name not in kept)
        print(f"over the budget, left out: {left_out}", file=sys.stderr)
    return list(kept.values())


def _tell_starts(trials: Sequence[Trial], data_of: Mapping[str, Data]) -> None:
    """Prints, once each, what is to be said of the checkpoints that trials start or learn from."""
    notes = []
    for trial in trials:
        config, data = without_parents(trial), data_of[trial.name]
        teacher = open_teacher(config, data)
        notes += [describe_start(config, data), teacher.note if teacher else ""]
    for note in dict.fromkeys(filter(None, notes)):
        print(note, file=sys.stderr)


def _check_metric(metric: str, has_claim: bool, stops_early: bool) -> None:
    """Rejects a metric that the study does not measure, or cannot use.

    Args:
      metric: what the study's designs are compared by.
      has_claim: whether the study claims something of it.
      stops_early: whether trials are stopped by it.

    Raises:
      UserError: see above.
    """
    measured = [name for name, entry in all_columns().items() if entry.kind == "result"]
    if metric not in measured:
        raise UserError(f"no report.metric {metric!r}; {suggest(metric, measured)}")
    if stops_early and metric not in MEASURED_AT_RUNGS:
        raise UserError(
            f"report.metric {metric} is known at a trial's end alone; stopping.scheduler compares "
            f"by {', '.join(MEASURED_AT_RUNGS)}"
        )
    if has_claim and direction(metric) == "minimize":
        raise UserError(
            f"report.claim is about a metric of which more is better; report.metric is {metric}"
        )


def _check_free_space(
    workdir: Workdir, trials: Sequence[Trial], data_of: Mapping[str, Data], jobs: int
) -> None:
    """Rejects, with a UserError, a disk that cannot hold the checkpoints still to be written.

    Each trial keeps one, and has two while it saves.
    """
    if (free := workdir.free_bytes()) == math.inf:
        return
    results = workdir.read_results(trial.name for trial in trials)
    sizes = {}
    needed, largest = 0, 0
    for trial in trials:
        if has_finished(results[trial.name]):
            continue
        key = program_of(trial)
        if key not in sizes:
            sizes[key] = checkpoint_bytes(trial.parsed, data_of[trial.name])
        largest = max(largest, sizes[key])
        needed += 0 if workdir.has_checkpoint(trial.name) else sizes[key]
    needed += jobs * largest
    if not agreed([needed <= free])[0]:
        raise UserError(
            f"{workdir.path} needs {_describe_size(needed)} for checkpoints, and its disk has "
            f"{_describe_size(free)} left; free some space or give another --workdir"
        )


def _describe_size(count: float) -> str:
    """Returns bytes in words: "1.2 MB", or "340 kB" below that."""
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.0f} kB"


def with_parents(trial: Trial, locate: Callable[[str], str]) -> TrialConfig:
    """Returns the trial's config, with the path of each trial that it names."""
    paths = {last_part(key): locate(parent) for key, parent in trial.parents.items()}
    return dataclasses.replace(trial.parsed, train=dataclasses.replace(trial.parsed.train, **paths))


def without_parents(trial: Trial) -> TrialConfig:
    """Returns the trial's config without the trials that it names, which may not be there yet."""
    return with_parents(trial, lambda name: "")


def program_of(trial: Trial) -> str:
    """Returns what trials that share a compiled program have in common; see `compiled_part`."""
    teacher = TRIAL_PREFIX if TEACHER in trial.parents else trial.parsed.train.teacher
    return repr((trial.parsed.compiled_part(), teacher))


def _untrained(trial: Trial, data: Data) -> Network:
    """Returns what is known of a trial's network before it is trained: all but the weights."""
    preprocessing = Preprocessing.from_metadata(plain_section(trial.parsed.data))
    return Network(trial.parsed.model.to_mapping(), data.class_names, preprocessing, {}, {})


def has_finished(result: Mapping[str, Any] | None) -> bool:
    """Returns whether a trial with this result was trained to its end."""
    return result is not None and result["status"] in FINISHED


def is_done(trial: Trial, result: Mapping[str, Any] | None, stop_after: int | None = None) -> bool:
    """Returns whether a trial with this result has finished and its .sqz files are written.

    Args:
      trial: a trial.
      result: how it ended; None while it is pending.
      stop_after: the step that it need not go beyond; None: it is to finish.
    """
    if stop_after is not None and result is not None and result["status"] == STOPPED:
        return result["steps"] >= stop_after
    return has_finished(result) and not sqz_files.is_due(trial.compress, result)
