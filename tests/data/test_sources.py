import io
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
import sklearn.model_selection
from PIL import Image

from squeeze_jax import storage
from squeeze_jax.data import DataConfig, digits, open_data, sources
from squeeze_jax.data.decode import decode
from squeeze_jax.errors import UserError
from squeeze_jax.files import write_atomically
from tests.gcs import bucket  # noqa: F401


def settings(name="folder", data_dir="", **changes):
    return DataConfig(name=name, data_dir=str(data_dir), **{"holdout": 0.25} | changes)


def save(path: Path, colour=(10, 200, 30), size=(6, 4), **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path):
    """Two classes, 8 and 2 images; every image has its own colour."""
    for number in range(8):
        save(tmp_path / "cat" / f"{number}.png", (number, 0, 0))
    for number in range(2):
        save(tmp_path / "ant" / f"{number}.bmp", (100 + number, 0, 0))
    return tmp_path


def colours(source) -> list[int]:
    return [int(source[i][0][0, 0, 0]) for i in range(len(source))]


# ---------------------------------------------------------------- digits


def test_digits_split_is_stratified_and_fixed():
    train, evaluation = sources.load(settings("digits"))
    assert (len(train), len(evaluation), train.num_classes) == (1437, 360, 10)
    assert train.class_names == tuple("0123456789")
    counts = np.bincount(evaluation.labels)
    assert counts.sum() == 360 and counts.min() >= 34 and counts.max() <= 37
    again = sources.load(settings("digits"))[1]
    np.testing.assert_array_equal(evaluation.images, again.images)


def test_digits_are_those_that_scikit_learn_reads_and_splits():
    theirs = sklearn.datasets.load_digits()
    pixels, labels = digits.read()
    np.testing.assert_array_equal(pixels, theirs.images)
    np.testing.assert_array_equal(labels, theirs.target)
    train_images, held_images, *targets = sklearn.model_selection.train_test_split(
        theirs.images, theirs.target, test_size=360, stratify=theirs.target, random_state=0
    )
    ours = sources.load(settings("digits"))
    for source, images, target in zip(ours, (train_images, held_images), targets, strict=True):
        np.testing.assert_array_equal(source.labels, target)
        np.testing.assert_array_equal(source.images[..., 0], np.rint(images * (255 / 16)))


def test_a_folder_under_the_preset_of_digits_is_refused(folder):
    with pytest.raises(UserError, match="for a folder of images take the preset folder"):
        sources.load(settings("digits", folder))


def test_digits_images_fill_the_byte_range_in_three_equal_channels():
    image, label = sources.load(settings("digits"))[0][5]
    assert image.shape == (8, 8, 3) and image.dtype == np.uint8 and isinstance(label, int)
    assert image.max() == 255 and image.min() == 0
    np.testing.assert_array_equal(image[..., 0], image[..., 2])


# ---------------------------------------------------------------- folders


def test_folder_holds_out_a_fraction_of_every_class(folder):
    train, evaluation = sources.load(settings(data_dir=folder))
    assert train.class_names == ("ant", "cat")
    assert np.bincount(train.labels).tolist() == [1, 6] and np.bincount(
        evaluation.labels
    ).tolist() == [1, 2]
    assert sorted(colours(train) + colours(evaluation)) == [*range(8), 100, 101]
    assert colours(sources.load(settings(data_dir=folder))[1]) == colours(evaluation)


@pytest.mark.parametrize("held_out", ["val", "test"])
def test_folder_with_splits(tmp_path, held_out):
    for name in ("b", "a"):
        save(tmp_path / "train" / name / "1.PNG")
    save(tmp_path / held_out / "b" / "1.JPeG")
    save(tmp_path / ".git" / "objects" / "1.png")
    train, evaluation = sources.load(settings(data_dir=tmp_path))
    assert (train.class_names, list(train.labels), list(evaluation.labels)) == (
        ("a", "b"),
        [0, 1],
        [1],
    )


