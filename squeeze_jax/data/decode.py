"""Decodes image files."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from squeeze_jax.errors import UserError


def decode(file: BinaryIO | Path, name: str) -> np.ndarray:
    """Decodes an image upright (EXIF orientation honoured) to uint8 [H, W, 3] RGB.

    Raises:
      UserError: naming `name`; the image is corrupt, larger than Pillow's limit against
        decompression bombs, or not 8-bit.
    """
    try:
        with Image.open(file) as image:
            if image.mode.startswith(("I", "F")):  # Pillow would clip them at 255 without a word
                raise UserError(
                    f"cannot read image {name}: only 8-bit channels are supported, "
                    f"not Pillow's mode {image.mode}"
                )
            ImageOps.exif_transpose(image, in_place=True)
            return np.asarray(image.convert("RGB"))
    except UserError:
        raise
    except Exception as error:  # a corrupt file makes Pillow's plugins raise nearly anything
        raise UserError(f"cannot read image {name}: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """Returns an exception's message up to its first line break, or the name of its type."""
    return (str(error).splitlines() or [type(error).__name__])[0]
