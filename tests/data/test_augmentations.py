"""Augmentations against Pillow's functions and the definitions in their papers."""

import math
import random
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from sklearn.datasets import load_sample_images

from squeeze_jax.data import AUGMENTATIONS, DataConfig, boxes, color, trivial_augment
from squeeze_jax.data.augment import augment

BLACK = DataConfig(resize=32, image_size=32, mean=(0.0,) * 3, std=(1.0,) * 3)  # 0 is black
PHOTOGRAPH = np.asarray(
    Image.fromarray(load_sample_images().images[0]).resize((32, 32), Image.Resampling.BILINEAR)
)


def keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


def many(name, config, n, image=PHOTOGRAPH):
    """An augmentation of one image with n keys."""
    image = jnp.asarray(image, jnp.float32)
    function = jax.jit(jax.vmap(lambda key: AUGMENTATIONS[name](image, key, config)))
    return np.asarray(function(keys(n)))


def torchvisions_box(height, width, area, ratio, draw):
    """The first box of ten that fits, as torchvision's RandomResizedCrop.get_params draws it."""
    for _ in range(10):
        pixels = height * width * draw.uniform(*area)
        aspect = math.exp(draw.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if 0 < w <= width and 0 < h <= height:
            return draw.randint(0, height - h), draw.randint(0, width - w), h, w
    return None


@pytest.mark.slow
@pytest.mark.parametrize("size", [(32, 32), (30, 60)])
@pytest.mark.parametrize("xp", [np, jnp])
def test_boxes_are_distributed_as_torchvisions(size, xp):
    area, ratio, count = (0.08, 1.0), (3 / 4, 4 / 3), 3000
    uniforms = np.random.default_rng(0).random((count, boxes.UNIFORMS), np.float32)
    if xp is jnp:
        draw = jax.jit(jax.vmap(lambda u: boxes.draw_box(u, size, area, ratio, jnp)))
        drawn, fits = draw(uniforms)
        ours = np.stack(drawn, 1)[np.asarray(fits)]
    else:
        pairs = [boxes.draw_box(u, size, area, ratio, np) for u in uniforms]
        ours = np.array([box for box, fits in pairs if fits])
    draw = random.Random(0)
    theirs = [torchvisions_box(*size, area, ratio, draw) for _ in range(count)]
    theirs = np.array([box for box in theirs if box])
    error = 4 * np.sqrt((ours.var(0) + theirs.var(0)) / len(ours))
    assert (np.abs(ours.mean(0) - theirs.mean(0)) < error).all()
    np.testing.assert_allclose(ours.std(0), theirs.std(0), rtol=0.06)
    assert abs(len(ours) - len(theirs)) < 0.01 * count
    assert (ours[:, :2] + ours[:, 2:] <= size).all() and ours.min() >= 0


@pytest.mark.parametrize(
    ("size", "expected"),
    [((10, 200), (0, 93, 10, 13)), ((200, 10), (93, 0, 13, 10)), ((20, 20), (0, 0, 20, 20))],
)
def test_a_crop_that_cannot_fit_is_the_largest_in_the_centre(size, expected):
    config = DataConfig(crop_area=(1.0, 1.0), crop_ratio=(3 / 4, 4 / 3))
    uniforms = np.full(boxes.UNIFORMS, 0.25, np.float32)
    assert tuple(map(int, boxes.draw_crop(uniforms, size, config, np))) == expected


@pytest.mark.slow
@pytest.mark.parametrize(("area", "size"), [((0.05, 1.0), 32), ((0.3, 1.0), 12), ((0.02, 0.1), 40)])
def test_random_resized_crop_is_pillows_resize_of_the_box(area, size):
    config = DataConfig(image_size=size, crop_area=area)
    crops = many("random_resized_crop", config, 20)
    channels = [Image.fromarray(c) for c in np.moveaxis(PHOTOGRAPH.astype(np.float32), 2, 0)]
    for key, crop in zip(keys(20), crops, strict=True):
        uniforms = np.asarray(jax.random.uniform(key, (boxes.UNIFORMS,)))
        top, left, height, width = boxes.draw_crop(uniforms, (32, 32), config, np)
        box = (left, top, left + width, top + height)
        expected = [c.resize((size, size), Image.Resampling.BILINEAR, box) for c in channels]
        np.testing.assert_allclose(crop, np.stack(expected, -1), atol=2e-2)


def test_a_crop_of_everything_is_the_image():
    config = DataConfig(crop_area=(1.0, 1.0), crop_ratio=(1.0, 1.0), image_size=32)
    np.testing.assert_allclose(
        many("random_resized_crop", config, 1)[0], PHOTOGRAPH, rtol=1e-5, atol=1e-4
    )
    np.testing.assert_array_equal(boxes.crop_decoded(PHOTOGRAPH, 0, 0, 0, config), PHOTOGRAPH)


def test_a_decoded_images_crop_is_keyed_by_seed_step_and_position():
    config = DataConfig(crop_area=(0.1, 0.5), image_size=32)
    places = [(1, 2, 3), (1, 2, 4), (1, 3, 3), (2, 2, 3), (1, 3, 2)]
    crops = [boxes.crop_decoded(PHOTOGRAPH, *place, config).tobytes() for place in places]
    assert len(set(crops)) == len(places)
    assert boxes.crop_decoded(PHOTOGRAPH, *places[0], config).tobytes() == crops[0]


@pytest.mark.slow
def test_a_random_resized_crop_takes_the_place_of_the_random_crop():
    config = DataConfig(
        resize=32, image_size=24, mirror=True, augment=("random_erasing", "random_resized_crop")
    )
    image, own = jnp.asarray(PHOTOGRAPH, jnp.float32), keys(4)
    result = jax.jit(lambda keys: augment(jnp.stack([image] * 4), keys, config))(own)
    assert result.shape == (4, 24, 24, 3)

    # A stream has cropped already; what follows draws the same.
    @jax.jit
    def after_cropping(keys):
        name = zlib.crc32(b"random_resized_crop")
        crops = [
            boxes.random_resized_crop(image, jax.random.fold_in(key, name), config) for key in keys
        ]
        return augment(jnp.stack(crops), keys, config, is_cropped=True)

    np.testing.assert_allclose(after_cropping(own), result, atol=1e-3)


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.7])
@pytest.mark.parametrize(
    ("function", "enhance"),
    [
        (color.brightness, ImageEnhance.Brightness),
        (color.contrast, ImageEnhance.Contrast),
        (color.saturation, ImageEnhance.Color),
        (color.sharpness, ImageEnhance.Sharpness),
    ],
)
def test_blends_are_pillows_enhancements(function, enhance, factor):
    expected = np.asarray(enhance(Image.fromarray(PHOTOGRAPH)).enhance(factor))
    result = function(jnp.asarray(PHOTOGRAPH, jnp.float32), factor)
    np.testing.assert_allclose(result, expected, atol=1.5)  # Pillow rounds twice
    if factor == 1:
        np.testing.assert_array_equal(result, PHOTOGRAPH)


