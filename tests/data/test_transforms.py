import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from squeeze_jax.data import AUGMENTATIONS, DataConfig
from squeeze_jax.data.augment import augment
from squeeze_jax.network import preprocessing

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 8, 8, 3), np.uint8)


def settings(size, pad, mirror, **others):
    return DataConfig(resize=8, image_size=size, pad=pad, mirror=mirror, **others)


def keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


@pytest.mark.parametrize("shape", [(8, 8), (20, 30), (31, 17)])
def test_squash_is_pillows_bilinear(shape):
    image = RNG.integers(0, 256, (*shape, 3), np.uint8)
    expected = np.asarray(Image.fromarray(image).resize((16, 16), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(preprocessing.resize(image, 16, "squash"), expected)


@pytest.mark.parametrize("shape", [(32, 48), (48, 32)])
def test_short_is_the_whole_resized_then_its_centre_square(shape):
    image = RNG.integers(0, 256, (*shape, 3), np.uint8)
    height, width = shape[0] // 2, shape[1] // 2
    whole = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    top, left = (height - 16) // 2, (width - 16) // 2
    np.testing.assert_array_equal(
        preprocessing.resize(image, 16, "short"), whole[top : top + 16, left : left + 16]
    )


@pytest.mark.parametrize("size", [(16, 12), (12, 16), (9, 30)])
def test_a_rectangle_is_what_pillow_makes(size):
    """Squash scales both sides; short takes the largest centred part of the proportions."""
    image = RNG.integers(0, 256, (48, 64, 3), np.uint8)
    height, width = size
    scale = min(48 / height, 64 / width)
    top, left = (48 - height * scale) / 2, (64 - width * scale) / 2
    box = (left, top, left + width * scale, top + height * scale)
    picture = Image.fromarray(image)
    for mode, part in (("squash", None), ("short", box)):
        expected = picture.resize((width, height), Image.Resampling.BILINEAR, box=part)
        found = preprocessing.resize(image, size, mode)
        np.testing.assert_array_equal(found, np.asarray(expected), mode)
        grey = preprocessing.resize(image[..., :1], size, mode)
        np.testing.assert_array_equal(grey, found[..., :1])


def test_grey_is_the_luma():
    red, green, blue = np.moveaxis(IMAGES[0].astype(np.int64), -1, 0)
    found = preprocessing.to_channels(IMAGES[0], "grey")
    assert found.shape == (8, 8, 1) and found.dtype == np.uint8
    exact = 0.299 * red + 0.587 * green + 0.114 * blue
    assert np.abs(found[..., 0] - exact).max() < 0.51
    np.testing.assert_array_equal(found, preprocessing.to_channels(found, "grey"))
    np.testing.assert_array_equal(preprocessing.to_channels(IMAGES[0], "bgr"), IMAGES[0])
    same = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=-1)
    np.testing.assert_array_equal(preprocessing.to_channels(same, "grey"), same[..., :1])


def test_grey_statistics_are_those_of_the_luma():
    """The mean is exact; a photograph's deviation is near."""
    pixels = RNG.integers(0, 200, (50, 50, 1)) + RNG.integers(0, 40, (50, 50, 3))
    pixels = pixels.astype(np.uint8)
    luma = preprocessing.to_channels(pixels, "grey")
    mean = preprocessing.grey_values(pixels.mean((0, 1)).tolist(), "rgb")
    std = preprocessing.grey_values(pixels.std((0, 1)).tolist()[::-1], "bgr")
    assert mean == pytest.approx([luma.mean()], abs=0.1)
    assert std == pytest.approx([luma.std()], rel=0.02)


@pytest.mark.parametrize("mode", ["squash", "short"])
def test_resize_leaves_the_right_size_alone(mode):
    np.testing.assert_array_equal(preprocessing.resize(IMAGES[0], 8, mode), IMAGES[0])


@pytest.mark.parametrize("order, channels", [("rgb", [0, 1, 2]), ("bgr", [2, 1, 0])])
def test_normalise(order, channels):
    mean, std = (104.0, 117.0, 123.0), (1.0, 2.0, 60.0)
    expected = (IMAGES[..., channels].astype(np.float64) - np.array(mean)) / np.array(std)
    result = jax.jit(lambda x: preprocessing.normalise(x, mean, std, order))(IMAGES)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("size, start", [(8, 0), (5, 1), (4, 2)])
def test_centre_crop(size, start):
    np.testing.assert_array_equal(
        preprocessing.centre_crop(IMAGES, size),
        IMAGES[:, start : start + size, start : start + size],
    )


def test_a_rectangle_is_cropped_at_its_centre():
    found = preprocessing.centre_crop(IMAGES[:, :7], (4, 6))
    np.testing.assert_array_equal(found, IMAGES[:, 1:5, 1:7])


def test_random_crops_of_rectangles_are_everywhere():
    """Of the padded image, along both axes."""
    image = np.arange(1.0, 1 + 8 * 8, dtype=np.float32).reshape(8, 8, 1)
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    possible = {padded[y : y + 5, x : x + 9].tobytes() for y in range(6) for x in range(2)}
    many = jnp.repeat(image[None], 300, axis=0)
    found = np.asarray(augment(many, keys(300), settings((5, 9), 1, False)))
    assert found.shape == (300, 5, 9, 1)
    assert {crop.tobytes() for crop in found} == possible


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
def test_grey_is_augmented_as_grey_in_colour(name):
    """One channel becomes what each of three equal channels becomes."""
    pixels = np.linspace(-1, 1, 20 * 12, dtype=np.float32).reshape(20, 12, 1)
    colour, grey = (
        settings(
            (16, 10),
            0,
            False,
            mean=(127.5,) * channels,
            std=(127.5,) * channels,
            channel_order=order,
        )
        for channels, order in ((3, "rgb"), (1, "grey"))
    )
    for key in keys(8):
        found = AUGMENTATIONS[name](pixels, key, grey)
        expected = AUGMENTATIONS[name](np.repeat(pixels, 3, axis=-1), key, colour)
        assert found.shape == (*expected.shape[:2], 1)
        np.testing.assert_allclose(found, expected[..., :1], atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "size, pad, mirror", [(5, 0, True), (8, 2, False), (8, 0, True), (6, 1, True)]
)
def test_augment_gives_crops_of_the_padded_image(size, pad, mirror):
    """Each result is a possible crop, and over many keys all turn up, mirrored and not."""
    image = IMAGES[:1].astype(np.float32)
    padded = np.pad(image[0], ((pad, pad), (pad, pad), (0, 0)))
    room = padded.shape[0] - size + 1
    crops = [padded[y : y + size, x : x + size] for y in range(room) for x in range(room)]
    possible = [
        crop[:, ::step].tobytes() for crop in crops for step in ((1, -1) if mirror else (1,))
    ]
    many = 1024
    result = np.asarray(
        augment(jnp.repeat(image, many, axis=0), keys(many), settings(size, pad, mirror))
    )
    assert {crop.tobytes() for crop in result} == set(possible)


def test_augment_without_anything_to_do_traces_to_nothing():
    jaxpr = jax.make_jaxpr(lambda x, k: augment(x, k, settings(8, 0, False)))(
        IMAGES.astype(np.float32), keys(6)
    )
    assert not jaxpr.eqns


def test_mirror_alone_crops_nothing_and_crop_alone_mirrors_nothing():
    def primitives(size, mirror):
        return str(
            jax.make_jaxpr(lambda x, k: augment(x, k, settings(size, 0, mirror)))(
                IMAGES.astype(np.float32), keys(6)
            )
        )

    assert (
        "gather" not in primitives(8, True)
        and "dynamic_slice" not in primitives(8, True)
        and " rev[" in primitives(8, True)
    )
    assert " rev[" not in primitives(5, False) and "gather" in primitives(5, False)


@pytest.mark.slow
def test_a_registered_augmentation_comes_last_with_a_key_of_its_own(monkeypatch):
    """The crop and the flip draw the same whether it is on or not."""
    noise = lambda image, key, config: image + jax.random.uniform(key)  # noqa: E731
    monkeypatch.setitem(AUGMENTATIONS, "noise", noise)
    images = IMAGES.astype(np.float32)
    plain = augment(images, keys(6), settings(5, 1, True))
    added = augment(images, keys(6), settings(5, 1, True, augment=("noise",))) - plain
    assert np.ptp(np.asarray(added[0])) < 1e-4
    assert len(np.unique(np.round(np.asarray(added[:, 0, 0, 0]), 3))) == 6
