"""A teacher's logits, remembered: it sees a fixed number of augmented views of each image once.

As FKD stores the logits of crops (Shen and Xing 2021, arXiv 2112.01528), but while the net learns:
the first `train.teacher_views` epochs ask the teacher, and later ones look its answers up.
"""

import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from squeeze_jax.data import Data
from squeeze_jax.errors import UserError
from squeeze_jax.train.config import TrainConfig
from squeeze_jax.train.keys import fold_in_each


def check_views(config: TrainConfig, data: Data) -> None:
    """Rejects views that nothing could be remembered of; trials without a teacher have none.

    Raises:
      UserError: images are streamed, or mixed.
    """
    if not (config.teacher and config.teacher_views):
        return
    if not data.train_device_data:
        raise UserError(
            "train.teacher_views needs the training images in memory, and they are streamed; set "
            "data.placement=memory, or train.teacher_views=0"
        )
    for key in ("mixup", "cutmix"):
        if getattr(config, key):
            raise UserError(
                f"train.teacher_views remembers single images, and train.{key} mixes them; set one "
                "of them to 0"
            )


def unseen(config: TrainConfig, data: Data) -> Any:
    """Returns the memory before the first step, NaN [views, N, classes]; () without views."""
    if not (config.teacher and config.teacher_views):
        return ()
    shape = (config.teacher_views, data.num_train, data.num_classes)
    return jnp.full(shape, jnp.nan, jnp.float32)


def share_asked(config: TrainConfig, steps_per_epoch: int, steps: int) -> float:
    """Returns the share of a trial's steps in which the teacher is asked."""
    if not config.teacher_views:
        return 1.0
    return min(1.0, config.teacher_views * steps_per_epoch / max(1, steps))


def choose_views(memory: jax.Array, epoch: jax.Array, index: jax.Array) -> jax.Array:
    """Returns which view of each image an epoch sees, int32 [b].

    They take turns. Where the teacher has not seen the view whose turn it is, as an epoch leaves
    out the images that fill no batch, the next view that it has seen takes its place, but for the
    first epochs, in which all are new.

    Args:
      memory: of `unseen`, or of an earlier step.
      epoch: int32 [].
      index: int32 [b], the images' places in the training set.
    """
    count = memory.shape[0]
    order = (epoch + jnp.arange(count)) % count
    known = ~jnp.isnan(memory[order][:, index, 0])
    return jnp.where(epoch < count, order[0], order[jnp.argmax(known, axis=0)])


def view_keys(seed: jax.Array, view: jax.Array, index: jax.Array) -> jax.Array:
    """Returns the keys of the images' augmentation, [b], each of its view and place in the set."""
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(b"teacher_views"))
    return jax.vmap(jax.random.fold_in)(fold_in_each(key, view), index)


def recall(
    memory: jax.Array, view: jax.Array, index: jax.Array, ask: Callable[[], jax.Array], axis: str
) -> tuple[jax.Array, jax.Array]:
    """Returns the teacher's logits of a device's share of a batch, and the memory with them.

    The teacher is asked for the whole share where it has not seen one of its images.

    Args:
      memory: of `unseen`, or of an earlier step.
      view: int32 [b].
      index: int32 [b], the images' places in the training set.
      ask: returns the teacher's logits of the share, float32 [b, classes].
      axis: of the devices, which remember the same.
    """
    known = memory[view, index]
    logits = lax.cond(jnp.any(jnp.isnan(known)), ask, lambda: known)
    views, indices, values = lax.all_gather((view, index, logits), axis, tiled=True)
    return logits, memory.at[views, indices].set(values)
