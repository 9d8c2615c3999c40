"""Learning-rate schedules and the optimiser of the papers' solver files."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from squeeze_jax.compress.cluster import tie_gradients
from squeeze_jax.compress.prune import keep_zeros
from squeeze_jax.compress.qat import keep_on_grid
from squeeze_jax.errors import UserError

Schedule = Callable[[jax.Array | int], jax.Array]


def schedule(config: ConfigDict, steps: int) -> Schedule:
    """step -> learning rate: a linear warm-up, then a decay to 0 at `steps`.

    Args:
      config: `config.train`: learning_rate; schedule ("constant", "linear", "poly" or "cosine"); power (of poly: Caffe's
        (1 - t)^power); warmup (fraction of all steps) and warmup_from (learning rate it starts at).
      steps: optimiser steps in all.

    Raises:
      UserError: an unknown schedule, a warm-up outside [0, 1).
    """
    if not 0 <= config.warmup < 1:
        raise UserError(f"train.warmup is a fraction of the steps in [0, 1), got {config.warmup}")
    peak, warmup = config.learning_rate, round(config.warmup * steps)
    rest = max(1, steps - warmup)
    decays = {
        "constant": lambda: optax.constant_schedule(peak),
        "linear": lambda: optax.polynomial_schedule(peak, 0.0, 1.0, rest),
        "poly": lambda: optax.polynomial_schedule(peak, 0.0, config.power, rest),
        "cosine": lambda: optax.cosine_decay_schedule(peak, rest),
    }
    if config.schedule not in decays:
        raise UserError(f"train.schedule is one of {', '.join(decays)}; got {config.schedule!r}")
    decay = decays[config.schedule]()
    if not warmup:
        return decay
    return optax.join_schedules(
        [optax.linear_schedule(config.warmup_from, peak, warmup), decay], [warmup]
    )


def optimizer(
    config: ConfigDict, learning_rate: Schedule, labels: Any = None
) -> optax.GradientTransformation:
    """`sgd` for the parameters labelled "trained"; those labelled "frozen" stay as they are, and count in no norm.

    Args:
      config: `config.train`.
      learning_rate: from `schedule`.
      labels: a tree like the parameters; None: all are trained.
    """
    if labels is None:
        return sgd(config, learning_rate)
    return optax.multi_transform(
        {"trained": sgd(config, learning_rate), "frozen": optax.set_to_zero()}, labels
    )


def sgd(config: ConfigDict, learning_rate: Schedule) -> optax.GradientTransformation:
    """Caffe's SGD (the released solver files): v <- momentum * v - lr * (gradient + weight_decay * w); w <- w + v, biases included.

    Unlike optax.sgd the rate enters before the momentum, as in Caffe. With `clip_norm` > 0 the gradient is first scaled down
    to at most that global norm. Before all else, gradients keep pruned weights at zero where the config has `prune_density` or `qat`, and shared
    ones equal where it has `codebook_bits`; after all else, updates keep weights on their grid where it has `qat`.
    """
    constraint = (
        [tie_gradients()]
        if config.codebook_bits
        else [keep_zeros()]
        if config.prune_density or config.qat
        else []
    )
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    return optax.chain(
        *constraint,
        clip,
        optax.add_decayed_weights(config.weight_decay),
        optax.scale_by_learning_rate(learning_rate),
        optax.trace(config.momentum),
        *([keep_on_grid()] if config.qat else []),
    )
