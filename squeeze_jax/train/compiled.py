"""A trial compiled: what is prepared once and serves every trial that differs in its seed alone."""

import functools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from squeeze_jax.data import Data, Pipeline
from squeeze_jax.errors import UserError
from squeeze_jax.models import batch_norm, conv_backend
from squeeze_jax.network import Tree, abstract_model, build_model, split_model, weight_shapes
from squeeze_jax.network.preprocessing import height_width
from squeeze_jax.train import constraints, finetune, optimizers, parallel, step, trackers
from squeeze_jax.train.batches import divide_batch, fitting_batch_size
from squeeze_jax.train.config import TrainConfig, TrialConfig
from squeeze_jax.train.evaluation import total
from squeeze_jax.train.state import TrainState, create
from squeeze_jax.train.teacher import open_teacher
from squeeze_jax.train.teacher_views import check_views

MAX_STEPS = 10**8  # of a trial, whose learning rates are computed at once


@dataclass(frozen=True, eq=False)
class CompiledTrial:
    """The compiled steps, for every trial of the same `TrialConfig.compiled_part`.

    Where the trials have a teacher, it must be an equal one, see `Teacher`.

    Attributes:
      devices: that the steps run on.
      total_steps: optimizer steps of a trial.
      train_step: (replicated state, replicated data, divided batch, learning rate, teacher's
        weights) -> state.
      eval_step: (params, stats, replicated data, divided batch) -> sums.
      evaluation: the batches to evaluate on.
      train_device_data: the training images on the devices, {} where they are streamed.
      eval_device_data: the evaluation images.
      test: the batches of the test set, None where there is none.
      test_device_data: the test images.
      teacher_weights: a trial's config -> its teacher's weights on the devices; () without one.
      initial_state: a trial's config -> its state before the first step.
      initial_shapes: the same, as shapes and types on all devices.
    """

    devices: parallel.Devices
    total_steps: int
    train_step: Callable[..., TrainState]
    eval_step: Callable[..., dict[str, jax.Array]]
    evaluation: Pipeline
    train_device_data: Any
    eval_device_data: Any
    test: Pipeline | None
    test_device_data: Any
    teacher_weights: Callable[[TrialConfig], Tree]
    initial_state: Callable[[TrialConfig], TrainState]
    initial_shapes: TrainState

    def evaluate(self, params: Tree, stats: Tree) -> dict[str, Any]:
        """Returns sums over the whole evaluation set; see `step.make_eval_step`.

        Args:
          params: on this process's devices, replicated.
          stats: likewise.
        """
        return self._sums(self.evaluation, self.eval_device_data, params, stats)

    def evaluate_test(self, params: Tree, stats: Tree) -> dict[str, Any] | None:
        """Returns sums over the test set, see `evaluate`; None where there is none."""
        return self.test and self._sums(self.test, self.test_device_data, params, stats)

    def _sums(
        self, pipeline: Pipeline, device_data: Any, params: Tree, stats: Tree
    ) -> dict[str, Any]:
        batches = (parallel.divide(batch, self.devices) for batch in pipeline.batches())
        return total(self.eval_step(params, stats, device_data, batch) for batch in batches)


def compile_trial(config: TrialConfig, data: Data, devices: parallel.Devices) -> CompiledTrial:
    """Prepares the compiled steps of a trial and of all others that share them.

    See `CompiledTrial`.

    Raises:
      UserError: see `check_config`.
    """
    check_config(config, data, devices)
    model, recipe = config.model.to_mapping(), config.train
    batches = training_pipeline(config, data)
    steps = total_steps(config, data)
    eval_batch = min(recipe.eval_batch_size, data.num_eval)
    eval_batch = len(devices) * -(-eval_batch // len(devices))
    share = (eval_batch, jax.process_index(), jax.process_count())
    evaluation = data.evaluation(*share)
    with_test = data.on_test()
    test = with_test and with_test.evaluation(*share)

    abstract = abstract_model(model, data.num_classes)
    finetune.freeze_statistics(abstract, recipe.freeze)
    division = divide_batch(recipe, len(devices), has_batch_norm(config))
    batch_norm.set_groups(abstract, division.group_images, division.group_devices, step.AXIS)
    graphdef, params, stats = split_model(abstract)
    optimizer = optimizers.make_optimizer(recipe, params)
    teacher = open_teacher(config, data)

    def teacher_weights(config: TrialConfig) -> Tree:
        own = open_teacher(config, data)
        return parallel.replicate(own.weights if own else (), devices)

    def initial_state(config: TrialConfig) -> TrainState:
        _, params, stats = split_model(build_model(model, data.num_classes, config.seed))
        params, stats = finetune.starting_weights(config, data)(params, stats)
        for constraint in constraints.active(recipe):
            params = constraint.prepare(recipe, params)
        return create(params, stats, optimizer, recipe, config.seed, data)

    train_backend = conv_backend.default_conv_backend(devices[0].platform)
    evaluations = count_evaluations(recipe, steps)
    positions = math.prod(height_width(data.config.image_size))
    eval_backend = conv_backend.default_conv_backend(
        devices[0].platform, evaluations * data.num_eval * positions
    )
    return CompiledTrial(
        devices=devices,
        total_steps=steps,
        train_step=parallel.parallel_train_step(
            step.make_train_step(
                graphdef,
                batches,
                optimizer,
                recipe,
                train_backend,
                division,
                teacher and functools.partial(teacher.logits, dtype=recipe.dtype),
            ),
            devices,
        ),
        eval_step=parallel.parallel_eval_step(
            step.make_eval_step(graphdef, evaluation, recipe.dtype, eval_backend), devices
        ),
        evaluation=evaluation,
        train_device_data=parallel.replicate(batches.device_data, devices),
        eval_device_data=parallel.replicate(evaluation.device_data, devices),
        test=test,
        test_device_data=parallel.replicate(test.device_data if test else {}, devices),
        teacher_weights=teacher_weights,
        initial_state=initial_state,
        initial_shapes=jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=parallel.replicated(devices)),
            jax.eval_shape(
                lambda params, stats: create(params, stats, optimizer, recipe, 0, data),
                params,
                stats,
            ),
        ),
    )


