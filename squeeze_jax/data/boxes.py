"""Draws random boxes, and crops an image to one: inside the compiled step, or in a stream's worker.

A box is drawn from uniform numbers, which JAX or NumPy has drawn, so that there is one definition.
"""

import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from squeeze_jax.data.config import DataConfig
from squeeze_jax.network.preprocessing import height_width

RANDOM_RESIZED_CROP = "random_resized_crop"
ATTEMPTS = 10
UNIFORMS = 2 * ATTEMPTS + 2  # that a box is drawn from


class Box(NamedTuple):
    """A rectangle of whole pixels; NumPy's scalars, or traced ones."""

    top: Any
    left: Any
    height: Any
    width: Any


def draw_box(
    uniforms: Any,
    image_size: tuple[int, ...],
    area: tuple[float, ...],
    ratio: tuple[float, ...],
    xp: Any,
) -> tuple[Box, Any]:
    """Draws a box as torchvision's RandomResizedCrop and RandomErasing do.

    The area is uniform and the ratio of width to height log-uniform. The first of ten boxes that is
    not larger than the image counts, at a uniform place.

    Args:
      uniforms: float32 [UNIFORMS] in [0, 1).
      image_size: height and width of the image, pixels.
      area: least and most, as a fraction of the image's.
      ratio: least and most.
      xp: numpy or jax.numpy, whichever made `uniforms`.

    Returns:
      The box, and whether any of the ten was small enough.
    """
    image_height, image_width = image_size
    areas, ratios, (y, x) = xp.split(uniforms, (ATTEMPTS, 2 * ATTEMPTS))
    areas = image_height * image_width * (area[0] + (area[1] - area[0]) * areas)
    ratios = xp.exp(np.log(ratio[0]) + np.log(ratio[1] / ratio[0]) * ratios)
    widths, heights = xp.round(xp.sqrt(areas * ratios)), xp.round(xp.sqrt(areas / ratios))
    fits = (widths > 0) & (widths <= image_width) & (heights > 0) & (heights <= image_height)
    first = xp.argmax(fits)
    height, width = heights[first], widths[first]
    top = xp.floor(y * (image_height - height + 1))
    left = xp.floor(x * (image_width - width + 1))
    return Box(top, left, height, width), xp.any(fits)


def draw_crop(uniforms: Any, image_size: tuple[int, ...], config: DataConfig, xp: Any) -> Box:
    """Draws the box of a random resized crop; see `draw_box`.

    Where no box is small enough it is the largest at the image's centre, of the ratio nearest to
    the image's.
    """
    drawn, fits = draw_box(uniforms, image_size, config.crop_area, config.crop_ratio, xp)
    image_height, image_width = image_size
    least, most = config.crop_ratio
    ratio = min(max(image_width / image_height, least), most)
    height = min(image_height, max(1, round(image_width / ratio)))
    width = min(image_width, max(1, round(image_height * ratio)))
    central = Box((image_height - height) // 2, (image_width - width) // 2, height, width)
    return Box(*(xp.where(fits, *pair) for pair in zip(drawn, central, strict=True)))


def random_resized_crop(image: jax.Array, key: jax.Array, config: DataConfig) -> jax.Array:
    """Returns a random part of the image, resized to `config.image_size`.

    Its area is `crop_area` of the image's and its ratio of width to height `crop_ratio`
    (Szegedy et al. 2014, arXiv 1409.4842; torchvision's definition). Resizing is bilinear and
    antialiased; beyond the crop's edges it sees the image, as Pillow's `resize(box=…)` does.
    """
    box = draw_crop(jax.random.uniform(key, (UNIFORMS,)), image.shape[:2], config, jnp)
    size = height_width(config.image_size)
    scale = jnp.asarray(size, jnp.float32) / jnp.stack([box.height, box.width])
    return jax.image.scale_and_translate(
        image,
        (*size, image.shape[2]),
        (0, 1),
        scale,
        -scale * jnp.stack([box.top, box.left]),
        "linear",
    )


def random_erasing(image: jax.Array, key: jax.Array, config: DataConfig) -> jax.Array:
    """Returns the image, with a random box erased in a fraction `erase_probability` of all cases.

    The area of the box is `erase_area` of the image's and its ratio of width to height
    `erase_ratio` (Zhong et al. 2017, arXiv 1708.04896). It becomes the mean pixel, and its ratio is
    log-uniform, as in torchvision.
    """
    probability_key, box_key = jax.random.split(key)
    box, fits = draw_box(
        jax.random.uniform(box_key, (UNIFORMS,)),
        image.shape[:2],
        config.erase_area,
        config.erase_ratio,
        jnp,
    )
    erased = jax.random.bernoulli(probability_key, config.erase_probability) & fits
    return jnp.where((erased & inside(box, image.shape[:2]))[..., None], 0, image)


def inside(box: Box, image_size: tuple[int, ...]) -> jax.Array:
    """Returns which pixels of an image lie in a box, bool [height, width]."""
    y, x = jnp.mgrid[: image_size[0], : image_size[1]]
    return (
        (y >= box.top) & (y < box.top + box.height) & (x >= box.left) & (x < box.left + box.width)
    )


def crop_decoded(
    image: np.ndarray, seed: int, step: int, position: int, config: DataConfig
) -> np.ndarray:
    """Does what `random_resized_crop` does, to a decoded image on the host.

    Args:
      image: uint8 [H, W, 3].
      seed: of the training.
      step: of the optimizer.
      position: of the image in the batch of all devices.
      config: crop_area, crop_ratio, image_size.

    Returns:
      uint8 [S, S', 3], with S and S' of image_size.
    """
    # The counter's lowest word grows with the draws.
    bits = np.random.Philox(
        key=[seed, zlib.crc32(RANDOM_RESIZED_CROP.encode())], counter=[0, 0, position, step]
    )
    uniforms = np.random.Generator(bits).random(UNIFORMS, np.float32)
    top, left, height, width = draw_crop(uniforms, image.shape[:2], config, np)
    new_height, new_width = height_width(config.image_size)
    return np.asarray(
        Image.fromarray(image).resize(
            (new_width, new_height),
            Image.Resampling.BILINEAR,
            box=(left, top, left + width, top + height),
        )
    )
