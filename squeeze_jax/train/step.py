"""One optimiser step and one evaluation step, as pure functions of one device's share of a batch.

Both speak of the other devices only through the axis name "batch"; `parallel` says which devices those are.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax
from ml_collections import ConfigDict

from squeeze_jax.data import Pipeline
from squeeze_jax.models import conv_backend
from squeeze_jax.network import Tree, forward, num_microbatches, predict
from squeeze_jax.train import metrics
from squeeze_jax.train.state import TrainState

AXIS = "batch"

TrainStep = Callable[[TrainState, Tree, Tree], TrainState]
EvalStep = Callable[[Tree, Tree, Tree, Tree], dict[str, jax.Array]]


def _cast(tree: Tree, dtype: str) -> Tree:
    return jax.tree.map(lambda x: x.astype(dtype), tree)


def make_train_step(
    graphdef: nnx.GraphDef,
    pipeline: Pipeline,
    optimizer: optax.GradientTransformation,
    config: ConfigDict,
    lowering: conv_backend.ConvBackend,
) -> TrainStep:
    """(state, resident data, batch) -> the state after one step.

    `running` in it holds the sums of loss and top1 (each a mean over the global batch) since the last multiple of
    `config.log_every` steps.

    The device's share is divided into `config.grad_accum_steps` parts whose gradients are averaged before the update (Caffe's
    iter_size); 0: as many as are fastest, which changes no more than rounding (BatchNorm would see it, and keeps the whole
    share). Parameters stay float32; `config.dtype` is what the forward and backward passes compute in. Every random draw is keyed
    by (seed, step, position in the global batch), so it does not matter how many devices share the batch.
    """

    def loss_fn(params, stats, part, key):
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, part["position"])
        images = part["image"].astype(config.dtype)
        logits, stats = forward(
            graphdef, _cast(params, config.dtype), stats, images, train=True, key=keys
        )
        loss = jnp.mean(metrics.cross_entropy(logits, part["label"], config.label_smoothing))
        return loss, (stats, jnp.mean(metrics.label_rank(logits, part["label"]) < 1))

    def train_step(state, resident, batch):
        with conv_backend.conv_backend(lowering):
            augment_key, dropout_key = jax.random.split(
                jax.random.fold_in(jax.random.key(state.seed), state.step)
            )
            batch = pipeline.fetch(resident, batch, augment_key)
            count = config.grad_accum_steps or (
                1
                if state.stats
                else num_microbatches(graphdef, state.params, {}, batch["image"], train=True)
            )
            parts = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), batch)

            def accumulate(stats, part):
                (loss, (stats, top1)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
                    state.params, stats, part, dropout_key
                )
                return stats, (grads, {"loss": loss, "top1": top1})

            if count == 1:
                stats, means = accumulate(state.stats, jax.tree.map(lambda x: x[0], parts))
            else:
                zeros = jax.tree.map(jnp.zeros_like, (state.params, state.running))
                stats, means = _scan_mean(accumulate, state.stats, zeros, parts, count)
            # After the local mean, so that the devices talk once a step however many parts there are.
            (grads, measured), stats = lax.pmean((means, stats), AXIS)
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            starts = state.step % config.log_every == 0
            running = jax.tree.map(
                lambda total, value: jnp.where(starts, 0.0, total) + value, state.running, measured
            )
            return TrainState(state.step + 1, state.seed, params, stats, opt_state, running)

    return train_step


def _scan_mean(function, carry, zeros, parts, count):
    """`function` over `parts` one after another; the mean of its results, which are like `zeros`, holding one result at a time."""

    def body(state, part):
        carry, total = state
        carry, result = function(carry, part)
        return (carry, jax.tree.map(jnp.add, total, result)), None

    (carry, total), _ = lax.scan(body, (carry, zeros), parts)
    return carry, jax.tree.map(lambda x: x / count, total)


def make_eval_step(
    graphdef: nnx.GraphDef, pipeline: Pipeline, dtype: str, lowering: conv_backend.ConvBackend
) -> EvalStep:
    """(params, stats, resident data, batch) -> sums over the global batch (see `metrics.evaluation_sums`)."""

    def eval_step(params, stats, resident, batch):
        with conv_backend.conv_backend(lowering):
            batch = pipeline.fetch(resident, batch, None)
            logits = predict(graphdef, _cast(params, dtype), stats, batch["image"].astype(dtype))
            return lax.psum(metrics.evaluation_sums(logits, batch["label"], batch["weight"]), AXIS)

    return eval_step
