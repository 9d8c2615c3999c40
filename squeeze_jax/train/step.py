"""One optimizer step and one evaluation step, as pure functions of one device's share of a batch.

Both know of other devices only through the axis name "batch"; `parallel` says which those are.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax

from squeeze_jax.data import Pipeline
from squeeze_jax.models import conv_backend
from squeeze_jax.network import Tree, forward, num_microbatches, predict
from squeeze_jax.train import metrics, mixing
from squeeze_jax.train.batches import BatchDivision
from squeeze_jax.train.config import TrainConfig
from squeeze_jax.train.ema import update_average
from squeeze_jax.train.keys import fold_in_each
from squeeze_jax.train.optimizers import with_learning_rate
from squeeze_jax.train.state import TrainState
from squeeze_jax.train.teacher_views import choose_views, recall, view_keys

AXIS = "batch"

TrainStep = Callable[[TrainState, Tree, Tree, jax.Array, Tree], TrainState]
EvalStep = Callable[[Tree, Tree, Tree, Tree], dict[str, jax.Array]]


def _cast(tree: Tree, dtype: str) -> Tree:
    return jax.tree.map(lambda x: x.astype(dtype), tree)


def make_train_step(
    graphdef: nnx.GraphDef,
    pipeline: Pipeline,
    optimizer: optax.GradientTransformation,
    config: TrainConfig,
    backend: conv_backend.ConvBackend,
    division: BatchDivision,
    teacher_logits: Callable[[Tree, jax.Array], jax.Array] | None = None,
) -> TrainStep:
    """Returns (state, device data, batch, learning rate, teacher's weights) -> the next state.

    `running` in it holds the sums of loss and top1 (each a mean over the global batch) since the
    last multiple of `config.log_every` steps.

    The device's share is divided into `config.grad_accum_steps` micro-batches whose gradients are
    averaged before the update (Caffe's iter_size), as are BatchNorm's statistics. 0 is as many as
    are fastest, which changes no more than rounding, as each has whole groups. Parameters stay
    float32; `config.dtype` is what the forward and backward passes compute in. Each random draw is
    keyed by (seed, step, position in the global batch), with `config.teacher_views` that of the
    augmentation by (seed, view, place in the set), so that none depends on the number of devices.

    Args:
      graphdef: of the module.
      pipeline: of the training data.
      optimizer: from `make_optimizer`.
      config: the recipe.
      backend: of the convolutions.
      division: of the batch; the module's BatchNorm has its groups.
      teacher_logits: of a teacher, from its weights and a micro-batch's images; None: without.
    """

    def loss_fn(params, stats, micro_batch, key):
        keys = fold_in_each(key, micro_batch["position"])
        images = micro_batch["image"].astype(config.dtype)
        logits, stats = forward(
            graphdef, _cast(params, config.dtype), stats, images, train=True, key=keys
        )
        loss = metrics.training_loss(logits, micro_batch, config.label_smoothing)
        if teacher_logits:
            loss *= 1 - config.teacher_weight
            loss += config.teacher_weight * jnp.mean(
                metrics.distillation(logits, micro_batch["teacher"], config.teacher_temperature)
            )
        return loss, (stats, metrics.training_top1(logits, micro_batch))

    def train_step(state, device_data, batch, learning_rate, teacher_weights):
        with conv_backend.conv_backend(backend):
            augment_key, dropout_key = jax.random.split(
                jax.random.fold_in(jax.random.key(state.seed), state.step)
            )
            keys, memory = fold_in_each(augment_key, batch["position"]), state.teacher_views
            remember = None
            if teacher_logits and config.teacher_views:
                index, epoch = batch["index"], state.step // pipeline.steps_per_epoch
                view = choose_views(memory, epoch, index)
                keys = view_keys(state.seed, view, index)
                remember = functools.partial(recall, memory, view, index, axis=AXIS)
            batch = pipeline.fetch(device_data, batch, keys)
            batch = mixing.mix(batch, augment_key, config)
            count = config.grad_accum_steps or num_microbatches(
                graphdef,
                state.params,
                state.stats,
                batch["image"],
                train=True,
                unit=division.group_images,
            )

            def divided(tree):
                return jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), tree)

            if teacher_logits:
                ask_one = functools.partial(teacher_logits, teacher_weights)

                def ask():
                    logits = lax.map(ask_one, divided(batch["image"])).astype(jnp.float32)
                    return logits.reshape(-1, logits.shape[-1])

                batch["teacher"], memory = remember(ask=ask) if remember else (ask(), memory)

            def gradients(micro_batch):
                (loss, (stats, top1)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
                    state.params, state.stats, micro_batch, dropout_key
                )
                return grads, {"loss": loss, "top1": top1}, stats

            means = _mean(gradients, divided(batch), count)
            # After the local mean, so that the devices talk once a step.
            grads, measured, stats = lax.pmean(means, AXIS)
            opt_state = with_learning_rate(state.opt_state, learning_rate)
            updates, opt_state = optimizer.update(grads, opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            average = update_average(config, state.average, params, stats, state.step)
            starts = state.step % config.log_every == 0
            running = jax.tree.map(
                lambda total, value: jnp.where(starts, 0.0, total) + value, state.running, measured
            )
            return TrainState(
                state.step + 1, state.seed, params, stats, opt_state, running, average, memory
            )

    return train_step


def _mean(function: Callable[[Tree], Any], micro_batches: Tree, count: int) -> Any:
    """Returns the mean of a function's results over micro-batches, holding one result at a time.

    Args:
      function: of a micro-batch, to a tree.
      micro_batches: with a leading axis of `count`.
      count: how many there are.
    """
    first = jax.tree.map(lambda x: x[0], micro_batches)
    if count == 1:
        return function(first)
    zeros = jax.tree.map(
        lambda shape: jnp.zeros(shape.shape, shape.dtype), jax.eval_shape(function, first)
    )

    def body(total, micro_batch):
        return jax.tree.map(jnp.add, total, function(micro_batch)), None

    total, _ = lax.scan(body, zeros, micro_batches)
    return jax.tree.map(lambda x: x / count, total)


def make_eval_step(
    graphdef: nnx.GraphDef, pipeline: Pipeline, dtype: str, backend: conv_backend.ConvBackend
) -> EvalStep:
    """Returns (params, stats, device data, batch) -> sums over the global batch.

    See `metrics.evaluation_sums` and `metrics.class_sums`.
    """

    def eval_step(params, stats, device_data, batch):
        with conv_backend.conv_backend(backend):
            batch = pipeline.fetch(device_data, batch, None)
            logits = predict(graphdef, _cast(params, dtype), stats, batch["image"].astype(dtype))
            answers = logits, batch["label"], batch["weight"]
            sums = metrics.evaluation_sums(*answers) | metrics.class_sums(*answers)
            return lax.psum(sums, AXIS)

    return eval_step
