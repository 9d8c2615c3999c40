"""Random changes of training images, inside the compiled step.

An augmentation is a function of one normalised image [H, W, C], its own key, and the data config.
"""

import zlib
from collections.abc import Callable

import jax
import jax.numpy as jnp

from squeeze_jax.data.boxes import RANDOM_RESIZED_CROP, random_erasing, random_resized_crop
from squeeze_jax.data.color import color_jitter
from squeeze_jax.data.config import DataConfig
from squeeze_jax.data.trivial_augment import trivial_augment
from squeeze_jax.network.preprocessing import height_width

Augmentation = Callable[[jax.Array, jax.Array, DataConfig], jax.Array]


def random_crop(image: jax.Array, key: jax.Array, config: DataConfig) -> jax.Array:
    """Returns a crop of `config.image_size` of the image padded by `config.pad`.

    The padding is zeros, the mean pixel of a normalised image.
    """
    height, width = height_width(config.image_size)
    image = jnp.pad(image, ((config.pad, config.pad), (config.pad, config.pad), (0, 0)))
    places = jnp.asarray((image.shape[0] - height + 1, image.shape[1] - width + 1))
    top, left = jax.random.randint(key, (2,), 0, places)
    shape = (height, width, image.shape[2])
    return jax.lax.dynamic_slice(image, (top, left, jnp.zeros_like(top)), shape)


def mirror(image: jax.Array, key: jax.Array, config: DataConfig) -> jax.Array:
    """Returns the image, flipped from left to right in half of all cases."""
    del config
    return jnp.where(jax.random.bernoulli(key), jnp.flip(image, axis=1), image)


# By name. `config.data.augment` names them; the first two also follow from pad, image_size and
# mirror.
AUGMENTATIONS: dict[str, Augmentation] = {
    "random_crop": random_crop,
    "mirror": mirror,
    RANDOM_RESIZED_CROP: random_resized_crop,
    "color_jitter": color_jitter,
    "trivial_augment": trivial_augment,
    "random_erasing": random_erasing,
}


def augmentation_names(config: DataConfig) -> list[str]:
    """Returns the AUGMENTATIONS that a config asks for, in their order: a crop, a flip, others."""
    crops = config.pad > 0 or height_width(config.resize) != height_width(config.image_size)
    others = list(config.augment)
    if RANDOM_RESIZED_CROP in others:
        others.remove(RANDOM_RESIZED_CROP)
        first = [RANDOM_RESIZED_CROP]
    else:
        first = ["random_crop"] if crops else []
    return [*first, *(["mirror"] if config.mirror else []), *others]


def augment(
    images: jax.Array, keys: jax.Array, config: DataConfig, is_cropped: bool = False
) -> jax.Array:
    """Returns each image after all augmentations that the config asks for.

    Args:
      images: normalised, [b, R, R', C].
      keys: one key an image, [b]; an image's augmentation depends on its own key alone.
      config: pad, image_size, mirror, augment, and the augmentations' own keys.
      is_cropped: whether the images are random resized crops already; see `crop_decoded`.

    Returns:
      [b, S, S', C], with S and S' of image_size.
    """
    names = augmentation_names(config)
    if is_cropped:
        names.remove(RANDOM_RESIZED_CROP)
    if not names:
        return images

    def augment_one(image: jax.Array, key: jax.Array) -> jax.Array:
        crop_key, mirror_key = jax.random.split(key)
        known = {"random_crop": crop_key, "mirror": mirror_key}
        for name in names:
            own = known.get(name)
            if own is None:  # a key of the name, whatever else is on
                own = jax.random.fold_in(key, zlib.crc32(name.encode()))
            image = AUGMENTATIONS[name](image, own, config)
        return image

    return jax.vmap(augment_one)(images, keys)
