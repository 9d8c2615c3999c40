import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from squeeze_jax import data
from squeeze_jax.cli import main
from squeeze_jax.data import ArraySource, DataConfig, load, load_split, prepare, relabel
from squeeze_jax.data.prepared import PREPARATION_FILE, Settings, read_preparation
from squeeze_jax.errors import UserError
from squeeze_jax.network.preprocessing import resize

SIZE = 24
SETTINGS = Settings(SIZE, "short", (255, 255, 255), 95)


def picture(random, height, width) -> np.ndarray:
    """Smooth, as photographs are: JPEG and resizing keep it."""
    coarse = random.integers(0, 256, (4, 5, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> Path:
    """A folder of 150 training and 70 evaluation images of three classes and many sizes."""
    root, random = tmp_path_factory.mktemp("originals"), np.random.default_rng(0)
    for split, count in (("train", 150), ("val", 70)):
        for number in range(count):
            path = root / split / "abc"[number % 3] / f"{number:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            size = random.integers(20, 80, 2)
            Image.fromarray(picture(random, *size)).save(path)
    return root


def settings(folder, **changes) -> DataConfig:
    defaults = dict(name="folder", data_dir=str(folder), resize=SIZE, resize_mode="short")
    return DataConfig(**defaults | dict(image_size=20, placement="stream", workers=2) | changes)


def run(originals, output, *flags) -> int:
    keys = dict(resize=SIZE, image_size=20)
    options = [f"--set={key}={value}" for key, value in keys.items()]
    command = ["prepare", str(output), f"--data-dir={originals}", "--workers=1"]
    return main([*command, *options, *map(str, flags)])


@pytest.fixture(scope="module")
def prepared(originals, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("prepared") / "set"
    assert run(originals, folder) == 0
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """By Pillow, whose encoder is another one than the program's."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling="4:4:4")
    return np.asarray(Image.open(file))


@pytest.mark.parametrize("mode", ["short", "squash", "uncropped"])
def test_images_are_the_originals_resized_and_stored_as_jpeg(originals, tmp_path, mode):
    config = settings(originals)
    prepare.prepare(load(config), dataclasses.replace(SETTINGS, resize_mode=mode), tmp_path)
    after = load(settings(tmp_path, name="prepared"))
    read = "short" if mode == "uncropped" else mode
    for source, stored in zip(load(config), after, strict=True):
        assert stored.class_names == source.class_names and len(stored) == len(source)
        for i in range(len(source)):
            (image, label), (small, same) = source[i], stored[i]
            assert label == same
            if min(image.shape[:2]) < SIZE and mode == "uncropped":
                assert small.shape == image.shape
            expected = jpeg(prepare.shrink(image, SIZE, mode), 95).astype(int)
            assert np.abs(small - expected).max() <= 1
            difference = resize(small, SIZE, read) - resize(image, SIZE, read).astype(int)
            assert np.abs(difference).mean() < 8


@pytest.mark.parametrize("size", [(70, 91), (333, 500), (25, 90), (90, 25), (24, 24), (10, 60)])
def test_the_centre_of_the_short_side_is_what_training_made_of_the_original(size):
    image = picture(np.random.default_rng(1), *size)
    small = prepare.shrink(image, SIZE, "uncropped")
    difference = resize(small, SIZE, "short").astype(int) - resize(image, SIZE, "short")
    assert np.abs(difference).max() <= 1 and np.mean(difference != 0) < 0.02
    if min(size) > SIZE:
        assert min(small.shape[:2]) == SIZE
        assert 0 <= max(size) / min(size) * SIZE - max(small.shape[:2]) < 2


@pytest.mark.slow
def test_workers_do_not_matter_and_a_finished_shard_is_not_written_again(
    originals, prepared, tmp_path, capsys
):
    assert run(originals, tmp_path / "set", "--workers=2") == 0
    assert content(tmp_path / "set") == content(prepared)
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "set").glob("*-of-*")}
    (tmp_path / "set" / "train-00001-of-00002").unlink()
    with pytest.raises(UserError, match="train-00001-of-00002 is missing.*again"):
        load(settings(tmp_path / "set", name="prepared"))
    assert run(originals, tmp_path / "set") == 0
    assert content(tmp_path / "set") == content(prepared)
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "set").glob("*-of-*")}
    assert [name for name in after if after[name] != times[name]] == ["train-00001-of-00002"]
    assert "150 train, 70 eval images" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("signum, code", [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
def test_a_killed_preparation_goes_on_and_ends_with_the_same_bytes(
    originals, prepared, tmp_path, signum, code
):
    command = [sys.executable, "-m", "squeeze_jax", "prepare", tmp_path / "set", "--workers=2"]
    command += [f"--data-dir={originals}", f"--set=resize={SIZE}", "--set=image_size=20"]
    process = subprocess.Popen(command, env=os.environ | {"JAX_PLATFORMS": "cpu"}, stderr=-1)
    while not list((tmp_path / "set").glob(".*.json")) and process.poll() is None:
        time.sleep(0.01)  # until the first shard is written
    process.send_signal(signum)
    process.communicate()
    if process.returncode != 0:  # it may have been quicker than the signal
        assert process.returncode == code
        with pytest.raises(UserError, match="did not end.*squeeze-jax prepare again"):
            load(settings(tmp_path / "set", name="prepared"))
    time.sleep(0.5)  # workers end with their parent
    assert run(originals, tmp_path / "set") == 0
    assert content(tmp_path / "set") == content(prepared)


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--quality=50"], "quality 95, not 50"),
        (["--set=resize=32"], "resize 24, not 32"),
        (["--set=resize_mode=squash"], "resize_mode short, not squash"),
        (["--set=background=(0, 0, 0)"], "background (255, 255, 255), not (0, 0, 0)"),
        (["--set=holdout=0.5"], ""),
    ],
)
def test_a_folder_of_another_preparation_is_refused(originals, prepared, capsys, flags, words):
    before = content(prepared)
    assert run(originals, prepared, *flags) == (2 if words else 0)
    assert words in capsys.readouterr().err
    assert content(prepared) == before


def test_what_cannot_be_prepared_is_refused_in_one_line(originals, prepared, tmp_path, capsys):
    (tmp_path / "mine").write_text("precious")
    for arguments, words in (
        ((originals, tmp_path), "exists already; name a new folder"),
        ((tmp_path, tmp_path / "set"), "no class folders"),
        ((prepared, tmp_path / "set", "--set=name=prepared"), "is prepared already"),
        ((originals, tmp_path / "set", "--set=resise=3"), "did you mean data.resize"),
        ((originals, "gs://bucket/set"), "prepared data lie on a disk"),
        ((originals, tmp_path / "set", "--quality=0"), "--quality is 1 to 100; got 0"),
        ((originals, tmp_path / "set", "--preset=imagnet"), "no preset 'imagnet'"),
    ):
        assert run(*arguments) == 2
        line = capsys.readouterr().err
        assert words in line and line.count("\n") == 1, line
    with pytest.raises(UserError, match="prepared data lie on a disk"):
        load_split("prepared", "gs://bucket/set", None)
    assert not (tmp_path / "set").exists() and not Path("gs:").exists()
    assert (tmp_path / "mine").read_text() == "precious"


def test_training_with_another_resize_is_refused_unless_the_stored_pixels_suffice(
    prepared, originals, tmp_path
):
    def opened(folder, **changes):
        return data.open_data(settings(folder, name="prepared", **changes))

    random = dict(augment=("random_resized_crop",))
    whole, squashed = tmp_path / "whole", tmp_path / "squashed"
    for folder, mode in ((whole, "uncropped"), (squashed, "squash")):
        changed = dataclasses.replace(SETTINGS, resize_mode=mode)
        prepare.prepare(load(settings(originals)), changed, folder)
    for changes in (dict(resize=22), dict(resize_mode="squash"), random, {}):
        assert opened(whole, **changes).num_train == 150
    assert opened(prepared, resize=20).num_train == 150
    assert opened(squashed, resize_mode="squash", resize=21, **random, placement="memory")
    for folder, changes, words in (
        (prepared, dict(resize=25), "resize=24, too small for data.resize=25"),
        (prepared, dict(background=(0, 0, 0)), "background"),
        (prepared, random, "resize_mode=short, and random_resized_crop needs whole images"),
        (squashed, {}, "resize_mode=squash, and data.resize_mode=short needs whole images"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            opened(folder, **changes)
        assert "\n" not in str(caught.value)
    network = data.pipeline.Preprocessing(20, 32, "short", "rgb", (0.0,) * 3, (1.0,) * 3)
    source = load_split("prepared", str(prepared), None)
    relabelled = relabel(source.subset(range(9)), source.class_names)
    for use in (data.evaluation_data, lambda *each: data.sample(*each, 4)):
        with pytest.raises(UserError, match="too small for data.resize=32"):
            use(relabelled, network)


def test_rectangles_are_prepared(originals, tmp_path):
    """The same pixels as of the originals, to JPEG; cut images serve their own proportions."""
    keys = dict(resize=(16, 24), image_size=(14, 20), resize_mode="short")
    flags = [f"--set={key}={value}" for key, value in keys.items()]
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    assert run(originals, cut, *flags) == run(originals, whole, *flags, "--uncropped") == 0
    assert load_split("prepared", str(cut), None)[0][0].shape == (16, 24, 3)
    assert read_preparation(whole).settings.resize == 24
    direct = data.open_data(settings(originals, placement="memory", **keys))
    for folder in (cut, whole):
        opened = data.open_data(settings(folder, name="prepared", placement="memory", **keys))
        found, expected = (each.eval_device_data["image"].astype(int) for each in (opened, direct))
        assert found.shape == (70, 16, 24, 3) and np.abs(found - expected).mean() < 4
    with pytest.raises(UserError, match="cut the images to other proportions than data.resize=16"):
        data.open_data(settings(cut, name="prepared", **keys | dict(resize=16, image_size=14)))
    data.open_data(settings(whole, name="prepared", **keys | dict(resize=16, image_size=14)))


def test_splits_of_a_prepared_set(prepared, tmp_path):
    assert load_split("prepared", str(prepared), None).name == "originals0/eval"
    assert len(load_split("prepared", str(prepared), "train")) == 150
    with pytest.raises(UserError, match="no split 'val'; it has train, eval"):
        load_split("prepared", str(prepared), "val")
    with pytest.raises(UserError, match="no prepared data in .*squeeze-jax prepare"):
        load_split("prepared", str(tmp_path), None)


def test_sources_in_memory_and_a_test_set_can_be_prepared(tmp_path):
    random = np.random.default_rng(0)
    images = np.stack([picture(random, 30, 30) for _ in range(9)])
    source = ArraySource("toys/train", ("a", "b"), images, np.arange(9) % 2)
    prepare.prepare([source, source.subset([8]), source.subset([1, 0])], SETTINGS, tmp_path)
    test = data.open_data(settings(tmp_path, name="prepared")).on_test()
    assert test is not None and [test.eval_source[i][1] for i in range(2)] == [1, 0]


def test_unreadable_images_are_refused_or_skipped_as_in_training(originals, tmp_path, capsys):
    random = np.random.default_rng(0)
    root = tmp_path / "damaged"
    for split, count in (("train", 140), ("val", 4)):
        for number in range(count):
            path = root / split / "ab"[number % 2] / f"{number:03}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(random, 40, 40)).save(path)
    for path in sorted((root / "train" / "b").iterdir())[1:60:20]:
        path.write_bytes(path.read_bytes()[:300])
    assert run(root, tmp_path / "set") == 2
    error = capsys.readouterr().err
    with pytest.raises(UserError) as caught:
        data.open_data(settings(root))
    assert error == f"error: {caught.value}\n" and "cannot read 3 of 144 images" in error
    assert run(root, tmp_path / "set", "--skip-unreadable") == 0
    assert "cannot read 3 of 144 images" in capsys.readouterr().err
    kept = data.open_data(settings(root, skip_unreadable=True)).train_source
    stored = load(settings(tmp_path / "set", name="prepared"))[0]
    assert len(stored) == 137
    assert [kept[i][1] for i in range(137)] == [stored[i][1] for i in range(137)]
    assert run(root, tmp_path / "set") == 2  # not asked to skip any more
    for path in (root / "train" / "b").iterdir():
        path.write_bytes(b"")
    assert run(root, tmp_path / "none", "--skip-unreadable") == 2
    assert "no training image of class 'b'" in capsys.readouterr().err


def test_damaged_files_of_a_prepared_set_are_named(prepared, tmp_path):
    (tmp_path / PREPARATION_FILE).write_text("{}")
    with pytest.raises(UserError, match="preparation.json is damaged"):
        load(settings(tmp_path, name="prepared"))
    text = (prepared / PREPARATION_FILE).read_text()
    (tmp_path / PREPARATION_FILE).write_text(text.replace('"format": 1', '"format": 2'))
    with pytest.raises(UserError, match="another version"):
        load(settings(tmp_path, name="prepared"))
    (tmp_path / PREPARATION_FILE).write_text(text)
    for path in prepared.glob("*-of-*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert len(load(settings(tmp_path, name="prepared"))[1]) == 70
    (tmp_path / "eval-00000-of-00001").write_bytes(b"cut")
    with pytest.raises(UserError, match="eval-00000-of-00001 is cut short"):
        load(settings(tmp_path, name="prepared"))


def test_the_record_tells_one_preparation_from_another(originals, prepared, tmp_path):
    def record(folder):
        return data.open_data(settings(folder, name="prepared")).record()

    first = record(prepared)
    assert record(prepared) == first
    assert run(originals, tmp_path / "set", "--quality=50") == 0
    assert record(tmp_path / "set")["fingerprint"] != first["fingerprint"]
    shards = json.loads((prepared / PREPARATION_FILE).read_text())["shards"]["train"]
    assert [shard["images"] for shard in shards] == [75, 75]


def test_batches_are_a_pure_function_of_seed_and_step(originals, tmp_path):
    assert run(originals, tmp_path / "set", "--uncropped") == 0

    def batches(start, count, **changes):
        opened = data.open_data(settings(tmp_path / "set", name="prepared", **changes))
        stream = opened.train(16, 3).batches(start)
        return [next(stream) for _ in range(count)]

    random = dict(augment=("random_resized_crop",))
    for changes in ({}, random):
        whole, resumed = batches(0, 12, **changes), batches(7, 5, workers=1, **changes)
        for left, right in zip(whole[7:], resumed, strict=True):
            for name in left:
                np.testing.assert_array_equal(left[name], right[name])


def test_random_crops_keep_proportions_whatever_the_mode(originals, tmp_path, capsys):
    augment = ["--set=augment=('random_resized_crop',)", "--set=resize_mode=squash"]
    assert run(originals, tmp_path / "set", *augment) == 0
    assert "crops of 7 to 20 pixels will be enlarged" in capsys.readouterr().out
    stored = load(settings(tmp_path / "set", name="prepared"))[0]
    assert stored.preparation.settings.resize_mode == "uncropped"
