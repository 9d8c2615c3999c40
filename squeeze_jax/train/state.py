"""What a training run carries from step to step, and how a model is taken apart into it."""

from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import nnx
from ml_collections import ConfigDict

from squeeze_jax import models

Tree = Any  # nested dicts of arrays, keyed as the module's attributes are: params["fire2"]["squeeze"]["kernel"]


class TrainState(NamedTuple):
    """A pytree; everything the next step depends on besides the data."""

    step: jax.Array  # int32 [], optimiser steps taken
    seed: jax.Array  # uint32 [], root of all randomness in training
    params: Tree
    stats: Tree  # BatchNorm's running statistics; {} without BatchNorm
    opt_state: Tree
    running: dict[str, jax.Array]  # sums of the metrics since the last log line, so that a resumed run logs what an unbroken one does


def build_model(config: ConfigDict, num_classes: int, seed: int) -> nnx.Module:
    """The module that `config.model` describes (its name and options), with freshly drawn weights."""
    options = {key: value for key, value in config.items() if key != "name"}
    return models.create(config.name, num_classes=num_classes, rngs=nnx.Rngs(seed), **options)


def split_model(model: nnx.Module) -> tuple[nnx.GraphDef, Tree, Tree]:
    """The module as (static graph, parameters, BatchNorm statistics), the latter two as plain nested dicts."""
    graphdef, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    return graphdef, nnx.to_pure_dict(params), nnx.to_pure_dict(stats)


def forward(
    graphdef: nnx.GraphDef, params: Tree, stats: Tree, images: jax.Array, *, train: bool = False, key: jax.Array | None = None
) -> tuple[jax.Array, Tree]:
    """Logits [N, classes] of images [N, H, W, 3] and the statistics after the pass; pure."""
    # copy=True: without it nnx would write statistics into variables that live outside the gradient's trace.
    model = nnx.merge(graphdef, params, stats, copy=True)
    logits = model(images, train=train, key=key)
    return logits, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))


def create(model: nnx.Module, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """The state before the first step."""
    _, params, stats = split_model(model)
    running = {"loss": np.float32(0), "top1": np.float32(0)}
    # Under jit, since optax would otherwise compile its zeros for every shape.
    return TrainState(np.int32(0), np.uint32(seed), params, stats, jax.jit(optimizer.init)(params), running)
