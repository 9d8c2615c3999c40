"""The exponential moving average of the weights, which is evaluated and saved as the network."""

from typing import Any

import jax
import jax.numpy as jnp

from squeeze_jax.network import Tree
from squeeze_jax.train.config import TrainConfig


def start_average(config: TrainConfig, params: Tree, stats: Tree) -> Tree:
    """Returns the average before the first step, which is the weights; {} without `ema_decay`."""
    # Copies, since a step donates both.
    return jax.tree.map(jnp.copy, {"params": params, "stats": stats}) if config.ema_decay else {}


def update_average(
    config: TrainConfig, average: Tree, params: Tree, stats: Tree, step: Any
) -> Tree:
    """Returns the average after a step: a <- a + (1 - decay) * (weights - a).

    The decay is min(ema_decay, (1 + t) / (10 + t)) after t earlier steps, as in TensorFlow's
    ExponentialMovingAverage, so that a short run's average does not hold its first weights.
    BatchNorm's running statistics are averaged alike, as timm's ModelEmaV3 does: a layer's mean
    output is linear in its weights, and recomputing them would take a pass over the data at each
    evaluation. In this form weights that do not move, zeros, and weights that are equal stay so to
    the last bit, hence pruned, shared and frozen ones.

    Args:
      config: the recipe; without `ema_decay` the average stays {}.
      average: of params and stats, under these names.
      params: after the step.
      stats: likewise.
      step: t, int32 [].
    """
    if not config.ema_decay:
        return average
    share = jnp.maximum(1 - config.ema_decay, 9 / (10 + step))
    return jax.tree.map(
        lambda mean, new: mean + share * (new - mean), average, {"params": params, "stats": stats}
    )
