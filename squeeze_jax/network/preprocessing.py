"""Turns a decoded image into a network's input.

`resize` runs on the host; the rest can be traced inside a compiled step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeVar

import jax
import numpy as np
from PIL import Image, ImageOps

# Names of the order of an image's channels -> how many there are.
CHANNELS = {"rgb": 3, "bgr": 3, "grey": 1}

# Pixels: a square's side, or height and width.
Size = int | tuple[int, ...]
LARGEST_SIDE = 2**12  # pixels

Images = TypeVar("Images", jax.Array, np.ndarray)


def height_width(size: Size) -> tuple[int, int]:
    """Returns a size's height and width: of a square where it is one number.

    Raises:
      ValueError: it is not two numbers.
    """
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def fits_inside(crop: Size, size: Size) -> bool:
    """Returns whether a crop of at least one pixel lies inside an image of a size."""
    return all(0 < c <= s for c, s in zip(height_width(crop), height_width(size), strict=True))


def format_size(size: Size) -> str:
    """Returns a size in words: "160x120", height first."""
    return "x".join(map(str, height_width(size)))


@dataclass(frozen=True)
class Preprocessing:
    """Describes background, resize, centre crop, channel order and (x - mean) / std of an image."""

    image_size: Size  # pixels, the crop
    resize: Size  # pixels, before the crop
    resize_mode: str  # "squash" or "short", see `resize`
    channel_order: str  # one of CHANNELS
    mean: tuple[float, ...]  # of 0..255, in channel order
    std: tuple[float, ...]
    background: tuple[int, ...] = (255, 255, 255)  # RGB, under transparent pixels

    @property
    def num_channels(self) -> int:
        """Returns how many channels the images have."""
        return CHANNELS[self.channel_order]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Returns the height, width and channels of one preprocessed image."""
        return (*height_width(self.image_size), self.num_channels)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> "Preprocessing":
        """Returns the preprocessing in a config's data section, or any mapping with its keys.

        The background is white where the mapping does not name it.
        """
        metadata = {"background": cls.background, **metadata}
        values: dict[str, Any] = {field.name: metadata[field.name] for field in fields(cls)}
        values.update({key: tuple(values[key]) for key in ("mean", "std", "background")})
        for key in ("image_size", "resize"):
            if isinstance(values[key], list):
                values[key] = tuple(values[key])
        return cls(**values)

    def to_metadata(self) -> dict[str, Any]:
        """Returns what `from_metadata` reads, ready for JSON; a white background is not named."""
        values = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}
        if self.background == type(self).background:
            del values["background"]
        return values


def resize(image: np.ndarray, size: Size, mode: str) -> np.ndarray:
    """Resizes uint8 [H, W, C] to the height and width of `size`, bilinear and antialiased.

    Args:
      image: a decoded image, of 1 or 3 channels.
      size: pixels of the result.
      mode: "squash" ignores the aspect ratio, as Caffe's ImageNet databases do; "short" keeps it
        and takes the largest part of the result's proportions at the centre: of a square, all of
        the short side.
    """
    height, width = image.shape[:2]
    new_height, new_width = height_width(size)
    if (height, width) == (new_height, new_width):
        return image
    is_square = new_height == new_width == min(height, width)
    if mode == "short" and is_square and (height - width) % 2 == 0:
        # What Pillow would do, more slowly.
        top, left = (height - new_height) // 2, (width - new_width) // 2
        return image[top : top + new_height, left : left + new_width]
    is_grey = image.shape[2] == 1
    picture = Image.fromarray(image[..., 0] if is_grey else image)
    if mode == "short":
        resized = ImageOps.fit(picture, (new_width, new_height), Image.Resampling.BILINEAR)
    else:
        resized = picture.resize((new_width, new_height), Image.Resampling.BILINEAR)
    return np.asarray(resized)[..., None] if is_grey else np.asarray(resized)


def to_channels(image: np.ndarray, channel_order: str) -> np.ndarray:
    """Returns a decoded image uint8 RGB [H, W, 3], or its luma [H, W, 1] for "grey".

    Luma is Pillow's, that of ITU-R BT.601 rounded.
    """
    if CHANNELS[channel_order] == image.shape[2]:
        return image
    return np.asarray(Image.fromarray(image).convert("L"))[..., None]


LUMA = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601