def test_modes_and_orientation_become_upright_rgb(tmp_path):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees clockwise to see it upright"
    picture.save(tmp_path / "turned.png", exif=exif)
    turned = decode(tmp_path / "turned.png", "turned")
    np.testing.assert_array_equal(turned, np.rot90(np.asarray(picture), -1))
    for mode in ("L", "1", "P", "RGBA", "LA"):
        picture.convert(mode).save(tmp_path / f"{mode}.png")
        decoded = decode(tmp_path / f"{mode}.png", mode)
        assert decoded.shape == (4, 6, 3) and decoded.dtype == np.uint8
    np.testing.assert_array_equal(decode(tmp_path / "RGBA.png", "RGBA"), np.asarray(picture))


def expect(config, *words):
    with pytest.raises(UserError) as caught:
        sources.load(config)
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message


def test_folder_errors(tmp_path):
    expect(settings(), "which image folder")
    expect(settings(data_dir=tmp_path / "nowhere"), "no such image folder", "nowhere")
    expect(settings(data_dir=tmp_path), "no class folders", "data_dir/<class>/<image>")
    save(tmp_path / "cat" / "1.png")
    save(tmp_path / "cat" / "2.png")
    expect(settings(data_dir=tmp_path), "only one class", "cat")
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "notes.txt").touch()
    expect(settings(data_dir=tmp_path), "dog", "holds no image", ".txt", "notes.txt")
    save(tmp_path / "dog" / "1.png")
    expect(settings(data_dir=tmp_path), "one image", "dog")
    save(tmp_path / "dog" / "2.png")
    expect(settings(data_dir=tmp_path, holdout=1.0), "holdout", "1.0")


def test_unknown_class_in_val(tmp_path):
    for name in ("train/a", "train/b", "val/a", "val/zebra"):
        save(tmp_path / name / "1.png")
    expect(settings(data_dir=tmp_path), "val", "zebra")


def broken_images(folder: Path) -> list[Path]:
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(
        whole, "JPEG"
    )
    png = io.BytesIO()
    Image.new("RGB", (9, 9)).save(png, "PNG")
    contents = {
        "empty.jpg": b"",
        "text.png": b"not an image",
        "cut.jpg": whole.getvalue()[:-900],
        "cut.png": png.getvalue()[:45],
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    Image.fromarray(np.full((3, 3), 0.5, np.float32)).save(folder / "float.tif")
    return [*(folder / name for name in contents), folder / "float.tif", folder / "gone.png"]


def test_unreadable_images_are_named(tmp_path):
    for path in broken_images(tmp_path):
        with pytest.raises(UserError, match=re.escape(f"cannot read image {path}: ")) as caught:
            decode(path, str(path))
        assert "\n" not in str(caught.value)


def test_decompression_bomb_is_named(tmp_path, monkeypatch):
    path = save(tmp_path / "bomb.png", size=(64, 64))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UserError, match="bomb.png.*decompression bomb"):
        decode(path, str(path))


# ---------------------------------------------------------------- TFDS


def write_tfds(
    data_dir: Path,
    name: str,
    images: Mapping[str, Sequence[np.ndarray | bytes]],
    file_format="array_record",
) -> None:
    """Prepares a data set as TFDS would, without TensorFlow: the labels run 0, 1, 0, 1, ...

    Images are pixels, or the bytes of a file.
    """
    import tensorflow_datasets as tfds

    folder = data_dir / name / "1.0.0"
    folder.mkdir(parents=True)
    image, label = (
        tfds.features.Image(shape=(None, None, 3)),
        tfds.features.ClassLabel(names=["no", "yes"]),
    )
    features = tfds.features.FeaturesDict({"image": image, "label": label})
    identity = tfds.core.DatasetIdentity(
        name=name, version=tfds.core.Version("1.0.0"), data_dir=str(folder), module_name=__name__
    )
    info = tfds.core.DatasetInfo(builder=identity, features=features)
    writer = tfds.core.SequentialWriter(info, max_examples_per_shard=3, file_format=file_format)
    writer.initialize_splits(list(images))
    for split, arrays in images.items():
        for number, array in enumerate(arrays):
            file = io.BytesIO(array if isinstance(array, bytes) else b"")
            if not isinstance(array, bytes):
                Image.fromarray(array).save(file, "PNG")
                file.seek(0)
            writer.add_examples({split: [{"image": file, "label": number % 2}]})
    writer.close_all()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("tfds")
    rng = np.random.default_rng(0)
    images = {
        split: [rng.integers(0, 256, (4 + i, 5, 3), np.uint8) for i in range(n)]
        for split, n in (("train", 5), ("test", 2))
    }
    write_tfds(data_dir, "tiny", images)
    return data_dir, images


