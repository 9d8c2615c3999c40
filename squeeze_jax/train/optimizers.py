"""Learning-rate schedules, and the optimizers that take the rate as an argument."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
import optax.contrib

from squeeze_jax.compress.prune import kernels
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

    v <- momentum * v - rate * (gradient + weight_decay * w); w <- w + v. Unlike in optax.sgd the
    rate enters before the momentum. With `clip_norm` above 0 the gradient is first scaled down to
    at most that global norm.
    """
    # As a schedule the rate leaves a step count in the state, which older checkpoints hold.
    rate: Schedule = learning_rate if callable(learning_rate) else lambda count: learning_rate
    return (
        _clipping(config),
        optax.add_decayed_weights(config.weight_decay, _decay_mask(config)),
        optax.scale_by_learning_rate(rate),
        optax.trace(config.momentum),
    )


def nesterov(config: TrainConfig, learning_rate: Any) -> Stages:
    """Returns SGD with Nesterov's momentum as PyTorch has it: the rate enters after the momentum.

    g <- gradient + weight_decay * w; v <- momentum * v + g; w <- w - rate * (g + momentum * v).
    """
    return (
        _clipping(config),
        optax.add_decayed_weights(config.weight_decay, _decay_mask(config)),
        optax.sgd(learning_rate, config.momentum, nesterov=True),
    )


def adamw(config: TrainConfig, learning_rate: Any) -> Stages:
    """Returns AdamW (Loshchilov and Hutter, arXiv 1711.05101); beta1 is `momentum`.

    As in PyTorch, weight decay takes rate * weight_decay * w away.
    """
    return _clipping(config), optax.adamw(learning_rate, **_adaptive(config))


def lamb(config: TrainConfig, learning_rate: Any) -> Stages:
    """Returns LAMB (You et al., arXiv 1904.00962), for large batches; beta1 is `momentum`."""
    return _clipping(config), optax.lamb(learning_rate, **_adaptive(config))


def lion(config: TrainConfig, learning_rate: Any) -> Stages:
    """Returns Lion (Chen et al., arXiv 2302.06675); beta1 is `momentum`."""
    return _clipping(config), optax.lion(learning_rate, **_adaptive(config))


def muon(config: TrainConfig, learning_rate: Any) -> Stages:
    """Returns Muon (Jordan 2024, github.com/KellerJordan/Muon) for kernels, NAdamW for the rest.

    A convolution's kernel [kh, kw, in, out] counts as a matrix [kh * kw * in, out], as in Jordan's
    code; that of a grouped one has in / groups. `momentum` is the matrices' alone. Their updates
    have the root mean square of AdamW's (Liu et al., arXiv 2502.16982), so that one rate and one
    decay serve both.
    """
    return (
        _clipping(config),
        optax.contrib.muon(
            learning_rate,
            beta=config.momentum,
            weight_decay=config.weight_decay,
            adam_b2=_beta2(config),
            adam_weight_decay=config.weight_decay if config.decay_norm_and_bias else 0.0,
            muon_weight_dimension_numbers=_matrices,
            consistent_rms=0.2,
        ),
    )


# By `config.train.optimizer`: a recipe and the learning rate of a step -> the optimizer's stages.
OPTIMIZERS: dict[str, Callable[[TrainConfig, Any], Stages]] = {
    "sgd": sgd,
    "nesterov": nesterov,
    "adamw": adamw,
    "lamb": lamb,
    "lion": lion,
    "muon": muon,
}

# The decay of squared gradients, of the momentum in lion, where `config.train.beta2` is 0.
BETA2 = {"adamw": 0.999, "lamb": 0.999, "lion": 0.99, "muon": 0.999}


def _clipping(config: TrainConfig) -> optax.GradientTransformation:
    return optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()


def _decay_mask(config: TrainConfig) -> Callable[[Tree], Tree] | None:
    """Returns what tells the parameters that decay; None where all do."""
    return None if config.decay_norm_and_bias else kernels


def _adaptive(config: TrainConfig) -> dict[str, Any]:
    """Returns the arguments that optax's adamw, lamb and lion share."""
    return {
        "b1": config.momentum,
        "b2": _beta2(config),
        "weight_decay": config.weight_decay,
        "mask": _decay_mask(config),
    }


def _beta2(config: TrainConfig) -> float:
    return config.beta2 or BETA2[config.optimizer]


def _matrices(params: Tree) -> Tree:
    """Returns muon's view of each kernel as a matrix, its last axis against all others."""

    def matrix(kernel: bool, leaf: Any) -> optax.contrib.MuonDimensionNumbers | None:
        axes = tuple(range(leaf.ndim))
        return optax.contrib.MuonDimensionNumbers(axes[:-1], axes[-1:]) if kernel else None

    return jax.tree.map(matrix, kernels(params), params)


def check_optimizer(config: TrainConfig) -> None:
    """Rejects an optimizer that is none of OPTIMIZERS, and a beta2 for one that has none.

    Raises:
      UserError: see above.
    """
    if config.optimizer not in OPTIMIZERS:
        raise UserError(
            f"train.optimizer is one of {', '.join(OPTIMIZERS)}; got {config.optimizer!r}"
        )
    if config.beta2 and config.optimizer in ("sgd", "nesterov"):
        raise UserError(
            f"train.beta2 is for {', '.join(BETA2)}; train.optimizer {config.optimizer} has none"
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
