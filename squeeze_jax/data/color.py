"""Changes of colour and sharpness, of an image's RGB or grey pixels in 0..255."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from squeeze_jax.data.config import DataConfig
from squeeze_jax.network import preprocessing
from squeeze_jax.network.preprocessing import LUMA

# Every order of the three changes of `color_jitter`.
_ORDERS = np.array([(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])


def on_pixels(
    change: Callable[[jax.Array], jax.Array], image: jax.Array, config: DataConfig
) -> jax.Array:
    """Returns a normalised image [H, W, C] after a change of its pixels in 0..255."""
    scale = config.mean, config.std, config.channel_order
    pixels = preprocessing.denormalise(image[None], *scale)[0]
    return preprocessing.normalise(change(pixels)[None], *scale)[0]


def color_jitter(image: jax.Array, key: jax.Array, config: DataConfig) -> jax.Array:
    """Returns the image with brightness, contrast and saturation changed, in random order.

    Each factor is uniform from 1 - x to 1 + x, with `jitter_brightness`, `jitter_contrast` and
    `jitter_saturation` as x. This is torchvision's ColorJitter (after Howard 2013,
    arXiv 1312.5402) without hue.
    """
    order_key, factor_key = jax.random.split(key)
    strengths = (config.jitter_brightness, config.jitter_contrast, config.jitter_saturation)
    factors = 1 + jnp.asarray(strengths) * jax.random.uniform(factor_key, (3,), minval=-1.0)
    order = jnp.asarray(_ORDERS)[jax.random.randint(order_key, (), 0, len(_ORDERS))]

    def change(pixels: jax.Array) -> jax.Array:
        for i in range(3):
            pixels = lax.switch(
                order[i], (brightness, contrast, saturation), pixels, factors[order[i]]
            )
        return pixels

    return on_pixels(change, image, config)


def brightness(pixels: jax.Array, factor: jax.Array) -> jax.Array:
    """Returns a blend with black; factors as in `blend`."""
    return blend(jnp.zeros_like(pixels), pixels, factor)


def contrast(pixels: jax.Array, factor: jax.Array) -> jax.Array:
    """Returns a blend with the mean of the grey image."""
    return blend(jnp.broadcast_to(jnp.mean(grey(pixels)), pixels.shape), pixels, factor)


def saturation(pixels: jax.Array, factor: jax.Array) -> jax.Array:
    """Returns a blend with the grey image."""
    return blend(jnp.broadcast_to(grey(pixels), pixels.shape), pixels, factor)


def sharpness(pixels: jax.Array, factor: jax.Array) -> jax.Array:
    """Returns a blend with the smoothed image, whose edge is the image's own (Pillow's SMOOTH)."""
    rows = pixels[:-2] + pixels[1:-1] + pixels[2:]
    centre = pixels[1:-1, 1:-1]
    smooth = (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * centre) / 13
    change = jnp.pad(smooth - centre, ((1, 1), (1, 1), (0, 0)))
    return blend(pixels + change, pixels, factor)


def blend(start: jax.Array, end: jax.Array, factor: jax.Array) -> jax.Array:
    """Returns start + factor * (end - start), clipped to 0..255; Pillow's ImageEnhance.

    Factor 1 changes nothing, and one above 1 extrapolates.
    """
    return jnp.clip(start + factor * (end - start), 0, 255)


def grey(pixels: jax.Array) -> jax.Array:
    """Returns the luma of ITU-R BT.601, [H, W, 1]; pixels of one channel are that already."""
    if pixels.shape[-1] == 1:
        return pixels
    red, green, blue = jnp.split(pixels, 3, axis=-1)
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def posterize(pixels: jax.Array, bits: jax.Array) -> jax.Array:
    """Returns whole pixels of which the highest `bits`, an int, alone are left."""
    values = pixels.astype(jnp.int32)
    return (values >> (8 - bits) << (8 - bits)).astype(pixels.dtype)


def solarize(pixels: jax.Array, threshold: jax.Array) -> jax.Array:
    """Returns the image with values inverted from a threshold on."""
    return jnp.where(pixels >= threshold, 255 - pixels, pixels)


def autocontrast(pixels: jax.Array) -> jax.Array:
    """Returns each channel of whole pixels stretched to 0..255; one of a single value stays."""
    low, high = (f(pixels, (0, 1), keepdims=True) for f in (jnp.min, jnp.max))
    stretched = (pixels - low) * (255 / jnp.maximum(high - low, 1))
    return jnp.where(high > low, stretched, pixels)


def equalize(pixels: jax.Array) -> jax.Array:
    """Returns each channel of whole pixels with its histogram levelled, as Pillow's ImageOps."""
    # One table of 256 levels a channel: one scatter, one gather.
    channels = pixels.shape[-1]
    places = pixels.astype(jnp.int32) + 256 * jnp.arange(channels).reshape(1, 1, -1)
    histogram = jnp.zeros(channels * 256, jnp.int32).at[places].add(1).reshape(channels, 256)
    below = jnp.cumsum(histogram, 1) - histogram
    # Each level is as wide as its share of the pixels below the brightest value.
    step = (jnp.max(jnp.where(histogram > 0, below, 0), 1) // 255)[:, None]
    # Exact in float32, and quicker than a division of integers, which XLA fuses with the gather.
    levels = jnp.minimum(jnp.floor((step // 2 + below) / jnp.maximum(step, 1)), 255)
    levels = jnp.where(step > 0, levels, jnp.arange(256.0)[None])
    return levels.reshape(-1)[places]
