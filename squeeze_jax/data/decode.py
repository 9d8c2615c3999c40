"""Decodes image files of any kind that Pillow opens: the only file that opens one."""

import functools
import io
import struct
import warnings
from pathlib import Path, PurePath
from typing import BinaryIO

import numpy as np
import simplejpeg
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError

from squeeze_jax.errors import UserError

WHITE = (255, 255, 255)
# Formats that Pillow recognises and hands to another program, or cannot decode.
_FOREIGN_FORMATS = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})
_JPEG_END = b"\xff\xd9"
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow warns of damaged EXIF, and of images above half of its limit: both are used.
warnings.filterwarnings("ignore", module=r"PIL\.")


class UnreadableImage(UserError):
    """An image that cannot be decoded.

    Attributes:
      name: of the image.
      reason: why, without details, so that images can be counted by it.
    """

    def __init__(self, name: str, reason: str, detail: str = ""):
        """Sets the message to the name, the reason and the detail."""
        super().__init__(f"cannot read image {name}: {reason}" + (f" ({detail})" if detail else ""))
        self.name, self.reason = name, reason


def decode(file: BinaryIO | Path, name: str, background: tuple[int, ...] = WHITE) -> np.ndarray:
    """Decodes an image upright to uint8 [H, W, 3] RGB.

    An animation counts as its first frame. EXIF orientation is honoured where it is intact; ICC
    profiles are ignored, as most training pipelines do. 16-bit grey is scaled to 8 bits, and
    colours of CMYK are Pillow's.

    Args:
      file: a path, or an open file.
      name: what messages call it.
      background: RGB, 0 to 255, that transparent pixels are blended with.

    Raises:
      UnreadableImage: it is damaged, no image, larger than Pillow's limit against decompression
        bombs, or of pixels without a known range.
    """
    try:
        content = file.read_bytes() if isinstance(file, PurePath) else file.read()
    except OSError as error:
        raise UnreadableImage(name, error.strerror or first_line(error)) from error
    if not content:
        raise UnreadableImage(name, "empty file")
    try:
        try:
            return _pixels(content, background)
        except (OSError, SyntaxError, ValueError, struct.error, EOFError, IndexError):
            repaired = _without_metadata(content)
            if repaired is None:
                raise
            return _pixels(repaired, background)
    except UserError as error:
        raise UnreadableImage(name, str(error)) from error
    except UnidentifiedImageError as error:
        raise UnreadableImage(name, "not an image") from error
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise UnreadableImage(
            name, f"more than {limit:,} pixels, the limit against decompression bombs"
        ) from error
    except Exception as error:  # a corrupt file makes Pillow's plugins raise nearly anything
        raise UnreadableImage(name, "damaged", first_line(error)) from error


def decode_plain_jpeg(content: bytes | memoryview, name: str) -> np.ndarray:
    """Decodes a JPEG of this program's own, which has no metadata: `decode` at less cost.

    Raises:
      UnreadableImage: it is damaged.
    """
    try:
        return simplejpeg.decode_jpeg(content, "RGB")
    except ValueError as error:
        raise UnreadableImage(name, "damaged", first_line(error)) from error


def is_image(path: Path) -> bool:
    """Returns whether a file's suffix is an image's, or else its first bytes are."""
    if image_suffixes().get(path.suffix.lower()) in _formats():
        return True
    signed = [name for name in _formats() if Image.OPEN[name][1]]
    try:
        with Image.open(path, formats=signed):
            return True
    except Exception:  # nearly anything, see `decode`
        return False


@functools.cache
def image_suffixes() -> dict[str, str]:
    """Returns Pillow's format by suffix: ".jfif" -> "JPEG"."""
    return Image.registered_extensions()


def first_line(error: Exception) -> str:
    """Returns an exception's message up to its first line break, or the name of its type."""
    return (str(error).splitlines() or [type(error).__name__])[0]


@functools.cache
def _formats() -> tuple[str, ...]:
    """Returns the formats to try, the commonest first and then in Pillow's order."""
    Image.init()
    names = [name for name in Image.ID if name not in _FOREIGN_FORMATS]
    return tuple(sorted(names, key=lambda name: name != "JPEG"))


def _pixels(content: bytes, background: tuple[int, ...]) -> np.ndarray:
    with Image.open(io.BytesIO(content), formats=_formats()) as image:
        turn = _UPRIGHT.get(_orientation(image)) if image.format == "JPEG" else None
        if turn is None and (pixels := _jpeg_pixels(image, content)) is not None:
            return pixels
        image.load()
        turn = _UPRIGHT.get(_orientation(image))
        rgb = _rgb(image, _sample_bits(image, content), background)
        return np.asarray(rgb.transpose(turn) if turn is not None else rgb)


