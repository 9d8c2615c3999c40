"""From a decoded image to a network's input: `resize` on the host, the rest traceable inside a compiled step."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageOps


@dataclass(frozen=True)
class Preprocessing:
    """From a decoded RGB image to the net's input: resize, centre crop, channel order, (x - mean) / std."""

    image_size: int  # pixels, the crop
    resize: int  # pixels, before the crop
    resize_mode: str  # "squash" or "short", see `resize`
    channel_order: str  # "rgb" or "bgr"
    mean: tuple[float, ...]  # of 0..255, in channel order
    std: tuple[float, ...]

    @classmethod
    def from_metadata(cls, record: Mapping[str, Any]) -> "Preprocessing":
        """From a config's data section, or anything else with these keys."""
        values = {field.name: record[field.name] for field in fields(cls)}
        return cls(**values | {"mean": tuple(values["mean"]), "std": tuple(values["std"])})


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


def normalise(
    images: jax.Array, mean: tuple[float, ...], std: tuple[float, ...], channel_order: str
) -> jax.Array:
    """uint8 RGB [b, H, W, 3] -> float32 (x - mean) / std, with x, mean and std in 0..255 and in `channel_order` ("rgb" or "bgr")."""
    images = images.astype(jnp.float32)
    if channel_order == "bgr":
        images = jnp.flip(images, axis=-1)
    per_channel = (1, 1, 1, 3)
    return (images - jnp.asarray(mean, jnp.float32).reshape(per_channel)) / jnp.asarray(
        std, jnp.float32
    ).reshape(per_channel)


def centre_crop(images: jax.Array, size: int) -> jax.Array:
    """[b, R, R, 3] -> [b, size, size, 3]."""
    start = (images.shape[1] - size) // 2
    return images[:, start : start + size, start : start + size]


def preprocess(image: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """One decoded image as the net sees it in evaluation: uint8 RGB [H, W, 3] -> float32 [image_size, image_size, 3].

    Args:
        preprocessing: anything with resize, resize_mode, image_size, channel_order, mean and std.
    """
    resized = resize(image, preprocessing.resize, preprocessing.resize_mode)[None]
    normalised = normalise(
        jnp.asarray(resized), preprocessing.mean, preprocessing.std, preprocessing.channel_order
    )
    return np.asarray(centre_crop(normalised, preprocessing.image_size)[0])