def test_tfds_reads_what_was_written(prepared):
    data_dir, images = prepared
    for source, split in zip(
        sources.load(settings("tiny", data_dir)), ("train", "test"), strict=True
    ):
        assert (len(source), source.class_names) == (len(images[split]), ("no", "yes"))
        order = list(reversed(range(len(source))))
        for i, (image, label) in zip(order, source.read(order), strict=True):
            np.testing.assert_array_equal(image, images[split][i])
            np.testing.assert_array_equal(image, source[i][0])
            assert label == source[i][1] == i % 2


def test_tfds_reads_from_a_bucket(prepared, bucket, monkeypatch):  # noqa: F811
    data_dir, images = prepared
    # What the C++ reader of array_record calls STORAGE_EMULATOR_HOST.
    monkeypatch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", os.environ["STORAGE_EMULATOR_HOST"])
    for file in data_dir.rglob("*.*"):
        if file.is_file():
            path = storage.as_path(bucket) / "data" / file.relative_to(data_dir)
            write_atomically(path, file.read_bytes())
    train, _ = sources.load(settings("tiny", f"{bucket}/data"))
    for i, image in enumerate(images["train"]):
        np.testing.assert_array_equal(train[i][0], image)
    with pytest.raises(UserError, match="an image folder lies on a disk; copy gs://"):
        sources.load(settings("folder", f"{bucket}/data"))


@pytest.mark.parametrize("placement", ["memory", "stream"])
def test_a_broken_image_of_tfds_is_skipped(tmp_path, placement):
    image = np.full((4, 4, 3), 9, np.uint8)
    write_tfds(tmp_path, "tiny", {"train": [image, b"no image", image], "test": [image, image]})
    size = dict(resize=4, image_size=4, skip_unreadable=True)
    opened = open_data(settings("tiny", tmp_path, placement=placement, **size))
    assert (opened.num_train, opened.num_eval) == (2, 2)


def test_tfds_slices_of_splits(prepared):
    train, evaluation = sources.load(
        settings("tiny:1.0.0", prepared[0], train_split="train[:3]", eval_split="train[3:]")
    )
    assert (len(train), len(evaluation)) == (3, 2)


@pytest.mark.slow
def test_tfds_needs_no_tensorflow(prepared):
    """In a process of its own: another test may have imported it."""
    code = f"""
import sys
from squeeze_jax.data import DataConfig, sources
train, _ = sources.load({settings("tiny", prepared[0])!r})
assert train[0][0].shape == (4, 5, 3)
assert "tensorflow" not in sys.modules
"""
    subprocess.run(
        [sys.executable, "-c", code], check=True, env=os.environ | {"JAX_PLATFORMS": "cpu"}
    )


def test_tfds_errors(prepared, tmp_path):
    data_dir, _ = prepared
    expect(
        settings("cifar10", tmp_path),
        "pip install 'squeeze_jax[prepare]' && tfds build cifar10 --file_format=array_record",
        str(tmp_path),
    )
    expect(
        settings("imagenet2012", tmp_path),
        "tfds build imagenet2012",
        f"{tmp_path}/downloads/manual",
    )
    expect(settings("cifarten", tmp_path), "unknown data set 'cifarten'")
    expect(settings("no such name!", tmp_path), "unknown data set 'no such name!'")
    expect(settings("tiny", data_dir, eval_split="validation"), "split 'validation'", "tiny")


def test_tfds_in_another_format_says_how_to_prepare_it(prepared, tmp_path):
    write_tfds(tmp_path, "other", {"train": [np.zeros((2, 2, 3), np.uint8)]})
    info = tmp_path / "other" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    expect(settings("other", tmp_path), "is not array_record", "--overwrite", "tfds build other")