def check_config(config: TrialConfig, data: Data, devices: parallel.Devices) -> None:
    """Rejects, with a UserError, what can be known to be wrong before anything is compiled."""
    recipe = config.train
    with_groups = has_batch_norm(config)
    divide_batch(recipe, len(devices), with_groups)
    if recipe.batch_size > data.num_train:
        largest = fitting_batch_size(recipe, data.num_train, len(devices), with_groups)
        raise UserError(
            f"train.batch_size {recipe.batch_size} is larger than the {data.num_train} training "
            "images; "
            + (
                f"set train.batch_size to at most {largest}"
                if largest <= data.num_train
                else "they are fewer than devices x train.grad_accum_steps, so use fewer of these"
            )
        )
    if recipe.dtype not in ("float32", "bfloat16"):
        raise UserError(f"train.dtype is float32 or bfloat16; got {recipe.dtype!r}")
    training_pipeline(config, data)
    if total_steps(config, data) < 1:
        raise UserError("train.epochs and train.steps make no step at all")
    if total_steps(config, data) > MAX_STEPS:
        raise UserError(
            f"train.epochs and train.steps make {total_steps(config, data):,} steps; "
            f"at most {MAX_STEPS:,} can be trained"
        )
    optimizers.check_optimizer(recipe)
    optimizers.schedule(recipe, total_steps(config, data))
    trackers.check_trackers(recipe)
    recipe.profiled_steps()
    finetune.starting_weights(config, data)
    open_teacher(config, data)
    check_views(recipe, data)
    if active := constraints.active(recipe):
        model = config.model.to_mapping()
        params, _ = weight_shapes({"model": model, "num_classes": data.num_classes})
        for constraint in active:
            constraint.check(recipe, params)


def checkpoint_bytes(config: TrialConfig, data: Data) -> int:
    """Returns the bytes of a trial's training state, from shapes alone."""
    params, stats = weight_shapes(
        {"model": config.model.to_mapping(), "num_classes": data.num_classes}
    )
    optimizer = optimizers.make_optimizer(config.train, params)
    state = jax.eval_shape(
        lambda params, stats: create(params, stats, optimizer, config.train, 0, data),
        params,
        stats,
    )
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


def total_steps(config: TrialConfig, data: Data) -> int:
    """Returns the optimizer steps of a trial."""
    recipe = config.train
    steps_per_epoch = training_pipeline(config, data).steps_per_epoch
    return recipe.steps or max(round(recipe.epochs * steps_per_epoch), recipe.min_steps)


def count_evaluations(recipe: TrainConfig, steps: int) -> int:
    """Returns how often a trial of so many steps is evaluated, at most."""
    return 1 + steps // recipe.eval_every if recipe.eval_every else 1


def has_batch_norm(config: TrialConfig) -> bool:
    """Returns whether the trial's net has BatchNorm."""
    return _has_statistics(json.dumps(config.model.to_mapping(), sort_keys=True))


# Tracing a deep net takes a quarter of a second, and the trials of a study have few designs.
@functools.lru_cache
def _has_statistics(model: str) -> bool:
    return bool(weight_shapes({"model": json.loads(model), "num_classes": 2})[1])


def training_pipeline(config: TrialConfig, data: Data) -> Pipeline:
    """Returns this process's batches in the order of `config.seed`."""
    return data.train(
        config.train.batch_size, config.seed, jax.process_index(), jax.process_count()
    )
