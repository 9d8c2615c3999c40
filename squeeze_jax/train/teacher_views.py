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


def check_views(config: TrainConfig, data: Data) -> None:
    """Rejects views that nothing would be remembered of.

    Raises:
      UserError: no teacher is set, images are streamed, or images are mixed.
    """
    if not config.teacher_views:
        return
    if not config.teacher:
        raise UserError("train.teacher_views are of a teacher; set train.teacher, or leave them 0")
    if not data.train_device_data:
        raise UserError(
            "train.teacher_views needs the training images in memory, and they are streamed; set "
            "data.placement=memory, or leave it 0"
        )
    for key in ("mixup", "cutmix"):
        if getattr(config, key):
            raise UserError(
                f"train.teacher_views remembers single images, and train.{key} mixes them; set one "
                "of them to 0"
            )


def unseen(config: TrainConfig, data: Data) -> Any:
    """Returns the memory before the first step, NaN [views, N, classes]; () without views."""
    if not config.teacher_views:
        return ()
    return jnp.full((config.teacher_views, data.num_train, data.num_classes), jnp.nan, jnp.float32)


def view_key(seed: jax.Array, view: jax.Array) -> jax.Array:
    """Returns the key of a view, from which and its place in the set an image's key is drawn."""
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(b"teacher_views"))
    return jax.random.fold_in(key, view)


def recall(
    memory: jax.Array, view: jax.Array, index: jax.Array, ask: Callable[[], jax.Array], axis: str
) -> tuple[jax.Array, jax.Array]:
    """Returns the teacher's logits of a device's share of a batch, and the memory with them.

    The teacher is asked for the whole share where it has not seen an image of it under this view:
    an epoch leaves out the images that fill no batch.

    Args:
      memory: of `unseen`, or of an earlier step.
      view: int32 [].
      index: int32 [b], the images' places in the training set.
      ask: returns the teacher's logits of the share, float32 [b, classes].
      axis: of the devices, which remember the same.
    """
    known = memory[view, index]
    logits = lax.cond(jnp.any(jnp.isnan(known)), ask, lambda: known)
    everywhere = lax.all_gather((index, logits), axis, tiled=True)
    return logits, memory.at[view, everywhere[0]].set(everywhere[1])
