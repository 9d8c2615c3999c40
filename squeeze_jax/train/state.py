"""What a training run carries from step to step."""

from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from squeeze_jax.data import Data
from squeeze_jax.network import Tree
from squeeze_jax.train.config import TrainConfig
from squeeze_jax.train.ema import start_average
from squeeze_jax.train.teacher_views import unseen


class TrainState(NamedTuple):
    """A pytree of everything that the next step depends on besides the data and the rate."""

    step: Any  # int32 [], optimizer steps taken
    seed: Any  # uint32 [], root of all randomness in training
    params: Tree
    stats: Tree  # BatchNorm's running statistics; {} without BatchNorm
    opt_state: Any
    # Sums of the metrics since the last log line, so that a resumed run logs what an unbroken one
    # does.
    running: Tree
    average: Tree  # of params and stats, under these names; {} without `ema_decay`
    teacher_views: Any = ()  # the logits that are known; see teacher_views.py

    @property
    def network_weights(self) -> tuple[Tree, Tree]:
        """Returns the params and stats to evaluate: the averages, where there are any."""
        weights = self.average or {"params": self.params, "stats": self.stats}
        return weights["params"], weights["stats"]


def create(
    params: Tree,
    stats: Tree,
    optimizer: optax.GradientTransformation,
    config: TrainConfig,
    seed: int,
    data: Data,
) -> TrainState:
    """Returns the state before the first step."""

    @jax.jit  # since optax would otherwise compile its zeros for each shape
    def start(params, stats):
        return optimizer.init(params), start_average(config, params, stats)

    opt_state, average = start(params, stats)
    running = {"loss": np.float32(0), "top1": np.float32(0)}
    views = unseen(config, data)
    return TrainState(
        np.int32(0), np.uint32(seed), params, stats, opt_state, running, average, views
    )