@pytest.mark.slow
def test_color_jitter_draws_uniform_factors():
    off = dict(jitter_brightness=0.0, jitter_contrast=0.0, jitter_saturation=0.0)
    settings = dict(mean=(0.0,) * 3, std=(1.0,) * 3)
    same = many("color_jitter", DataConfig(**settings | off), 8)
    np.testing.assert_array_equal(same, np.broadcast_to(PHOTOGRAPH, same.shape))
    dark = PHOTOGRAPH // 3  # nothing is clipped
    one = many(
        "color_jitter", DataConfig(**settings | off | {"jitter_brightness": 0.4}), 2000, dark
    )
    factors = one.mean((1, 2, 3)) / dark.mean()
    assert 0.6 <= factors.min() < 0.61 and 1.39 < factors.max() <= 1.4001
    assert factors.mean() == pytest.approx(1, abs=0.02)
    assert factors.std() == pytest.approx(0.8 / math.sqrt(12), rel=0.05)


def pillows(operation, strength, sign):
    """An operation of TrivialAugment Wide on the photograph, by Pillow."""
    image, amount = Image.fromarray(PHOTOGRAPH), strength * sign
    matrices = {
        "identity": (1, 0, 0, 0, 1, 0),
        "shear_x": (1, 0.99 * amount, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, 0.99 * amount, 1, 0),
        "translate_x": (1, 0, int(32 * amount), 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, int(32 * amount)),
    }
    if operation in matrices:
        return image.transform(image.size, Image.Transform.AFFINE, matrices[operation])
    enhancements = {
        "brightness": ImageEnhance.Brightness,
        "saturation": ImageEnhance.Color,
        "contrast": ImageEnhance.Contrast,
        "sharpness": ImageEnhance.Sharpness,
    }
    if operation in enhancements:
        return enhancements[operation](image).enhance(1 + 0.99 * amount)
    return {
        "rotate": lambda: image.rotate(135 * amount),
        "posterize": lambda: ImageOps.posterize(image, 8 - round(6 * strength)),
        "solarize": lambda: ImageOps.solarize(image, 255 * (1 - strength)),
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
    }[operation]()


