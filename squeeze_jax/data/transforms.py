"""From a decoded image to a network's input: `resize` on the host, the rest traceable inside a compiled step."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageOps


def resize(image: np.ndarray, size: int, mode: str) -> np.ndarray:
    """Resizes uint8 [H, W, 3] to [size, size, 3], bilinear and antialiased.

    Args:
        mode: "squash" ignores the aspect ratio, as Caffe's ImageNet databases do; "short" keeps it and takes the centre square.
    """
    if image.shape[:2] == (size, size):
        return image
    picture = Image.fromarray(image)
    if mode == "short":
        return np.asarray(ImageOps.fit(picture, (size, size), Image.Resampling.BILINEAR))
    return np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR))


def normalise(images: jax.Array, mean: tuple[float, ...], std: tuple[float, ...], channel_order: str) -> jax.Array:
    """uint8 RGB [b, H, W, 3] -> float32 (x - mean) / std, with x, mean and std in 0..255 and in `channel_order` ("rgb" or "bgr")."""
    images = images.astype(jnp.float32)
    if channel_order == "bgr":
        images = jnp.flip(images, axis=-1)
    per_channel = (1, 1, 1, 3)
    return (images - jnp.asarray(mean, jnp.float32).reshape(per_channel)) / jnp.asarray(std, jnp.float32).reshape(per_channel)


def centre_crop(images: jax.Array, size: int) -> jax.Array:
    """[b, R, R, 3] -> [b, size, size, 3]."""
    start = (images.shape[1] - size) // 2
    return images[:, start : start + size, start : start + size]


def prepare(image: np.ndarray, preprocessing: Any) -> np.ndarray:
    """One decoded image as the net sees it in evaluation: uint8 RGB [H, W, 3] -> float32 [image_size, image_size, 3].

    Args:
        preprocessing: anything with resize, resize_mode, image_size, channel_order, mean and std.
    """
    resized = resize(image, preprocessing.resize, preprocessing.resize_mode)[None]
    normalised = normalise(jnp.asarray(resized), preprocessing.mean, preprocessing.std, preprocessing.channel_order)
    return np.asarray(centre_crop(normalised, preprocessing.image_size)[0])


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
