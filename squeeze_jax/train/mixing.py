"""mixup and cutmix: pairs of neighbouring images in a batch are mixed, and so are their labels.

The order of an epoch is random, so that a neighbour is a random partner. A pair lies on one device,
however many there are; see `batches.divide_batch`.
"""

import zlib

import jax
import jax.numpy as jnp

from squeeze_jax.data.boxes import Box, inside
from squeeze_jax.network import Tree
from squeeze_jax.train.config import TrainConfig
from squeeze_jax.train.keys import fold_in_each


def mix(batch: Tree, key: jax.Array, config: TrainConfig) -> Tree:
    """Returns a device's share of a batch with images 2k and 2k + 1 mixed, if that is on.

    Both images of a pair get the same fraction of each other. Where mixup and cutmix are on, each
    pair draws one of them.

    Args:
      batch: of `Pipeline.fetch`, of an even number of images.
      key: of the step; a pair's draws depend on it and on the pair's place in the global batch.
      config: mixup, cutmix.

    Returns:
      The batch with "second_label" int32 [b], the partner's label, and "second_weight" float32 [b],
      its share of the target; the own label has the rest.
    """
    if not (config.mixup or config.cutmix):
        return batch
    pairs = jax.tree.map(lambda x: x.reshape(-1, 2, *x.shape[1:]), batch)
    key = jax.random.fold_in(key, zlib.crc32(b"mix"))
    keys = fold_in_each(key, pairs["position"][:, 0] // 2)
    height, width = batch["image"].shape[1:3]
    masks, weights = jax.vmap(lambda key: _draw(key, height, width, config))(keys)
    masks = masks[:, None, :, :, None]
    partners = {name: pairs[name][:, ::-1] for name in ("image", "label")}
    images = (1 - masks) * pairs["image"] + masks * partners["image"]
    return batch | {
        "image": images.reshape(batch["image"].shape),
        "second_label": partners["label"].reshape(-1),
        "second_weight": jnp.repeat(weights, 2),
    }


def _draw(
    key: jax.Array, height: int, width: int, config: TrainConfig
) -> tuple[jax.Array, jax.Array]:
    """Draws the partner's share of each pixel, float32 [height, width], and of the target, []."""
    choice_key, mixup_key, cutmix_key = jax.random.split(key, 3)
    if not config.cutmix:
        return _draw_mixup(mixup_key, height, width, config.mixup)
    if not config.mixup:
        return _draw_cutmix(cutmix_key, height, width, config.cutmix)
    # As often as not, which is timm's default.
    is_mixup = jax.random.bernoulli(choice_key)
    return jax.tree.map(
        lambda a, b: jnp.where(is_mixup, a, b),
        _draw_mixup(mixup_key, height, width, config.mixup),
        _draw_cutmix(cutmix_key, height, width, config.cutmix),
    )


def _draw_mixup(
    key: jax.Array, height: int, width: int, alpha: float
) -> tuple[jax.Array, jax.Array]:
    """Draws mixup's share for `_draw`, Beta(alpha, alpha) (Zhang et al. 2017, 1710.09412)."""
    weight = jax.random.beta(key, alpha, alpha)
    return jnp.full((height, width), weight), weight


def _draw_cutmix(
    key: jax.Array, height: int, width: int, alpha: float
) -> tuple[jax.Array, jax.Array]:
    """Draws cutmix's box for `_draw` (Yun et al. 2019, arXiv 1905.04899).

    Its sides are sqrt(Beta(alpha, alpha)) of the image's and its centre is any pixel, so that a
    part may lie outside. The share of the target is the area inside.
    """
    area_key, place_key = jax.random.split(key)
    side = jnp.sqrt(jax.random.beta(area_key, alpha, alpha))
    size = jnp.asarray([height, width])
    half = jnp.floor(side * size).astype(jnp.int32) // 2
    centre = jax.random.randint(place_key, (2,), 0, size)
    pasted = inside(Box(*(centre - half), *(2 * half)), (height, width))
    return pasted.astype(jnp.float32), jnp.sum(pasted) / (height * width)
