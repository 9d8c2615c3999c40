"""What an importer is asked for and what it returns, and how the caller completes that."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from squeeze_jax.errors import UserError

if TYPE_CHECKING:
    from squeeze_jax.network import Network, Preprocessing
    from squeeze_jax.network.preprocessing import Size


SIZES = ("image_size", "resize")  # in pixels; one number, or height and width


class Wanted(NamedTuple):
    """What the caller says that a file holds; the file has to tell what is None."""

    model: Mapping[str, Any] | None = None  # name and options, as `network.build_model` takes them
    num_classes: int | None = None


class Imported(NamedTuple):
    """A network from a file, and what the importer had to do for it."""

    network: "Network"
    changes: tuple[str, ...] = ()  # to names and arrays, as in "without the prefix 'module.'"
    is_described: bool = False  # whether the file tells preprocessing and class names
    assumed: str = ""  # what neither the file nor the caller told, as the command's flags

    def remarks(self) -> list[str]:
        """Returns a line on what was changed and a line on what was assumed, if anything was."""
        changed = [f"changed: {'; '.join(self.changes)}"] if self.changes else []
        assumed = f"assumed, as the file does not tell: {self.assumed}"
        return [*changed, assumed] if self.assumed else changed


def complete(
    found: Imported, preprocessing: Mapping[str, Any], class_names: Sequence[str] | None
) -> Imported:
    """Puts the caller's preprocessing and class names in place of the file's or the assumed ones.

    Args:
      found: from an importer.
      preprocessing: values by field of `Preprocessing`, the mean and deviation of 0..255, of which
        one number stands for every channel. An image size without `resize` keeps the ratio of the
        two, and another channel order turns the known mean and deviation around.
      class_names: by label; None keeps those that are there.

    Raises:
      UserError: a value is out of range, the images are too small for the network, or there is not
        one name for each class.
    """
    from squeeze_jax.network.config import DEFAULT_CHANNELS, IN_CHANNELS

    network = found.network
    channels = network.model.get(IN_CHANNELS, DEFAULT_CHANNELS)
    given = {key: value for key, value in preprocessing.items() if value is not None}
    for key in ("mean", "std"):
        if len(given.get(key, ())) == 1:
            given[key] = channels * tuple(given[key])
    values = replace(network.preprocessing, **given)
    if values.channel_order != network.preprocessing.channel_order:  # the others' order is theirs
        turned = {key: getattr(values, key)[::-1] for key in ("mean", "std") if key not in given}
        values = replace(values, **turned)
    if "image_size" in given and "resize" not in given:
        values = replace(values, resize=_scaled(values.image_size, network.preprocessing))
    _check_preprocessing(values, given, channels)
    if "image_size" in given:
        _check_size(network, values)
    names = network.class_names if class_names is None else tuple(class_names)
    if len(names) != len(network.class_names):
        raise UserError(
            f"{len(names)} class names are given, but the network has "
            f"{len(network.class_names)} classes"
        )
    completed = replace(
        network,
        preprocessing=values,
        class_names=names,
        has_class_names=network.has_class_names or class_names is not None,
    )
    if found.is_described:
        return found._replace(network=completed)
    flags = " ".join(
        f"--{key.replace('_', '-')} {_format_value(value, 'x' if key in SIZES else ',')}"
        for key, value in values.to_metadata().items()
        if key not in given
    )
    classes = "ImageNet's" if len(names) == 1000 else f"numbers 0 to {len(names) - 1}"
    naming = f"class names {classes} (--class-names FILE gives others)"
    assumed = [flags, *([naming] if class_names is None else [])]
    return found._replace(network=completed, assumed=", ".join(filter(None, assumed)))


def _format_value(value: Any, separator: str = ",") -> str:
    several = isinstance(value, tuple | list)
    return separator.join(f"{x:g}" for x in value) if several else str(value)


def _scaled(crop: "Size", known: "Preprocessing") -> "Size":
    """Returns what to resize images to before a crop, in the ratio of the known preprocessing."""
    from squeeze_jax.network.preprocessing import height_width

    sizes = zip(
        *(height_width(size) for size in (crop, known.resize, known.image_size)), strict=True
    )
    height, width = (round(crop * (before / after)) for crop, before, after in sizes)
    return height if height == width else (height, width)


def _check_size(network: "Network", values: "Preprocessing") -> None:
    """Rejects, with a UserError, images that are too small for the network."""
    from squeeze_jax.cost.trace import trace_model

    options = {**network.model, "num_classes": len(network.class_names)}
    trace_model(options.pop("name"), options, values.input_shape)


def _check_preprocessing(values: "Preprocessing", given: Mapping[str, Any], channels: int) -> None:
    """Rejects values that no image can be prepared with for a net of so many channels.

    Raises:
      UserError: a value is out of range, or on PyTorch's scale of 0 to 1.
    """
    from squeeze_jax.network.preprocessing import (
        CHANNELS,
        LARGEST_SIDE,
        fits_inside,
        height_width,
    )

    if unknown := given.keys() - {field.name for field in fields(values)}:
        raise UserError(f"preprocessing has no {', '.join(sorted(unknown))}")
    if not fits_inside(values.image_size, values.resize):
        raise UserError(
            f"image size {values.image_size}, resize {values.resize}: the crop is at least 1 "
            "pixel and no larger than the resized image"
        )
    if max(*height_width(values.image_size), *height_width(values.resize)) > LARGEST_SIDE:
        raise UserError(
            f"image size {values.image_size}, resize {values.resize}: at most {LARGEST_SIDE:,} "
            "pixels a side"
        )
    if values.resize_mode not in ("squash", "short"):
        raise UserError(f"resize mode is squash or short, got {values.resize_mode!r}")
    if values.channel_order not in CHANNELS:
        raise UserError(f"channel order is rgb, bgr or grey, got {values.channel_order!r}")
    if values.num_channels != channels:
        raise UserError(
            f"the network takes images of {channels} channels, and channel order "
            f"{values.channel_order} has {values.num_channels}"
        )
    for name in ("mean", "std"):
        numbers = getattr(values, name)
        if len(numbers) != values.num_channels or not all(map(math.isfinite, numbers)):
            count = "three numbers" if values.num_channels == 3 else "one number"
            raise UserError(
                f"{name} is {count} of {values.channel_order} images, got {_format_value(numbers)}"
            )
    if not all(x > 0 for x in values.std):
        raise UserError(f"std is above 0, got {_format_value(values.std)}")
    for name in ("mean", "std"):
        numbers = getattr(values, name)
        # A deviation of 1 and a mean of 0 are those of pixels that stay as they are.
        if name in given and all(0 <= x <= 1 for x in numbers) and not set(numbers) <= {0.0, 1.0}:
            times255 = tuple(255 * x for x in numbers)
            raise UserError(
                f"{name} {_format_value(numbers)} is on a scale of 0 to 1, but pixels are "
                f"0 to 255: give {_format_value(times255)}"
            )
