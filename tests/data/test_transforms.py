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
