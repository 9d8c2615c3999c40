"""Learning-rate schedules, and the optimizers that take the rate as an argument."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from squeeze_jax.errors import UserError
from squeeze_jax.network import Tree
from squeeze_jax.train import constraints
from squeeze_jax.train.config import TrainConfig
from squeeze_jax.train.constraints import Stages

Schedule = Callable[[Any], Any]  # optimizer steps taken, int32 [] -> learning rate


def schedule(config: TrainConfig, steps: int) -> Schedule:
    """Returns the learning rate as a function of the step: a linear warm-up, then a decay.

    Args:
      config: learning_rate; schedule; power (of poly: Caffe's (1 - t)^power); warmup (a fraction of
        all steps) and warmup_from (the learning rate it starts at).
      steps: optimizer steps in all; the decay reaches 0 there.

    Raises:
      UserError: an unknown schedule.
    """
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


def learning_rates(config: TrainConfig, steps: int) -> np.ndarray:
    """Returns the learning rate of each step, float32 [steps], computed at once."""
    rates = jax.jit(jax.vmap(schedule(config, steps)))(np.arange(steps, dtype=np.int32))
    return np.broadcast_to(np.asarray(rates, np.float32), (steps,))


def sgd(config: TrainConfig, learning_rate: Any) -> Stages:
    """Returns Caffe's SGD, of the released solver files, as stages.

    v <- momentum * v - rate * (gradient + weight_decay * w); w <- w + v, biases included. Unlike in
    optax.sgd the rate enters before the momentum. With `clip_norm` above 0 the gradient is first
    scaled down to at most that global norm.
    """
    # As a schedule the rate leaves a step count in the state, which older checkpoints hold.
    rate: Schedule = learning_rate if callable(learning_rate) else lambda count: learning_rate
    return (
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        optax.add_decayed_weights(config.weight_decay),
        optax.scale_by_learning_rate(rate),
        optax.trace(config.momentum),
    )


# By `config.train.optimizer`: a recipe and the learning rate of a step -> the optimizer's stages.
OPTIMIZERS: dict[str, Callable[[TrainConfig, Any], Stages]] = {"sgd": sgd}


def check_optimizer(config: TrainConfig) -> None:
    """Rejects an optimizer that is none of OPTIMIZERS, with a UserError."""
    if config.optimizer not in OPTIMIZERS:
        raise UserError(
            f"train.optimizer is one of {', '.join(OPTIMIZERS)}; got {config.optimizer!r}"
        )


def constrained_optimizer(
    config: TrainConfig, learning_rate: Any, params: Tree
) -> optax.GradientTransformation:
    """Returns the optimizer that the recipe names, under the constraints that it turns on.

    Args:
      config: the recipe.
      learning_rate: of a step, or a `Schedule`.
      params: of the network; shapes will do.
    """
    stages = OPTIMIZERS[config.optimizer](config, learning_rate)
    for constraint in constraints.active(config):
        stages = constraint.transform(config, params, stages)
    return stages[0] if len(stages) == 1 else optax.chain(*stages)


def make_optimizer(config: TrainConfig, params: Tree) -> optax.GradientTransformationExtraArgs:
    """Returns `constrained_optimizer` with the learning rate in its state.

    `with_learning_rate` sets it, so that one compiled step serves every rate.
    """

    def with_rate(learning_rate: Any) -> optax.GradientTransformation:
        return constrained_optimizer(config, learning_rate, params)

    return optax.inject_hyperparams(with_rate)(learning_rate=0.0)


def with_learning_rate(opt_state: Any, learning_rate: Any) -> Any:
    """Returns the state of `make_optimizer`'s optimizer with another learning rate."""
    return opt_state._replace(hyperparams={"learning_rate": learning_rate})
