"""Decoding against pixels written by hand: modes, transparency, and damage beside whole pixels."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFilter, ImageOps

from squeeze_jax.data.decode import UnreadableImage, decode, is_image

RED, WHITE = [200, 40, 40], [255, 255, 255]
NOISE = np.random.default_rng(0).integers(0, 256, (37, 50, 3), np.uint8)


def encoded(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def decoded(content: bytes, **options) -> np.ndarray:
    return decode(io.BytesIO(content), "x", **options)


def corner_and_centre(array: np.ndarray) -> list[list[int]]:
    return [array[0, 0].tolist(), array[array.shape[0] // 2, array.shape[1] // 2].tolist()]


def framed(mode: str) -> Image.Image:
    """A red square on black that is hidden under alpha 0, in a mode that has transparency."""
    pixels = np.zeros((20, 20, 4), np.uint8)
    pixels[5:15, 5:15] = (*RED, 255)
    image = Image.fromarray(pixels)
    if mode == "P":
        image = Image.fromarray((pixels[..., 3] > 0).astype(np.uint8), "P")
        image.putpalette([0, 0, 0, *RED])
        image.info["transparency"] = 0
    if mode == "RGB":
        image = image.convert("RGB")
        image.info["transparency"] = (0, 0, 0)
    return image


@pytest.mark.parametrize(
    "mode, form", [("RGBA", "PNG"), ("P", "PNG"), ("P", "GIF"), ("RGB", "PNG"), ("RGBA", "TIFF")]
)
def test_what_transparency_hides_is_background(mode, form):
    image = framed(mode)
    options = {"transparency": image.info["transparency"]} if "transparency" in image.info else {}
    content = encoded(image, form, **options)
    assert corner_and_centre(decoded(content)) == [WHITE, RED]
    assert corner_and_centre(decoded(content, background=(1, 2, 3))) == [[1, 2, 3], RED]


def test_half_transparent_pixels_are_blended():
    image = Image.fromarray(np.full((2, 2, 2), (40, 51), np.uint8), "LA")  # 51 / 255 = 0.2
    assert decoded(encoded(image, "PNG"))[0, 0].tolist() == [212] * 3  # 0.2 * 40 + 0.8 * 255


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled(form):
    grey = np.arange(256, dtype=np.uint16)[None].repeat(2, 0)
    array = decoded(encoded(Image.fromarray(grey * 257), form))
    np.testing.assert_array_equal(array, np.repeat(grey[..., None], 3, -1))


def tiff(bits: int, photometric: int, samples: bytes, width: int) -> bytes:
    """One row of uncompressed grey."""
    tags = {256: width, 257: 1, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: 1}
    tags[279] = len(samples)
    entries = [struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items()]
    padded = samples + bytes(len(samples) % 2)
    header = b"II*\0" + struct.pack("<I", 8 + len(padded)) + padded
    return header + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)


@pytest.mark.parametrize(
    ("bits", "photometric", "samples", "expected"),
    [
        (8, 0, b"\xff\x00", [0, 255]),  # white is zero
        (12, 1, b"\x00\x0f\xff", [0, 255]),
        (12, 1, b"\x80\x00\x10", [128, 1]),  # 2048 and 16 of 4095
        (16, 0, b"\xff\xff\x00\x00", [0, 255]),
        (16, 1, b"\xff\xff\x01\x01", [255, 1]),
    ],
)
def test_grey_tiffs_of_any_depth_are_scaled(bits, photometric, samples, expected):
    row = decoded(tiff(bits, photometric, samples, 2))[0]
    assert row.tolist() == [[grey] * 3 for grey in expected]


def png(depth: int, colour: int, row: bytes, hidden: bytes, width: int) -> bytes:
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0)),
        (b"tRNS", hidden),
        (b"IDAT", zlib.compress(b"\0" + row)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


@pytest.mark.parametrize(
    ("depth", "row", "hidden", "expected"),
    [
        (1, b"\x40", 0, [9, 255]),
        (2, b"\x70", 1, [9, 255]),
        (4, b"\x5f", 5, [9, 255]),
        (8, b"\x05\xff", 5, [9, 255]),
        (16, b"\x00\x05\xff\xff", 5, [9, 255]),
    ],
)
def test_a_hidden_grey_is_background_at_any_depth(depth, row, hidden, expected):
    content = png(depth, 0, row, struct.pack(">H", hidden), 2)
    row = decoded(content, background=(9, 9, 9))[0]
    assert row.tolist() == [[grey] * 3 for grey in expected]


def test_a_hidden_colour_of_16_bit_channels_is_refused():
    """Pillow keeps 8 bits of a channel, in which the colour cannot be told from its neighbours."""
    content = png(16, 2, bytes(6) + b"\0\x64" * 3, bytes(6), 2)
    with pytest.raises(UnreadableImage, match="a transparent colour of 16-bit channels"):
        decoded(content)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pixels_without_a_known_range_are_refused(dtype):
    with pytest.raises(UnreadableImage, match="no known range"):
        decoded(encoded(Image.fromarray(np.ones((2, 2), dtype)), "TIFF"))


def test_other_modes():
    image = Image.new("RGB", (8, 8), tuple(RED))
    assert decoded(encoded(image.convert("CMYK"), "TIFF"))[0, 0].tolist() == RED
    assert decoded(encoded(Image.new("1", (8, 8), 1), "PNG"))[0, 0].tolist() == WHITE
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("blue", "green")]
    animated = encoded(image.quantize(4), "GIF", save_all=True, append_images=frames)
    assert decoded(animated)[0, 0].tolist() == RED
    assert decoded(encoded(Image.new("RGB", (1, 1), tuple(RED)), "PNG")).shape == (1, 1, 3)


def damaged(content: bytes, start: int, end: int) -> bytes:
    return content[:start] + bytes(255 - byte for byte in content[start:end]) + content[end:]


@pytest.mark.parametrize("form, chunks", [("JPEG", (b"Exif\0\0", b"ICC_PROFILE\0")), ("PNG", ())])
def test_damaged_metadata_leaves_pixels_as_they_are(form, chunks):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 1, "maker"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    whole = encoded(Image.fromarray(NOISE), form, exif=exif, icc_profile=profile)
    expected = decoded(whole)
    for chunk in chunks or (b"iCCP", b"eXIf"):
        for skip in range(4, 24, 3):
            at = whole.index(chunk) + skip
            np.testing.assert_array_equal(decoded(damaged(whole, at, at + 5)), expected)


def test_orientation_beside_damaged_exif_entries():
    """An intact orientation is used, whatever else is wrong."""
    orientation = struct.pack("<HHI", 0x0112, 3, 1) + struct.pack("<HH", 6, 0)
    resolution = struct.pack("<HHI", 0x011A, 5, 1) + struct.pack("<I", 38)
    exif = b"II*\0" + struct.pack("<IH", 8, 2) + orientation + resolution + bytes(4)
    exif = b"Exif\0\0" + exif + struct.pack("<II", 0xFFFFFFFF, 0)  # a zero denominator
    plain = encoded(Image.fromarray(NOISE), "JPEG")
    content = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]
    np.testing.assert_array_equal(decoded(content), np.rot90(decoded(plain), -1))


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_a_file_cut_short_is_whole_or_refused(form):
    """Never other pixels: without its trailer alone it is used, cut further it is refused."""
    smooth = Image.fromarray(NOISE).filter(ImageFilter.GaussianBlur(2))
    content = encoded(smooth, form)
    expected = decoded(content)
    np.testing.assert_array_equal(decoded(content[:-2]), expected)
    np.testing.assert_array_equal(decoded(content + b"trailer" * 9), expected)
    refused = 0
    for cut in [*range(3, 40), *range(100, len(content), 97)]:
        try:
            np.testing.assert_array_equal(decoded(content[:-cut]), expected)
        except UnreadableImage:
            refused += 1
    assert refused > 25


def test_reasons(tmp_path, monkeypatch):
    def reason(content: bytes) -> str:
        with pytest.raises(UnreadableImage) as caught:
            decoded(content)
        return caught.value.reason

    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    assert reason(b"") == "empty file"
    assert reason(b"<html>404</html>") == reason(postscript) == "not an image"
    assert reason(encoded(Image.fromarray(NOISE), "JPEG")[:700]) == "damaged"
    with pytest.raises(UnreadableImage, match="No such file"):
        decode(tmp_path / "gone.png", "gone")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 900)
    assert reason(encoded(Image.fromarray(NOISE), "PNG")).startswith("more than 1,800 pixels")


def test_what_is_an_image_by_name_or_content(tmp_path):
    for name in ("a.jfif", "b.JPG", "c.tif", "d", "e.data"):
        (tmp_path / name).write_bytes(encoded(Image.fromarray(NOISE), "JPEG"))
        assert is_image(tmp_path / name)
    for name in ("labels.csv", "no_suffix", "figure.eps", "paper.pdf"):
        (tmp_path / name).write_bytes(bytes(range(256)) * 9)
        assert not is_image(tmp_path / name)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(
    "options",
    [
        dict(quality=75, subsampling="4:2:0"),
        dict(quality=90, subsampling="4:2:2"),
        dict(quality=95, subsampling="4:4:4"),
        dict(quality=90, progressive=True),
        dict(quality=90, restart_marker_rows=1),
        dict(quality=90, keep_rgb=True),
    ],
)
def test_jpegs_are_decoded_as_pillow_decodes_them_to_the_last_bit(mode, options):
    random = np.random.default_rng(0)
    for size in ((1, 1), (17, 31), (64, 48)):
        pixels = Image.fromarray(random.integers(0, 256, (*size, 3), np.uint8)).convert(mode)
        file = io.BytesIO()
        pixels.save(file, "JPEG", **options)
        expected = np.asarray(Image.open(file).convert("RGB"))
        file.seek(0)
        np.testing.assert_array_equal(decode(file, "image"), expected)


@pytest.mark.parametrize("orientation", range(10))
def test_jpegs_with_an_orientation_are_turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(file)))
    file.seek(0)
    np.testing.assert_array_equal(decode(file, "image"), expected)
