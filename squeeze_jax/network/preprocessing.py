"""Turns a decoded image into a network's input.

`resize` runs on the host; the rest can be traced inside a compiled step.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageOps


@dataclass(frozen=True)
class Preprocessing:
    """Describes background, resize, centre crop, channel order and (x - mean) / std of an image."""

    image_size: int  # pixels, the crop
    resize: int  # pixels, before the crop
    resize_mode: str  # "squash" or "short", see `resize`
    channel_order: str  # "rgb" or "bgr"
    mean: tuple[float, ...]  # of 0..255, in channel order
    std: tuple[float, ...]
    background: tuple[int, ...] = (255, 255, 255)  # RGB, under transparent pixels

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> "Preprocessing":
        """Returns the preprocessing in a config's data section, or any mapping with its keys.

        The background is white where the mapping does not name it.
        """
        metadata = {"background": cls.background, **metadata}
        values: dict[str, Any] = {field.name: metadata[field.name] for field in fields(cls)}
        values.update({key: tuple(values[key]) for key in ("mean", "std", "background")})
        return cls(**values)

    def to_metadata(self) -> dict[str, Any]:
        """Returns what `from_metadata` reads, ready for JSON; a white background is not named."""
        values = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}
        if self.background == type(self).background:
            del values["background"]
        return values


def resize(image: np.ndarray, size: int, mode: str) -> np.ndarray:
    """Resizes uint8 [H, W, 3] to [size, size, 3], bilinear and antialiased.

    Args:
      image: a decoded image.
      size: pixels, height and width of the result.
      mode: "squash" ignores the aspect ratio, as Caffe's ImageNet databases do; "short" keeps it
        and takes the centre square.
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
    """Maps uint8 RGB [N, H, W, 3] to (x - mean) / std in float32.

    Args:
      images: values of 0..255.
      mean: of 0..255, in `channel_order`.
      std: of 0..255, in `channel_order`.
      channel_order: order of the result, "rgb" or "bgr".
    """
    images = images.astype(jnp.float32)
    if channel_order == "bgr":
        images = jnp.flip(images, axis=-1)
    per_channel = (1, 1, 1, 3)
    return (images - jnp.asarray(mean, jnp.float32).reshape(per_channel)) / jnp.asarray(
        std, jnp.float32
    ).reshape(per_channel)


def centre_crop(images: jax.Array, size: int) -> jax.Array:
    """Crops [N, R, R, 3] to its centre, [N, size, size, 3]."""
    start = (images.shape[1] - size) // 2
    return images[:, start : start + size, start : start + size]


def preprocess(image: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Returns an image as the net sees it in evaluation: float32 [image_size, image_size, 3].

    Args:
      image: decoded, uint8 RGB [H, W, 3].
      preprocessing: what the net expects.
    """
    resized = resize(image, preprocessing.resize, preprocessing.resize_mode)[None]
    normalised = normalise(
        jnp.asarray(resized), preprocessing.mean, preprocessing.std, preprocessing.channel_order
    )
    return np.asarray(centre_crop(normalised, preprocessing.image_size)[0])
