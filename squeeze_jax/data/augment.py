"""Random changes of training images, inside the compiled step.

An augmentation is a function of one normalised image [H, W, 3], its own key, and the data config.
"""

import zlib
from collections.abc import Callable

import jax
import jax.numpy as jnp

from squeeze_jax.data.config import DataConfig

Augmentation = Callable[[jax.Array, jax.Array, DataConfig], jax.Array]


def random_crop(image: jax.Array, key: jax.Array, config: DataConfig) -> jax.Array:
    """Returns a crop [image_size, image_size, 3] of the image padded by `config.pad`.

    The padding is zeros, the mean pixel of a normalised image.
    """
    size = config.image_size
    image = jnp.pad(image, ((config.pad, config.pad), (config.pad, config.pad), (0, 0)))
    top, left = jax.random.randint(key, (2,), 0, image.shape[0] - size + 1)
    return jax.lax.dynamic_slice(image, (top, left, jnp.zeros_like(top)), (size, size, 3))


def mirror(image: jax.Array, key: jax.Array, config: DataConfig) -> jax.Array:
    """Returns the image, flipped from left to right in half of all cases."""
    del config
    return jnp.where(jax.random.bernoulli(key), jnp.flip(image, axis=1), image)


# By name. The first two follow from pad, image_size and mirror; `config.data.augment` names others.
AUGMENTATIONS: dict[str, Augmentation] = {"random_crop": random_crop, "mirror": mirror}


def augment(images: jax.Array, keys: jax.Array, config: DataConfig) -> jax.Array:
    """Returns each image after all augmentations that the config asks for.

    Args:
      images: normalised, [b, R, R, 3].
      keys: one key an image, [b]; an image's augmentation depends on its own key alone.
      config: pad, image_size, mirror, augment.

    Returns:
      [b, image_size, image_size, 3].
    """
    crops = config.pad > 0 or images.shape[1] > config.image_size
    names = [
        *(["random_crop"] if crops else []),
        *(["mirror"] if config.mirror else []),
        *config.augment,
    ]
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
