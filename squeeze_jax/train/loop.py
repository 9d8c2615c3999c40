"""Training one net from a config, resumably: read top to bottom."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from flax import nnx
from ml_collections import ConfigDict

from squeeze_jax.compress.cluster import cluster_weights
from squeeze_jax.compress.prune import kept_fractions, prune
from squeeze_jax.compress.qat import check_on_grid
from squeeze_jax.data import Data, Pipeline
from squeeze_jax.errors import UserError
from squeeze_jax.models import conv_backend
from squeeze_jax.network import build_model, split_model, weight_shapes
from squeeze_jax.train import finetune, metrics, optimizers, parallel, step
from squeeze_jax.train.checkpoint import METRICS_FILE, Checkpoints
from squeeze_jax.train.evaluation import percentages, total
from squeeze_jax.train.interrupt import Interrupted
from squeeze_jax.train.metrics_log import Log, Stopwatch
from squeeze_jax.train.state import TrainState, create


class CompiledTrial(NamedTuple):
    """What is compiled once and serves every trial that differs in its seed and its starting weights alone."""

    devices: parallel.Devices
    total_steps: int
    learning_rate: optimizers.Schedule
    train_step: Callable
    eval_step: Callable
    evaluation: Pipeline
    train_resident: Any  # data held on the devices
    eval_resident: Any
    initial_state: Callable[
        [ConfigDict], TrainState
    ]  # config (model, seed, train) -> state in host memory
    initial_shapes: TrainState  # the same, as shapes and types on all devices


def compile_trial(config: ConfigDict, data: Data, devices: parallel.Devices) -> CompiledTrial:
    """Prepares the compiled steps for a config (model, data, train), whatever its seed and its `train.init_from`.

    Raises:
      UserError: see `check_config`.
    """
    check_config(config, data, devices)
    train = training_pipeline(config, data)
    steps = total_steps(config, data)
    eval_batch = len(devices) * -(-config.train.eval_batch_size // len(devices))
    evaluation = data.evaluation(eval_batch, jax.process_index(), jax.process_count())

    def initial_state(config: ConfigDict) -> TrainState:
        _, params, stats = split_model(build_model(config.model, data.num_classes, config.seed))
        params, stats = finetune.starting_weights(config, data)(params, stats)
        params = prune(params, config.train.prune_density)
        params = (
            cluster_weights(params, config.train.codebook_bits)
            if config.train.codebook_bits
            else params
        )
        if config.train.qat:
            check_on_grid(params)
        return create(params, stats, optimizer, config.seed)

    abstract = nnx.eval_shape(lambda: build_model(config.model, data.num_classes, 0))
    finetune.freeze_statistics(abstract, config.train.freeze)
    graphdef, params, stats = split_model(abstract)
    labels = finetune.frozen_labels(params, config.train.freeze) if config.train.freeze else None
    learning_rate = optimizers.schedule(config.train, steps)
    optimizer = optimizers.optimizer(config.train, learning_rate, labels)
    lowering = conv_backend.default_conv_backend(devices[0].platform)
    evaluations = 1 + steps // config.train.eval_every if config.train.eval_every else 1
    eval_lowering = conv_backend.default_conv_backend(
        devices[0].platform, evaluations * data.num_eval * config.data.image_size**2
    )
    return CompiledTrial(
        devices=devices,
        total_steps=steps,
        learning_rate=learning_rate,
        train_step=parallel.parallel_train_step(
            step.make_train_step(graphdef, train, optimizer, config.train, lowering), devices
        ),
        eval_step=parallel.parallel_eval_step(
            step.make_eval_step(graphdef, evaluation, config.train.dtype, eval_lowering), devices
        ),
        evaluation=evaluation,
        train_resident=parallel.replicate(train.resident, devices),
        eval_resident=parallel.replicate(evaluation.resident, devices),
        initial_state=initial_state,
        initial_shapes=jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=parallel.replicated(devices)),
            jax.eval_shape(
                lambda params, stats: create(params, stats, optimizer, 0), params, stats
            ),
        ),
    )


def check_config(config: ConfigDict, data: Data, devices: parallel.Devices) -> None:
    """Raises UserError for what can be known to be wrong before anything is compiled."""
    settings = config.train
    if settings.grad_accum_steps < 0:
        raise UserError(
            f"train.grad_accum_steps is at least 1, or 0 for as many parts as are fastest; got {settings.grad_accum_steps}"
        )
    if settings.batch_size % (len(devices) * max(1, settings.grad_accum_steps)):
        raise UserError(
            f"train.batch_size {settings.batch_size} can't be divided over {len(devices)} device(s)"
            + (
                f" x train.grad_accum_steps {settings.grad_accum_steps}"
                if settings.grad_accum_steps
                else ""
            )
        )
    if settings.dtype not in ("float32", "bfloat16"):
        raise UserError(f"train.dtype is float32 or bfloat16; got {settings.dtype!r}")
    if settings.log_every < 1:
        raise UserError(f"train.log_every is at least 1, got {settings.log_every}")
    training_pipeline(config, data)
    if total_steps(config, data) < 1:
        raise UserError("train.epochs and train.steps make no step at all")
    optimizers.schedule(settings, total_steps(config, data))
    finetune.starting_weights(config, data)
    if not 0 <= settings.codebook_bits <= 8:
        raise UserError(
            f"train.codebook_bits is 1 to 8, or 0 for no sharing; got {settings.codebook_bits}"
        )
    if settings.qat and settings.codebook_bits:
        raise UserError(
            "train.qat and train.codebook_bits are two ways to keep weights to few values; set one"
        )
    if settings.prune_density or settings.freeze:
        params, _ = weight_shapes({"model": config.model, "num_classes": data.num_classes})
        kept_fractions(params, settings.prune_density)
        if settings.freeze:
            finetune.frozen_labels(params, settings.freeze)


def total_steps(config: ConfigDict, data: Data) -> int:
    """Optimiser steps of a trial."""
    return config.train.steps or round(
        config.train.epochs * training_pipeline(config, data).steps_per_epoch
    )


def training_pipeline(config: ConfigDict, data: Data) -> Pipeline:
    """This process's batches in the order of `config.seed`."""
    return data.train(
        config.train.batch_size, config.seed, jax.process_index(), jax.process_count()
    )


