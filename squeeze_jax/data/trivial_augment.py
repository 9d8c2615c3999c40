"""TrivialAugment: one random operation of random strength on each image."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from squeeze_jax.data import color
from squeeze_jax.data.config import DataConfig

LEVELS = 31  # of strength, from 0 to 1

# Strength times sign, and the image's height and width -> [2, 3], see `warp`.
WARPS: Mapping[str, Callable[[jax.Array, int, int], jax.Array]] = {
    "identity": lambda x, height, width: _matrix(1, 0, 0, 0, 1, 0),
    "shear_x": lambda x, height, width: _matrix(1, 0.99 * x, 0, 0, 1, 0),
    "shear_y": lambda x, height, width: _matrix(1, 0, 0, 0.99 * x, 1, 0),
    "translate_x": lambda x, height, width: _matrix(1, 0, jnp.trunc(32 * x), 0, 1, 0),
    "translate_y": lambda x, height, width: _matrix(1, 0, 0, 0, 1, jnp.trunc(32 * x)),
    "rotate": lambda x, height, width: _rotation(math.radians(135) * x, height, width),
}
# RGB or grey pixels in 0..255, strength, sign -> pixels.
CHANGES: Mapping[str, Callable[[jax.Array, jax.Array, jax.Array], jax.Array]] = {
    "brightness": lambda pixels, x, sign: color.brightness(pixels, 1 + 0.99 * x * sign),
    "saturation": lambda pixels, x, sign: color.saturation(pixels, 1 + 0.99 * x * sign),
    "contrast": lambda pixels, x, sign: color.contrast(pixels, 1 + 0.99 * x * sign),
    "sharpness": lambda pixels, x, sign: color.sharpness(pixels, 1 + 0.99 * x * sign),
    "posterize": lambda pixels, x, sign: color.posterize(pixels, 8 - _rounded(6 * x)),
    "solarize": lambda pixels, x, sign: color.solarize(pixels, 255 * (1 - x)),
    "autocontrast": lambda pixels, x, sign: color.autocontrast(pixels),
    "equalize": lambda pixels, x, sign: color.equalize(pixels),
}
OPERATIONS = (*WARPS, *CHANGES)


def trivial_augment(image: jax.Array, key: jax.Array, config: DataConfig) -> jax.Array:
    """Returns the image after one of OPERATIONS, at a random strength.

    This is TrivialAugment Wide (Müller & Hutter 2021, arXiv 2103.10158), with torchvision's
    strengths and nearest pixels. Beyond the image's edges a warp shows the mean pixel, as
    `random_crop` does, not black.
    """
    operation_key, strength_key, sign_key = jax.random.split(key, 3)
    operation = jax.random.randint(operation_key, (), 0, len(OPERATIONS))
    strength = jax.random.randint(strength_key, (), 0, LEVELS) / (LEVELS - 1)
    sign = jax.random.rademacher(sign_key, (), jnp.float32)
    apply = _one_by_one_on_cpu(functools.partial(apply_operation, config=config))
    return apply(image, operation, strength, sign)


def apply_operation(
    image: jax.Array, operation: jax.Array, strength: jax.Array, sign: jax.Array, config: DataConfig
) -> jax.Array:
    """Returns a normalised image after an operation.

    Args:
      image: [H, W, C].
      operation: place in OPERATIONS.
      strength: in [0, 1]; 0 changes nothing but by autocontrast, equalize, and white by solarize.
      sign: 1.0 or -1.0, the direction of those that have one.
      config: of the normalisation.
    """
    height, width, _ = image.shape

    def geometric(image: jax.Array) -> jax.Array:
        # One warp, since vmap computes every branch.
        choices = list(WARPS.values())
        return warp(image, lax.switch(operation, choices, strength * sign, height, width))

    def photometric(image: jax.Array) -> jax.Array:
        def change(pixels: jax.Array) -> jax.Array:
            choices = list(CHANGES.values())
            return lax.switch(operation - len(WARPS), choices, jnp.round(pixels), strength, sign)

        return color.on_pixels(change, image, config)

    return lax.cond(operation < len(WARPS), geometric, photometric, image)


def _one_by_one_on_cpu(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Returns the function, which vmap applies to one example after another on a CPU.

    There a branch that is not taken costs nothing, whereas vmap computes them all: a tenth of the
    time. An accelerator is quicker with all of a batch at once.
    """
    batched = jax.custom_batching.custom_vmap(function)

    @batched.def_vmap
    def rule(size: int, is_batched: list[bool], *arguments: Any) -> tuple[jax.Array, bool]:
        arguments = tuple(
            x if has_axis else jnp.broadcast_to(x, (size, *jnp.shape(x)))
            for x, has_axis in zip(arguments, is_batched, strict=True)
        )
        result = lax.platform_dependent(
            *arguments,
            cpu=lambda *xs: lax.map(lambda x: function(*x), xs),
            default=jax.vmap(function),
        )
        return result, True

    return batched


def warp(image: jax.Array, matrix: jax.Array) -> jax.Array:
    """Returns an image of whose pixel (x, y) the source is matrix [2, 3] times (x, y, 1).

    Coordinates are those of Pillow: pixels' centres lie at half-integers, the nearest pixel
    counts. Beyond the edges is 0, the mean pixel.
    """
    height, width, channels = image.shape
    y, x = (axis + 0.5 for axis in jnp.mgrid[:height, :width])
    column, row = (jnp.floor(a * x + b * y + c).astype(jnp.int32) for a, b, c in matrix)
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    pixels = image.reshape(-1, channels)[jnp.where(inside, row * width + column, 0)]
    return jnp.where(inside[..., None], pixels, 0)


def _rounded(value: jax.Array) -> jax.Array:
    return jnp.round(value).astype(jnp.int32)


def _matrix(*entries: jax.Array | float) -> jax.Array:
    return jnp.stack([jnp.asarray(entry, jnp.float32) for entry in entries]).reshape(2, 3)


def _rotation(angle: jax.Array, height: int, width: int) -> jax.Array:
    """Returns the matrix of a rotation about the image's centre, for `warp`."""
    cos, sin, x, y = jnp.cos(angle), jnp.sin(angle), width / 2, height / 2
    return _matrix(cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y)