@pytest.mark.slow
@pytest.mark.parametrize("operation", trivial_augment.OPERATIONS)
def test_operations_are_pillows(operation):
    number = trivial_augment.OPERATIONS.index(operation)
    image = jnp.asarray(PHOTOGRAPH, jnp.float32)
    apply = jax.jit(
        lambda strength, sign: trivial_augment.apply_operation(
            image, jnp.asarray(number), strength, sign, BLACK
        )
    )
    for level in (0, 7, 15, 21, 29):  # 30 turns the diagonals to between two pixels
        for sign in (-1.0, 1.0):
            expected = np.asarray(pillows(operation, level / 30, sign))
            difference = np.abs(np.asarray(apply(level / 30, sign)) - expected)
            if operation in ("shear_x", "shear_y", "rotate"):  # a nearest pixel may be another
                assert (difference > 0).mean() < 0.01
            else:
                blended = operation in ("brightness", "saturation", "contrast", "sharpness")
                rounded = blended or operation == "autocontrast"
                assert difference.max() < (1.5 if rounded else 1e-3)


@pytest.mark.slow
def test_normalisation_and_channel_order_change_nothing():
    """Pixels after an operation are the same in any normalisation, and on any platform's path."""
    count, rng = 2 * len(trivial_augment.OPERATIONS), np.random.default_rng(0)
    arguments = (
        jnp.arange(count) % len(trivial_augment.OPERATIONS),
        jnp.asarray(rng.integers(0, 31, count) / 30, jnp.float32),
        jnp.asarray(rng.choice([-1.0, 1.0], count), jnp.float32),
    )

    def run(config, one_by_one):
        mean, std = np.array(config.mean), np.array(config.std)
        image = PHOTOGRAPH[..., ::-1] if config.channel_order == "bgr" else PHOTOGRAPH
        image = jnp.asarray((image - mean) / std, jnp.float32)

        def apply(*arguments):
            return trivial_augment.apply_operation(image, *arguments, config)

        if one_by_one:
            apply = trivial_augment._one_by_one_on_cpu(apply)
        pixels = np.asarray(jax.jit(jax.vmap(apply))(*arguments)) * std + mean
        return pixels[..., ::-1] if config.channel_order == "bgr" else pixels

    mean, std = (104.0, 117.0, 123.0), (58.0, 57.0, 60.0)
    rgb = run(DataConfig(mean=mean[::-1], std=std[::-1]), True)
    together = run(DataConfig(mean=mean[::-1], std=std[::-1]), False)
    np.testing.assert_allclose(together, rgb, atol=1e-3)
    bgr = run(DataConfig(mean=mean, std=std, channel_order="bgr"), True)
    np.testing.assert_allclose(bgr, rgb, atol=1e-3)


@pytest.mark.slow
def test_trivial_augment_draws_operation_strength_and_sign_evenly(monkeypatch):
    monkeypatch.setattr(
        trivial_augment,
        "apply_operation",
        lambda image, *drawn, config: jnp.stack([jnp.asarray(x, jnp.float32) for x in drawn]),
    )
    operation, strength, sign = many("trivial_augment", BLACK, 20_000).T
    for values, count in ((operation, 14), (np.round(strength * 30), 31), (sign, 2)):
        found, counts = np.unique(values, return_counts=True)
        assert len(found) == count
        expected = 20_000 / count
        assert np.square(counts - expected).sum() / expected < count + 5 * math.sqrt(2 * count)
    assert np.abs(np.corrcoef([operation, strength, sign])[np.triu_indices(3, 1)]).max() < 0.03


@pytest.mark.slow
def test_erased_boxes_have_the_papers_areas_and_ratios():
    config = DataConfig(erase_probability=0.5, erase_area=(0.02, 0.4), erase_ratio=(0.3, 3.3))
    result = many("random_erasing", config, 2000, np.ones((32, 32, 3)))
    assert set(np.unique(result)) == {0, 1} and np.ptp(result, axis=-1).max() == 0
    erased = result[..., 0] == 0
    assert erased.any((1, 2)).mean() == pytest.approx(0.5, abs=0.05)
    areas, ratios = [], []
    for mask in erased[erased.any((1, 2))]:
        rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert mask.sum() == height * width  # a rectangle
        areas.append(height * width / 1024)
        ratios.append(width / height)
    assert min(areas) > 0.01 and max(areas) < 0.42
    assert min(ratios) > 0.25 and max(ratios) < 4
    assert np.mean(np.log(ratios)) == pytest.approx(0, abs=0.08)
    assert np.mean(areas) == pytest.approx(0.21, abs=0.02)  # of 0.02 to 0.4, nearly all fit
    never = many("random_erasing", DataConfig(erase_probability=0.0), 20)
    np.testing.assert_array_equal(never, np.broadcast_to(PHOTOGRAPH, never.shape))
