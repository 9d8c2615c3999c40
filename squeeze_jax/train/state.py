"""What a training run carries from step to step."""

from typing import NamedTuple

import jax
import numpy as np
import optax

from squeeze_jax.network import Tree


class TrainState(NamedTuple):
    """A pytree; everything the next step depends on besides the data."""

    step: jax.Array  # int32 [], optimiser steps taken
    seed: jax.Array  # uint32 [], root of all randomness in training
    params: Tree
    stats: Tree  # BatchNorm's running statistics; {} without BatchNorm
    opt_state: Tree
    # Sums of the metrics since the last log line, so that a resumed run logs what an unbroken one does.
    running: dict[str, jax.Array]


def create(
    params: Tree, stats: Tree, optimizer: optax.GradientTransformation, seed: int
) -> TrainState:
    """Returns the state before the first step."""
    running = {"loss": np.float32(0), "top1": np.float32(0)}
    # Under jit, since optax would otherwise compile its zeros for every shape.
    return TrainState(
        np.int32(0), np.uint32(seed), params, stats, jax.jit(optimizer.init)(params), running
    )
