"""Training one net from a config, resumably: read top to bottom."""

import contextlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from squeeze_jax.data import Data
from squeeze_jax.files import write_atomically
from squeeze_jax.train import metrics, optimizers, parallel
from squeeze_jax.train.callbacks import Callback, Evaluation, Log, Run, SaveCheckpoint
from squeeze_jax.train.checkpoint import CLASSES_FILE, Checkpoints
from squeeze_jax.train.compiled import CompiledTrial, training_pipeline
from squeeze_jax.train.config import TrialConfig
from squeeze_jax.train.evaluation import by_class, percentages
from squeeze_jax.train.interrupt import Interrupted
from squeeze_jax.train.profile import profiled
from squeeze_jax.train.trackers import Trackers


def train(
    compiled: CompiledTrial,
    config: TrialConfig,
    data: Data,
    directory: Path,
    *,
    callbacks: Sequence[Callback] = (),
    asked_to_stop: Callable[[int], int | None] = lambda step: None,
    stop_after: int | None = None,
) -> dict[str, Any]:
    """Trains to the end, or from the newest checkpoint in `directory` to the end.

    Args:
      compiled: from `compile_trial` of a config with the same `compiled_part` and an equal teacher.
      config: the trial's.
      data: what `compiled` was built with.
      directory: receives checkpoints/ and metrics.jsonl, which has one line each `train.log_every`
        steps and each evaluation; and classes.json, see `evaluation.by_class`, at the end.
      callbacks: called after the loss was read, and before an evaluation and a save.
      asked_to_stop: returns the signal that asks to stop before a step, or None.
      stop_after: the step to stop early at, evaluated and saved; the schedule of the learning rate
        is that of the whole run.

    Returns:
      status ("ok", "diverged": the loss went non-finite, in training or evaluation,
      "chance": top-1 never left chance, "stopped": early), top1, top5 (%), loss (nats), steps,
      seconds (over all resumptions), images_per_second (training alone, without compilation); and
      test_top1, test_top5 where the data have a test set.

    Raises:
      Interrupted: asked to stop; the state is saved.
      WriteError: the disk is full, or cannot be written.
    """
    with contextlib.closing(Trackers(directory, config)) as trackers:
        result = _train(
            compiled, config, data, directory, trackers, callbacks, asked_to_stop, stop_after
        )
        trackers.finish(result)
    return result


def _train(
    compiled: CompiledTrial,
    config: TrialConfig,
    data: Data,
    directory: Path,
    trackers: Trackers,
    callbacks: Sequence[Callback],
    asked_to_stop: Callable[[int], int | None],
    stop_after: int | None,
) -> dict[str, Any]:
    devices, pipeline = compiled.devices, training_pipeline(config, data)
    learning_rates = optimizers.learning_rates(config.train, compiled.total_steps)
    teacher = compiled.teacher_weights(config)
    with (
        Checkpoints(directory / "checkpoints") as checkpoints,
        profiled(config.train, directory) as profile,
    ):
        if checkpoints.latest_step is None:
            state = parallel.replicate(compiled.initial_state(config), devices)
        else:
            state = parallel.as_local(checkpoints.restore(compiled.initial_shapes), devices)
        run = Run(compiled, config.train, state, trackers, pipeline.steps_per_epoch, stop_after)
        save = SaveCheckpoint(checkpoints)
        every = [Log(), *callbacks, Evaluation(), save, profile]
        for callback in every:
            callback.on_start(run)

        batches = pipeline.batches(run.start)
        while not run.is_last and not run.diverged:
            if (signum := asked_to_stop(run.step + 1)) is not None:
                save.save(run)
                raise Interrupted(signum)
            batch = parallel.divide(next(batches), devices)
            rate = learning_rates[run.step]
            with jax.profiler.StepTraceAnnotation("train", step_num=run.step + 1):
                run.state = compiled.train_step(
                    run.state, compiled.train_device_data, batch, rate, teacher
                )
            run.step, run.learning_rate = run.step + 1, float(rate)
            for callback in every:
                callback.on_step(run)

        for callback in every:
            callback.on_end(run)
    if run.sums is not None and not run.is_early and jax.process_index() == 0:
        classes = by_class(run.sums, data.class_names)
        write_atomically(directory / CLASSES_FILE, json.dumps(classes))
    return _result(run)


def _result(run: Run) -> dict[str, Any]:
    """Returns what becomes of a run that has ended; see `train`."""
    if run.sums is None or run.diverged:
        status, final = "diverged", dict(eval_loss=None, top1=None, top5=None)
    else:
        ended = "ok" if metrics.left_chance(run.sums) else "chance"
        status = "stopped" if run.is_early else ended
        final = percentages(run.sums)
    return dict(
        status=status,
        top1=final["top1"],
        top5=final["top5"],
        loss=final["eval_loss"],
        steps=int(run.state.step),
        seconds=run.seconds(),
        images_per_second=run.stopwatch.rate(),
        **_test_result(run),
    )


def _test_result(run: Run) -> dict[str, float]:
    sums = None if run.is_early else run.compiled.evaluate_test(*run.state.network_weights)
    if sums is None:
        return {}
    return {f"test_{name}": value for name, value in percentages(sums).items() if "top" in name}