def evaluate(program: CompiledTrial, state: TrainState) -> dict[str, Any]:
    """Sums over the whole evaluation set; see `metrics.evaluation_sums`."""
    batches = (parallel.divide(batch, program.devices) for batch in program.evaluation.batches())
    return total(
        program.eval_step(state.params, state.stats, program.eval_resident, batch)
        for batch in batches
    )


def train(
    program: CompiledTrial,
    config: ConfigDict,
    data: Data,
    directory: Path,
    *,
    asked_to_stop: Callable[[int], int | None] = lambda step: None,
    on_step: Callable[[int, float | None], None] = lambda step, loss: None,
) -> dict[str, Any]:
    """Trains to the end, or from the newest checkpoint in `directory` to the end.

    Args:
      program: from `compile_trial` of a config that differs from `config` in its seed and `train.init_from` at most.
      config: seed, model, train.
      data: what `program` was built with.
      directory: receives checkpoints/ and metrics.jsonl (one line each `train.log_every` steps and each evaluation).
      asked_to_stop: the signal that asks to stop before a step, or None.
      on_step: called with the number of steps taken and, where it was read, the mean loss.

    Returns:
      status ("ok", "diverged": the loss went non-finite, "chance": top-1 never left chance), top1, top5 (%), loss (nats),
      steps, seconds (over all resumptions), images_per_second (training alone, without compilation).

    Raises:
      Interrupted: asked to stop; the state is saved.
      OSError: a full disk.
    """
    pipeline, settings = training_pipeline(config, data), config.train
    with Checkpoints(directory / "checkpoints") as checkpoints:
        if checkpoints.latest_step is None:
            state = parallel.replicate(program.initial_state(config), program.devices)
        else:
            state = parallel.as_local(checkpoints.restore(program.initial_shapes), program.devices)
        start = int(state.step)
        log = Log(directory / METRICS_FILE, start)
        clock = Stopwatch(settings.batch_size)
        on_step(start, None)
        sums, diverged = None, False
        batches = pipeline.batches(start)
        for done in range(start + 1, program.total_steps + 1):
            if (signum := asked_to_stop(done)) is not None:
                checkpoints.save(parallel.as_global(state, program.devices))
                raise Interrupted(signum)
            state = program.train_step(
                state, program.train_resident, parallel.divide(next(batches), program.devices)
            )
            loss, last = None, done == program.total_steps
            if done == start + 1:
                jax.block_until_ready(state.step)  # compiled by now: the stopwatch starts here
                clock.start(done)
            if done % settings.log_every == 0 or last:
                running = jax.device_get(state.running)
                count = (done - 1) % settings.log_every + 1
                loss, diverged = float(running["loss"]) / count, not math.isfinite(running["loss"])
                rate = clock.lap(done)
                log.write(
                    step=done,
                    epoch=done / pipeline.steps_per_epoch,
                    loss=loss,
                    train_top1=100 * float(running["top1"]) / count,
                    learning_rate=float(program.learning_rate(done - 1)),
                    images_per_second=rate,
                )
            on_step(done, loss)
            if diverged:
                break
            if last or (settings.eval_every and done % settings.eval_every == 0):
                sums = evaluate(program, state)
                log.write(step=done, epoch=done / pipeline.steps_per_epoch, **percentages(sums))
                clock.start(done)
            if last or (settings.checkpoint_every and done % settings.checkpoint_every == 0):
                checkpoints.save(parallel.as_global(state, program.devices))
                clock.start(done)
        if sums is None and not diverged:  # killed between the last checkpoint and the result
            sums = evaluate(program, state)
        status = "diverged" if diverged else "ok" if metrics.left_chance(sums) else "chance"
        final = dict(eval_loss=None, top1=None, top5=None) if diverged else percentages(sums)
    return dict(
        status=status,
        top1=final["top1"],
        top5=final["top5"],
        loss=final["eval_loss"],
        steps=int(state.step),
        seconds=log.seconds(),
        images_per_second=clock.rate(),
    )
