"""Checks a network's metadata from an untrusted file before anything is built from it."""

from collections.abc import Mapping, Sequence
from typing import Any

from squeeze_jax.network.config import DEFAULT_CHANNELS, IN_CHANNELS
from squeeze_jax.network.labels import is_unicode
from squeeze_jax.network.preprocessing import CHANNELS, LARGEST_SIDE, Preprocessing, fits_inside

_LARGEST_VALUE = 1e6  # of a mean or deviation; neither NaN nor a huge integer is below it


def validate_metadata(metadata: Any, shapes: Sequence[tuple[int, ...]] | None) -> None:
    """Rejects metadata of wrong types, or out of proportion to the arrays of its file.

    Call it first: building even the shapes of a net takes time for each layer and memory for each
    channel, and an image memory for each pixel.

    Args:
      metadata: what the file has in place of `Network.metadata()`.
      shapes: shapes of the file's arrays; None where the net is not to be built.

    Raises:
      ValueError: a value is wrong; the message names it.
      KeyError, TypeError, AttributeError: a value is missing or of another type.
    """
    model, classes = metadata["model"], metadata["class_names"]
    data = Preprocessing.from_metadata(metadata["data"])
    sizes = [n for size in (data.image_size, data.resize) for n in _numbers(size)]
    channels = CHANNELS.get(data.channel_order, 0)
    sound = {
        **({} if shapes is None else _check_options(model, shapes, channels)),
        "classes": isinstance(classes, list)
        and all(isinstance(name, str) and is_unicode(name) for name in classes)
        and isinstance(metadata.get("has_class_names", True), bool),
        "number of classes": len(classes) == metadata["num_classes"] > 0,
        "image size": all(isinstance(n, int) and 0 < n <= LARGEST_SIDE for n in sizes)
        and fits_inside(data.image_size, data.resize),
        "image mode": data.resize_mode in ("squash", "short") and channels > 0,
        "mean and deviation": all(
            len(v) == channels and all(abs(x) < _LARGEST_VALUE for x in v)
            for v in (data.mean, data.std)
        )
        and all(data.std),
        "background": len(data.background) == 3
        and all(isinstance(x, int) and 0 <= x <= 255 for x in data.background),
        "source": isinstance(metadata.get("source", ""), str),
    }
    if wrong := [name for name, good in sound.items() if not good]:
        raise ValueError(f"its {', '.join(wrong)}")


def _check_options(
    model: Mapping[str, Any], shapes: Sequence[tuple[int, ...]], channels: int
) -> dict[str, bool]:
    """Returns which of a model's options are in proportion to its weights, and fit its images."""
    widest = max([4096, *(axis for shape in shapes for axis in shape)])
    values = [
        item for value in model.values() for item in (value if isinstance(value, list) else [value])
    ]
    numbers = [value for value in values if isinstance(value, int | float)]
    return {
        "options": all(isinstance(value, bool | int | float | str) for value in values)
        and all(abs(value) <= widest for value in numbers),
        "fractions": all(abs(value) <= 64 for value in numbers if isinstance(value, float)),
        "layers": all(
            n <= len(shapes) for n in (model.get("num_fire", 0), *(model.get("blocks") or ()))
        ),
        "channels": model.get(IN_CHANNELS, DEFAULT_CHANNELS) == channels,
    }


def _numbers(size: Any) -> Sequence[Any]:
    """Returns the height and width of a size that may be anything."""
    return size if isinstance(size, tuple) and len(size) == 2 else (size,)
