"""What training keeps true of the weights: pruned, clustered, quantized, or frozen.

A constraint checks its setting, prepares the weights that training starts from, and changes the
optimizer so that what holds at the start holds after each step.
"""

from collections.abc import Sequence

import optax

from squeeze_jax.compress.cluster import cluster_weights, tie_gradients, tie_updates
from squeeze_jax.compress.prune import keep_zeros, kept_fractions, prune
from squeeze_jax.compress.qat import check_quantized, keep_quantized
from squeeze_jax.errors import UserError
from squeeze_jax.network import (
    Tree,
    check_layer_patterns,
    layer_name,
    leaves_by_path,
    matches_layer,
    replace_leaves,
)
from squeeze_jax.train.config import TrainConfig

Stages = Sequence[optax.GradientTransformation]  # of an optimizer, applied one after another

# Optimizers that move a weight by its own gradients and what its whole kernel shares: zeros and
# equal weights stay so if their gradients do. After any other the updates are constrained, too.
ELEMENTWISE = ("sgd", "nesterov", "adamw", "lamb", "lion")


class Constraint:
    """A constraint that changes nothing; others override what they need."""

    def check(self, config: TrainConfig, params: Tree) -> None:
        """Rejects a setting that cannot be met, with a UserError; shapes will do for `params`."""

    def prepare(self, config: TrainConfig, params: Tree) -> Tree:
        """Returns weights that meet the constraint, made of those that training would start from.

        Raises:
          UserError: these weights cannot meet it.
        """
        del config
        return params

    def transform(self, config: TrainConfig, params: Tree, stages: Stages) -> Stages:
        """Returns the optimizer's stages with those that keep the constraint.

        Args:
          config: the recipe.
          params: of the network; shapes will do.
          stages: from gradients to what is added to the weights.
        """
        del config, params
        return stages


class Pruned(Constraint):
    """`train.prune_density`: the smallest weights of a kernel are zero, and stay so."""

    def check(self, config: TrainConfig, params: Tree) -> None:
        """Rejects patterns that match no layer, and fractions outside (0, 1]."""
        kept_fractions(params, config.prune_density)

    def prepare(self, config: TrainConfig, params: Tree) -> Tree:
        """Returns weights of which the smallest of each kernel are zero."""
        return prune(params, config.prune_density)

    def transform(self, config: TrainConfig, params: Tree, stages: Stages) -> Stages:
        """Takes the gradients of zeros away, unless they are tied, which does so, too."""
        if config.codebook_bits:
            return stages
        return (keep_zeros(), *stages, *_unless_elementwise(config, keep_zeros()))


class Clustered(Constraint):
    """`train.codebook_bits`: the weights of a kernel share few values, which are trained."""

    def prepare(self, config: TrainConfig, params: Tree) -> Tree:
        """Returns weights of few values a kernel."""
        return cluster_weights(params, config.codebook_bits)

    def transform(self, config: TrainConfig, params: Tree, stages: Stages) -> Stages:
        """Makes a weight's gradient the sum over all weights of its value."""
        return (tie_gradients(), *stages, *_unless_elementwise(config, tie_updates()))


class Quantized(Constraint):
    """`train.qat`: kernels that start as multiples of one step stay multiples of it."""

    def check(self, config: TrainConfig, params: Tree) -> None:
        """Rejects a codebook besides, and averages, which would lie between the multiples."""
        if config.codebook_bits:
            raise UserError(
                "train.qat and train.codebook_bits are two ways to keep weights to few values; "
                "set one"
            )
        if config.ema_decay:
            raise UserError(
                "train.ema_decay averages weights, which takes them off the grid of train.qat; "
                "set one"
            )

    def prepare(self, config: TrainConfig, params: Tree) -> Tree:
        """Returns the weights as they are; raises UserError where no kernel is quantized."""
        check_quantized(params)
        return params

    def transform(self, config: TrainConfig, params: Tree, stages: Stages) -> Stages:
        """Keeps zeros zero, and moves weights from multiple to multiple."""
        if not config.prune_density:
            stages = (keep_zeros(), *stages, *_unless_elementwise(config, keep_zeros()))
        return (*stages, keep_quantized())


class Frozen(Constraint):
    """`train.freeze`: some layers stay as they are, and count in no norm."""

    def check(self, config: TrainConfig, params: Tree) -> None:
        """Rejects patterns that match no layer, and those that leave nothing to train."""
        frozen_labels(params, config.freeze)

    def transform(self, config: TrainConfig, params: Tree, stages: Stages) -> Stages:
        """Leaves the parameters of frozen layers as they are."""
        return (
            optax.multi_transform(
                {"trained": optax.chain(*stages), "frozen": optax.set_to_zero()},
                frozen_labels(params, config.freeze),
            ),
        )


# By the key of the train section that turns it on, in the order in which they apply.
CONSTRAINTS: dict[str, Constraint] = {
    "prune_density": Pruned(),
    "codebook_bits": Clustered(),
    "qat": Quantized(),
    "freeze": Frozen(),
}


def active(config: TrainConfig) -> list[Constraint]:
    """Returns the constraints that the recipe turns on."""
    return [constraint for key, constraint in CONSTRAINTS.items() if getattr(config, key)]


def _unless_elementwise(config: TrainConfig, stage: optax.GradientTransformation) -> Stages:
    """Returns the stage that must follow an optimizer that is not elementwise."""
    return () if config.optimizer in ELEMENTWISE else (stage,)


def frozen_labels(params: Tree, patterns: Sequence[str]) -> Tree:
    """Returns "frozen" or "trained" for each parameter.

    Args:
      params: of a network; shapes will do.
      patterns: of the layers to freeze, by name, such as fire2 or fire*/squeeze.

    Raises:
      UserError: a pattern matches no layer, or nothing is left to train.
    """
    names = {path: layer_name(path) for path in leaves_by_path(params)}
    check_layer_patterns("train.freeze", patterns, list(names.values()))
    labels = {
        path: "frozen" if matches_layer(name, patterns) else "trained"
        for path, name in names.items()
    }
    if "trained" not in labels.values():
        raise UserError("train.freeze leaves nothing to train")
    return replace_leaves(params, labels)
