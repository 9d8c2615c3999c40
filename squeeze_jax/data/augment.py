"""Random crops and mirror images, inside the compiled step."""

import jax
import jax.numpy as jnp


def augment(images: jax.Array, keys: jax.Array, size: int, pad: int, mirror: bool) -> jax.Array:
    """Crops each image at random after padding it by `pad` zeros (the mean pixel, once normalised), then mirrors every other one.

    Args:
        images: normalised, [b, R, R, 3].
        keys: one key an image, [b]; an image's augmentation depends on its own key alone.
        size: of the crop.

    Returns:
        [b, size, size, 3].
    """
    if pad:
        images = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    room = images.shape[1] - size
    if not room and not mirror:
        return images

    def one(image: jax.Array, key: jax.Array) -> jax.Array:
        crop_key, mirror_key = jax.random.split(key)
        if room:
            top, left = jax.random.randint(crop_key, (2,), 0, room + 1)
            image = jax.lax.dynamic_slice(image, (top, left, jnp.zeros_like(top)), (size, size, 3))
        if mirror:
            image = jnp.where(jax.random.bernoulli(mirror_key), jnp.flip(image, axis=1), image)
        return image

    return jax.vmap(one)(images, keys)
