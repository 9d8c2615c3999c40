"""A network's metadata out of a file from outside: checked before anything is built of it."""

import math
from collections.abc import Sequence
from typing import Any

from squeeze_jax.network.preprocessing import Preprocessing


def validate_metadata(record: Any, shapes: Sequence[tuple[int, ...]]) -> None:
    """Whether a record out of a file from outside is of the right types and in proportion to the file's arrays.

    Building even the outline of a net takes time for each layer and memory for each channel, so this comes first.

    Args:
      record: what stands where `Net.metadata()` should.
      shapes: of the file's arrays.

    Raises:
      ValueError, KeyError, TypeError or AttributeError: it is not.
    """
    model, data, classes = (
        record["model"],
        Preprocessing.from_metadata(record["data"]),
        record["class_names"],
    )
    widest = max([4096, *(axis for shape in shapes for axis in shape)])
    values = [
        item for value in model.values() for item in (value if isinstance(value, list) else [value])
    ]
    numbers = [value for value in values if isinstance(value, int | float)]
    sizes = (data.image_size, data.resize)
    sound = {
        "options": all(isinstance(value, bool | int | float | str) for value in values)
        and all(abs(value) <= widest for value in numbers),
        "fractions": all(abs(value) <= 64 for value in numbers if isinstance(value, float)),
        "layers": all(
            n <= len(shapes) for n in (model.get("num_fire", 0), *(model.get("blocks") or ()))
        ),
        "classes": isinstance(classes, list) and all(isinstance(name, str) for name in classes),
        "number of classes": len(classes) == record["num_classes"] > 0,
        "image size": all(isinstance(n, int) and 0 < n <= widest for n in sizes)
        and data.image_size <= data.resize,
        "image mode": data.resize_mode in ("squash", "short")
        and data.channel_order in ("rgb", "bgr"),
        "mean and deviation": all(
            len(v) == 3 and all(math.isfinite(x) for x in v) for v in (data.mean, data.std)
        )
        and all(data.std),
        "source": isinstance(record.get("source", ""), str),
    }
    if wrong := [name for name, good in sound.items() if not good]:
        raise ValueError(f"its {', '.join(wrong)}")
