"""How a batch is divided: over devices, into micro-batches, BatchNorm's groups, and pairs."""

from collections.abc import Callable
from dataclasses import dataclass

from squeeze_jax.errors import UserError
from squeeze_jax.train.config import MAX_BATCH_SIZE, TrainConfig


@dataclass(frozen=True)
class BatchDivision:
    """One device's part of a batch.

    Attributes:
      images: of the batch that a device has, its share.
      group_images: of a group of BatchNorm that a device has; 1 in a net without BatchNorm.
      group_devices: how many devices a group spans.
    """

    images: int
    group_images: int
    group_devices: int


def divide_batch(recipe: TrainConfig, num_devices: int, has_batch_norm: bool) -> BatchDivision:
    """Returns how the recipe's batch is divided.

    Raises:
      UserError: it is not whole shares of devices, micro-batches, groups and pairs.
    """
    divide = _divider(recipe, num_devices, has_batch_norm)
    batch, parts = recipe.batch_size, recipe.grad_accum_steps
    if division := divide(batch):
        return division
    if has_batch_norm and not recipe.bn_group_size and parts > 1:
        raise UserError(
            "train.bn_group_size 0, BatchNorm over the whole batch, does not go with "
            f"train.grad_accum_steps {parts}; set one of them"
        )
    lower = next(filter(divide, range(batch, 0, -1)), None)
    upper = next(filter(divide, range(batch, MAX_BATCH_SIZE + 1)), None)
    sizes = [str(size) for size in (lower, upper) if size]
    raise UserError(
        f"train.batch_size {batch} cannot be divided over {num_devices} device(s)"
        + (f" x train.grad_accum_steps {parts}" if parts else "")
        + (f" in groups of train.bn_group_size {recipe.bn_group_size}" if has_batch_norm else "")
        + (" with pairs for train.mixup or train.cutmix" if _has_pairs(recipe) else "")
        + (
            f"; the nearest that can: {' and '.join(sizes)}"
            if sizes
            else "; set a smaller train.bn_group_size or fewer train.grad_accum_steps"
        )
    )


def fitting_batch_size(
    recipe: TrainConfig, num_train: int, num_devices: int, has_batch_norm: bool
) -> int:
    """Returns the batch size, or the largest that a smaller training set has.

    It can be divided over devices, micro-batches, groups and pairs; where the set is too small even
    for that, the batch size stays.
    """
    if recipe.batch_size <= num_train:
        return recipe.batch_size
    divide = _divider(recipe, num_devices, has_batch_norm)
    return next(filter(divide, range(num_train, 0, -1)), recipe.batch_size)


def _divider(
    recipe: TrainConfig, num_devices: int, has_batch_norm: bool
) -> Callable[[int], BatchDivision | None]:
    """Returns a function of a batch size to its division, None where there is none."""
    parts = max(1, recipe.grad_accum_steps)

    def divide(batch: int) -> BatchDivision | None:
        # A batch smaller than a group is one group.
        group = min(recipe.bn_group_size or batch, batch) if has_batch_norm else 1
        micro_batch, rest = divmod(batch, num_devices * parts)
        if rest or batch % group:
            return None
        if _has_pairs(recipe) and batch // num_devices % 2:
            return None
        if micro_batch % group == 0:
            return BatchDivision(batch // num_devices, group, 1)
        if parts == 1 and group % micro_batch == 0:
            return BatchDivision(micro_batch, micro_batch, group // micro_batch)
        return None

    return divide


def _has_pairs(recipe: TrainConfig) -> bool:
    """Returns whether images are mixed in pairs, each of which lies on one device."""
    return bool(recipe.mixup or recipe.cutmix)