def _jpeg_pixels(image: Image.Image, content: bytes) -> np.ndarray | None:
    """Returns the pixels of a plain JPEG, the same as Pillow's in half of the time.

    Pillow and simplejpeg both call libjpeg-turbo, with the same accurate transform and upsampling.

    Returns:
      uint8 [H, W, 3] RGB; None for other files, and for a JPEG that is not intact, of which Pillow
      says what is wrong.
    """
    if image.format != "JPEG" or image.mode not in ("RGB", "L"):
        return None
    try:
        return simplejpeg.decode_jpeg(content, "RGB")
    except ValueError:
        return None


def _orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1 (upright) where there is none or EXIF is damaged."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # nearly anything, see `decode`
        return 1


def _sample_bits(image: Image.Image, content: bytes) -> int:
    """Returns the bits of a sample: a PNG's in its file, others' as Pillow has them."""
    if image.format == "PNG":
        return content[24]  # of IHDR, the first chunk
    if not image.mode.startswith("I"):
        return 8
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0]  # 12, too
    return 16


def _is_white_zero(image: Image.Image) -> bool:
    """Returns whether 0 is white, which Pillow inverts up to 8 bits only."""
    return (
        isinstance(image, TiffImagePlugin.TiffImageFile)
        and image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
    )


def _rgb(image: Image.Image, bits: int, background: tuple[int, ...]) -> Image.Image:
    """Returns an image of any mode, with so many bits a sample, in RGB over a background."""
    mode, hidden = image.mode, image.info.get("transparency")
    if mode.startswith("I;16") or (mode == "I" and image.format in ("PNG", "PPM")):
        grey, white = np.asarray(image).astype(np.uint32), 2**bits - 1
        if _is_white_zero(image):
            grey = white - grey
        scaled = ((grey * 255 + white // 2) // white).astype(np.uint8)
        rgb = np.repeat(scaled[..., None], 3, axis=-1)
        if isinstance(hidden, int):
            rgb[grey == hidden] = background
        return Image.fromarray(rgb)
    if mode.startswith(("I", "F")):
        raise UserError(f"pixels of Pillow's mode {mode}, which have no known range")
    if not image.has_transparency_data:
        return image.convert("RGB")
    if isinstance(hidden, tuple) and bits > 8:
        raise UserError("a transparent colour of 16-bit channels")
    if isinstance(hidden, int) and mode == "L" and bits in (2, 4):
        # Pillow scales the samples, but not the hidden one.
        image.info["transparency"] = hidden * 255 // (2**bits - 1)
    rgba = image.convert("RGBA")
    opaque = Image.new("RGBA", image.size, (*background, 255))
    return Image.alpha_composite(opaque, rgba).convert("RGB")


def _without_metadata(content: bytes) -> bytes | None:
    """Returns a damaged file's pixels alone, where its metadata can be told from them.

    A PNG keeps the chunks that pixels depend on; a JPEG that lacks its end marker gets one.

    Returns:
      A file to decode in its place; None where the pixels themselves are not whole.
    """
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png_without_metadata(content)
    if content.startswith(b"\xff\xd8") and not content.rstrip(b"\0").endswith(_JPEG_END):
        return _jpeg_with_end(content)
    return None


def _png_without_metadata(content: bytes) -> bytes | None:
    """Returns the chunks of a PNG that pixels depend on; None where one of them is cut short."""
    kept, at = [content[:8]], 8
    while at + 8 <= len(content):
        length, kind = struct.unpack(">I4s", content[at : at + 8])
        end = at + 12 + length
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT"):
            if end > len(content):
                return None
            kept.append(content[at:end])
        at = end
    return b"".join([*kept, b"\0\0\0\0IEND\xaeB`\x82"])


def _jpeg_with_end(content: bytes) -> bytes | None:
    """Returns a JPEG with an end marker, if its pixels do not depend on what would precede that."""
    content = content.removesuffix(b"\xff")
    if b"\xff\xc2" in content:  # progressive: a whole scan may be missing
        return None
    draw = np.random.default_rng(0)
    fillers = [b"", *(draw.bytes(64).replace(b"\xff", b"\0") for _ in range(16))]
    images = set()
    for filler in fillers:
        with Image.open(io.BytesIO(content + filler + _JPEG_END), formats=("JPEG",)) as image:
            images.add(image.tobytes())
    return content + _JPEG_END if len(images) == 1 else None
