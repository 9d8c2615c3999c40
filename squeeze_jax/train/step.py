"""One optimizer step and one evaluation step, as pure functions of one device's share of a batch.

Both know of other devices only through the axis name "batch"; `parallel` says which those are.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax

from squeeze_jax.data import Pipeline
from squeeze_jax.models import conv_backend
from squeeze_jax.network import Tree, forward, num_microbatches, predict
from squeeze_jax.train import metrics
from squeeze_jax.train.config import TrainConfig
from squeeze_jax.train.optimizers import with_learning_rate
from squeeze_jax.train.state import TrainState

AXIS = "batch"

TrainStep = Callable[[TrainState, Tree, Tree, jax.Array], TrainState]
EvalStep = Callable[[Tree, Tree, Tree, Tree], dict[str, jax.Array]]


def _cast(tree: Tree, dtype: str) -> Tree:
    return jax.tree.map(lambda x: x.astype(dtype), tree)


def make_train_step(
    graphdef: nnx.GraphDef,
    pipeline: Pipeline,
    optimizer: optax.GradientTransformation,
    config: TrainConfig,
    backend: conv_backend.ConvBackend,
) -> TrainStep:
    """Returns (state, device data, batch, learning rate) -> the state after one step.

    `running` in it holds the sums of loss and top1 (each a mean over the global batch) since the
    last multiple of `config.log_every` steps.

    The device's share is divided into `config.grad_accum_steps` micro-batches whose gradients are
    averaged before the update (Caffe's iter_size). 0 is as many as are fastest, which changes no
    more than rounding; BatchNorm would see it, and keeps the whole share. Parameters stay float32;
    `config.dtype` is what the forward and backward passes compute in. Each random draw is keyed by
    (seed, step, position in the global batch), so that it does not depend on the number of devices.

    Args:
      graphdef: of the module.
      pipeline: of the training data.
      optimizer: from `make_optimizer`.
      config: the recipe.
      backend: of the convolutions.
    """

    def loss_fn(params, stats, micro_batch, key):
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, micro_batch["position"])
        images = micro_batch["image"].astype(config.dtype)
        logits, stats = forward(
            graphdef, _cast(params, config.dtype), stats, images, train=True, key=keys
        )
        labels = micro_batch["label"]
        loss = jnp.mean(metrics.cross_entropy(logits, labels, config.label_smoothing))
        return loss, (stats, jnp.mean(metrics.label_rank(logits, labels) < 1))

    def train_step(state, device_data, batch, learning_rate):
        with conv_backend.conv_backend(backend):
            augment_key, dropout_key = jax.random.split(
                jax.random.fold_in(jax.random.key(state.seed), state.step)
            )
            batch = pipeline.fetch(device_data, batch, augment_key)
            count = config.grad_accum_steps or (
                1
                if state.stats
                else num_microbatches(graphdef, state.params, {}, batch["image"], train=True)
            )
            micro_batches = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), batch)

            def gradients(stats, micro_batch):
                (loss, (stats, top1)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
                    state.params, stats, micro_batch, dropout_key
                )
                return stats, (grads, {"loss": loss, "top1": top1})

            if count == 1:
                stats, means = gradients(state.stats, jax.tree.map(lambda x: x[0], micro_batches))
            else:
                zeros = jax.tree.map(jnp.zeros_like, (state.params, state.running))
                stats, means = _scan_mean(gradients, state.stats, zeros, micro_batches, count)
            # After the local mean, so that the devices talk once a step.
            (grads, measured), stats = lax.pmean((means, stats), AXIS)
            opt_state = with_learning_rate(state.opt_state, learning_rate)
            updates, opt_state = optimizer.update(grads, opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            starts = state.step % config.log_every == 0
            running = jax.tree.map(
                lambda total, value: jnp.where(starts, 0.0, total) + value, state.running, measured
            )
            return TrainState(state.step + 1, state.seed, params, stats, opt_state, running)

    return train_step


def _scan_mean(function, carry, zeros, micro_batches, count):
    """Returns the mean of a function's results over micro-batches, holding one result at a time.

    Args:
      function: (carry, micro-batch) -> (carry, result like `zeros`).
      carry: before the first.
      zeros: a tree.
      micro_batches: with a leading axis of `count`.
      count: how many there are.

    Returns:
      The carry after the last, and the mean.
    """

    def body(state, micro_batch):
        carry, total = state
        carry, result = function(carry, micro_batch)
        return (carry, jax.tree.map(jnp.add, total, result)), None

    (carry, total), _ = lax.scan(body, (carry, zeros), micro_batches)
    return carry, jax.tree.map(lambda x: x / count, total)


def make_eval_step(
    graphdef: nnx.GraphDef, pipeline: Pipeline, dtype: str, backend: conv_backend.ConvBackend
) -> EvalStep:
    """Returns (params, stats, device data, batch) -> sums over the global batch.

    See `metrics.evaluation_sums`.
    """

    def eval_step(params, stats, device_data, batch):
        with conv_backend.conv_backend(backend):
            batch = pipeline.fetch(device_data, batch, None)
            logits = predict(graphdef, _cast(params, dtype), stats, batch["image"].astype(dtype))
            return lax.psum(metrics.evaluation_sums(logits, batch["label"], batch["weight"]), AXIS)

    return eval_step