def grey_values(values: Sequence[float], channel_order: str) -> tuple[float]:
    """Returns the one mean or deviation for grey that stands for those of three channels.

    Of a mean it is exact, and of a deviation if all channels of a pixel move together.
    """
    rgb = values[::-1] if channel_order == "bgr" else values
    return (round(sum(w * value for w, value in zip(LUMA, rgb, strict=True)), 3),)


def in_grey(preprocessing: Preprocessing) -> Preprocessing:
    """Returns the preprocessing of the same photographs in grey, which they may be already."""
    order = preprocessing.channel_order
    if order == "grey":
        return preprocessing
    return replace(
        preprocessing,
        channel_order="grey",
        mean=grey_values(preprocessing.mean, order),
        std=grey_values(preprocessing.std, order),
    )


def normalise(
    images: Images, mean: tuple[float, ...], std: tuple[float, ...], channel_order: str
) -> Images:
    """Maps uint8 RGB [N, H, W, 3], or grey [N, H, W, 1], to (x - mean) / std in float32.

    Args:
      images: values of 0..255, of the result's channels; see `to_channels`.
      mean: of 0..255, in `channel_order`.
      std: of 0..255, in `channel_order`.
      channel_order: order of the result, one of CHANNELS.
    """
    images = images.astype(np.float32)
    if channel_order == "bgr":
        images = images[..., ::-1]
    return (images - _per_channel(mean)) / _per_channel(std)


def denormalise(
    images: Images, mean: tuple[float, ...], std: tuple[float, ...], channel_order: str
) -> Images:
    """Maps what `normalise` returned back to RGB or grey of 0..255, float32 [N, H, W, C]."""
    images = images * _per_channel(std) + _per_channel(mean)
    return images[..., ::-1] if channel_order == "bgr" else images


def renormalise(images: Images, source: Preprocessing, target: Preprocessing) -> Images:
    """Returns images [N, H, W, C] that one preprocessing made as another makes them.

    Only the normalisation and the order of the channels may differ. Grey images stay grey in RGB.
    """
    keys = ("mean", "std", "channel_order")
    if all(getattr(source, key) == getattr(target, key) for key in keys):
        return images
    pixels = denormalise(images, source.mean, source.std, source.channel_order)
    if source.num_channels < target.num_channels:
        pixels = pixels.repeat(target.num_channels, axis=-1)
    return normalise(pixels, target.mean, target.std, target.channel_order)


def shows_the_same(one: Preprocessing, other: Preprocessing) -> bool:
    """Returns whether both show the same part of a picture, to half a pixel of the first."""
    if one.resize_mode != other.resize_mode:
        return False
    sides, others = height_width(one.resize), height_width(other.resize)
    crops, other_crops = height_width(one.image_size), height_width(other.image_size)
    # A side that the other preprocessing would have, were it to resize to the sides of this one.
    matched = [side * c / s for side, c, s in zip(sides, other_crops, others, strict=True)]
    differences = [c - m for c, m in zip(crops, matched, strict=True)]
    if one.resize_mode == "short":  # "squash" shows all of a picture, whatever its proportions
        differences.append(sides[1] - sides[0] * others[1] / others[0])
    return max(map(abs, differences)) <= 0.5


def rescale(images: jax.Array, size: Size) -> jax.Array:
    """Resizes [N, H, W, C] to the height and width of `size` as `resize` does, without rounding."""
    shape = (images.shape[0], *height_width(size), images.shape[3])
    return images if images.shape == shape else jax.image.resize(images, shape, "bilinear")


def _per_channel(values: tuple[float, ...]) -> np.ndarray:
    return np.asarray(values, np.float32).reshape(1, 1, 1, -1)


def centre_crop(images: Images, size: Size) -> Images:
    """Crops [N, R, R', C] to the height and width of `size` at its centre."""
    height, width = height_width(size)
    top, left = (images.shape[1] - height) // 2, (images.shape[2] - width) // 2
    return images[:, top : top + height, left : left + width]


def preprocess(image: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Returns an image as the net sees it in evaluation: float32 [S, S', C].

    Args:
      image: decoded, uint8 RGB [H, W, 3].
      preprocessing: what the net expects.
    """
    image = to_channels(image, preprocessing.channel_order)
    resized = resize(image, preprocessing.resize, preprocessing.resize_mode)[None]
    normalised = normalise(
        resized, preprocessing.mean, preprocessing.std, preprocessing.channel_order
    )
    return np.ascontiguousarray(centre_crop(normalised, preprocessing.image_size)[0])
