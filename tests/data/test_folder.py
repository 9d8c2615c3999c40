"""What is a split, a class and an image in a folder; nothing is left out without a word."""

import io
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from squeeze_jax import cli, data
from squeeze_jax.data import DataConfig, evaluation_data, load, load_split, sample
from squeeze_jax.data.folder import list_images, scan
from squeeze_jax.errors import UserError
from squeeze_jax.network import Preprocessing

PREPROCESSING = Preprocessing(8, 8, "squash", "rgb", (127.5,) * 3, (127.5,) * 3)


def make(root: Path, *names: str) -> Path:
    """Writes images of one colour each, or other files where the suffix is of none."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".txt", ".csv", ".db"):
            path.write_text("text")
            continue
        buffer = io.BytesIO()
        Image.new("RGB", (9, 8), (number, 0, 0)).save(buffer, "PNG")
        path.write_bytes(buffer.getvalue())
    return root


def settings(root: Path, **changes) -> DataConfig:
    return DataConfig(name="folder", data_dir=str(root), resize=8, image_size=8, **changes)


def names(source) -> list[str]:
    return [path.relative_to(source.root).as_posix() for path in source.paths]


def test_images_of_any_suffix_and_depth_are_used(tmp_path, capsys):
    paths = [f"{c}/{n}" for c in "ab" for n in ("0.jfif", "1.TIF", "2023/05/2.gif", "3")]
    train, evaluation = load(settings(make(tmp_path, *paths), holdout=0.25))
    assert sorted(names(train) + names(evaluation)) == sorted(paths)
    assert capsys.readouterr() == ("", "")


def test_what_is_left_out_is_counted_by_reason_in_one_line(tmp_path, capsys):
    make(tmp_path, "a/0.png", "a/1.png", "b/0.png", "b/1.png", "stray.png", "a/x.csv", "b/y.csv")
    make(tmp_path, "__MACOSX/a/._0.jpg", "a/.hidden.png", "b/Thumbs.db", "@eaDir/a/0.png")
    (tmp_path / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "b" / "again").symlink_to(tmp_path / "b")
    train, evaluation = load(settings(tmp_path))
    assert len(train) + len(evaluation) == 4 and train.class_names == ("a", "b")
    (line,) = capsys.readouterr().err.splitlines()
    assert f"2 not an image (.csv) (first: {tmp_path}/a/x.csv)" in line
    assert f"1 outside class folders (first: {tmp_path}/stray.png)" in line
    assert "1 broken link" in line and "1 link to a folder above it" in line


@pytest.mark.parametrize("held_out", ["val", "valid", "Validation", "test", "Testing"])
def test_splits_by_their_usual_names(tmp_path, held_out):
    make(tmp_path, "Train/a/0.png", "Train/b/0.png", f"{held_out}/b/1.png")
    train, evaluation = load(settings(tmp_path))
    assert names(train) == ["Train/a/0.png", "Train/b/0.png"]
    assert (names(evaluation), list(evaluation.labels)) == ([f"{held_out}/b/1.png"], [1])


def test_of_three_splits_the_last_is_apart(tmp_path):
    make(tmp_path, *(f"{split}/{c}/0.png" for split in ("train", "valid", "test") for c in "ab"))
    splits = load(settings(tmp_path))
    assert [names(split)[0] for split in splits] == [
        "train/a/0.png",
        "valid/a/0.png",
        "test/a/0.png",
    ]
    opened = data.open_data(settings(tmp_path))
    assert opened.on_test().eval_source.paths == splits[2].paths
    np.testing.assert_array_equal(
        opened.on_test().eval_device_data["image"][:, 0, 0, 0],
        [split[0][0, 0, 0] for split in splits[2]],
    )
    assert (
        data.open_data(settings(make(tmp_path / "train", "a/1.png", "b/1.png"))).on_test() is None
    )


def test_evaluation_takes_the_same_layouts(tmp_path):
    make(tmp_path, *(f"{split}/{c}/0.png" for split in ("train", "valid", "test") for c in "ab"))

    def split(root, name=None):
        return names(load_split("folder", str(root), name))

    assert split(tmp_path)[0] == "test/a/0.png"
    assert split(tmp_path, "val")[0] == split(tmp_path, "valid")[0] == "valid/a/0.png"
    assert split(tmp_path / "train") == ["a/0.png", "b/0.png"]
    with pytest.raises(UserError, match="has no split 'dev'; it has train, val, test"):
        split(tmp_path, "dev")
    with pytest.raises(UserError, match="has no split 'val'; it has none"):
        split(tmp_path / "train", "val")


def test_the_current_folder_has_its_own_name(tmp_path, monkeypatch):
    make(tmp_path / "fruit", "a/0.png", "b/0.png")
    monkeypatch.chdir(tmp_path / "fruit")
    assert load_split("folder", ".", None).name == "fruit"


@pytest.mark.parametrize("prefix", ["", "train/"])
def test_a_flat_test_folder_is_for_predict(tmp_path, capsys, prefix):
    make(tmp_path, *(f"{prefix}{c}/{i}.png" for c in "ab" for i in range(2)), "test/9.png")
    train, evaluation = load(settings(tmp_path))
    assert train.class_names == ("a", "b") and len(train) == len(evaluation) == 2
    assert "test holds 1 images without class folders" in capsys.readouterr().err
    assert [path.name for path in list_images([tmp_path / "test"])] == ["9.png"]
    with pytest.raises(UserError, match="no class folders in .*test; .*squeeze-jax predict"):
        load_split("folder", str(tmp_path / "test"), None)


def test_val_beside_classes_is_a_split_if_it_holds_the_same(tmp_path):
    make(tmp_path, "a/0.png", "b/0.png", "test/a/1.png", "test/b/1.png")
    assert [len(split) for split in load(settings(tmp_path))] == [2, 2]
    other = make(tmp_path / "other", *(f"{c}/{i}.png" for c in ("a", "b", "test/1") for i in "01"))
    assert load(settings(other))[0].class_names == ("a", "b", "test")  # a class of that name


@pytest.mark.parametrize(
    "folders",
    [
        ("training_set/a", "training_set/b", "test_set/a", "test_set/b"),
        ("train/a", "train/b", "dev/a", "dev/b", "notes/2023"),
        ("val/a", "val/b", "test/a", "test/b"),
        ("a", "b", "test/a", "test/b", "test/unknown"),
    ],
)
def test_a_split_is_not_taken_for_a_class(tmp_path, folders):
    make(tmp_path, *(f"{folder}/{i}.png" for folder in folders for i in range(2)))
    with pytest.raises(UserError, match=r"looks like a split, not a class.*train, val and test"):
        load(settings(tmp_path))


def test_classes_named_like_splits_stay_classes(tmp_path):
    make(tmp_path, *(f"{c}/{y}/{i}.png" for c in ("bus", "train") for y in "12" for i in "01"))
    assert load(settings(tmp_path))[0].class_names == ("bus", "train")


def test_a_class_has_one_name_in_all_splits_in_either_unicode_form(tmp_path):
    short, long = (unicodedata.normalize(form, "carr\u00e9") for form in ("NFC", "NFD"))
    make(tmp_path, f"train/{long}/0.png", "train/b/0.png", "val/b/0.png", f"val/{short}/0.png")
    make(tmp_path, f"val/{long}/1.png")
    evaluation = load(settings(tmp_path))[1]
    assert [evaluation.class_names[label] for label in evaluation.labels] == ["b", long, long]


def test_layouts_that_are_refused(tmp_path):
    def message(root: Path) -> str:
        with pytest.raises(UserError) as caught:
            load(settings(root))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    flat = make(tmp_path / "flat", "train/0.png", "train/1.png", "val/0.png", "val/1.png")
    assert "train has no class folders" in message(flat)
    twice = make(tmp_path / "twice", "train/a/0.png", "val/a/0.png", "valid/a/0.png")
    assert "are the same split" in message(twice)
    deep = make(tmp_path / "deep", *(f"images/{c}/{i}.png" for c in "ab" for i in range(2)))
    assert f"is data_dir={deep}/images meant?" in message(deep)


def test_empty_folders_are_named(tmp_path, capsys):
    make(tmp_path, *(f"train/{c}/{i}.png" for c in "ab" for i in range(2)))
    (tmp_path / "val").mkdir()
    assert [len(split) for split in load(settings(tmp_path))] == [2, 2]
    assert "val holds no image and is not used" in capsys.readouterr().err
    (tmp_path / "train" / "c").mkdir()
    with pytest.raises(UserError, match="class folder .*c holds no image"):
        load(settings(tmp_path))


def broken(root: Path) -> Path:
    make(root, *(f"{c}/{i}.png" for c in "ab" for i in range(10)))
    (root / "a" / "3.png").write_bytes(b"")
    (root / "a" / "7.png").write_bytes(b"")
    (root / "b" / "5.png").write_bytes(b"<html>")
    return root


@pytest.mark.parametrize("placement", ["memory", "stream"])
def test_all_unreadable_images_are_found_before_training(tmp_path, capsys, placement):
    root = broken(tmp_path)
    with pytest.raises(UserError) as caught:
        data.open_data(settings(root, placement=placement))
    line = str(caught.value)
    assert "cannot read 3 of 20 images" in line and "data.skip_unreadable=True" in line
    assert f"2 empty file (first: {root}/a/3.png)" in line and "1 not an image" in line
    opened = data.open_data(settings(root, placement=placement, skip_unreadable=True))
    assert "cannot read 3 of 20 images" in capsys.readouterr().err
    assert opened.num_train + opened.num_eval == 17
    expected = [image[0, 0, 0] for image, _ in opened.eval_source]
    if placement == "memory":
        assert opened.eval_device_data["image"][:, 0, 0, 0].tolist() == expected
    else:
        batches = opened.evaluation(1).batches()
        assert [batch["image"][0, 0, 0, 0] for batch in batches] == expected


@pytest.mark.parametrize("placement", ["memory", "stream"])
def test_skipping_leaves_an_image_of_each_class_and_split(tmp_path, placement):
    changes = {"placement": placement, "skip_unreadable": True}
    make(tmp_path, *(f"{s}/{c}/{i}.png" for s in ("train", "val") for c in "ab" for i in "01"))
    for path in tmp_path.glob("val/*/*"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="/eval: none of its 4 images can be read"):
        data.open_data(settings(tmp_path, **changes))
    for path in tmp_path.glob("train/b/*"):
        path.write_bytes(b"")
    make(tmp_path, "val/a/0.png")
    with pytest.raises(UserError, match="no training image of class 'b' can be read"):
        data.open_data(settings(tmp_path, **changes))


def test_evaluation_and_calibration_find_them_too(tmp_path):
    source = load_split("folder", str(broken(tmp_path)), None)
    with pytest.raises(UserError, match="cannot read 3 of 20 images"):
        evaluation_data(source, PREPROCESSING)
    assert evaluation_data(source, PREPROCESSING, skip_unreadable=True).num_eval == 17
    with pytest.raises(UserError, match="cannot read 3 of 20 images"):
        sample(source, PREPROCESSING, 99)
    assert len(sample(source, PREPROCESSING, 99, skip_unreadable=True)) == 17


def test_background_reaches_every_reader(tmp_path):
    for name in ("a", "b"):
        for i in range(2):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.new("RGBA", (8, 8), (9, 9, 9, 0)).save(tmp_path / name / f"{i}.png")
    opened = data.open_data(settings(tmp_path, background=(1, 2, 3)))
    assert opened.train_device_data["image"][0, 0, 0].tolist() == [1, 2, 3]
    source = load_split("folder", str(tmp_path), None, (1, 2, 3))
    assert source[0][0][0, 0].tolist() == [1, 2, 3]
    assert scan(tmp_path).left_out == {}


def test_fingerprint_is_of_paths_and_sizes(tmp_path):
    make(tmp_path, *(f"{c}/{i}.png" for c in "ab" for i in range(4)))
    first = data.open_data(settings(tmp_path)).record()
    assert data.open_data(settings(tmp_path)).record() == first
    make(tmp_path, "b/4.png")
    second = data.open_data(settings(tmp_path)).record()
    assert second["fingerprint"] != first["fingerprint"]
    assert (first["images"], second["images"]) == ({"train": 6, "eval": 2}, {"train": 7, "eval": 2})


def test_the_data_command_tells_of_a_folder_that_cannot_be_trained_on(tmp_path, capsys):
    make(tmp_path, *(f"images/{c}/{i}.png" for c in "ab" for i in range(2)))
    assert cli.main(["data", str(tmp_path)]) == 0
    assert f"cannot be trained on: {tmp_path} has only one class" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ((unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")), "two classes are"),
        ((os.fsdecode(b"d\xe9g"), "e"), "is not valid UTF-8; rename it"),
        (("a", "b\nc"), ""),
    ],
)
def test_the_data_command_refuses_the_names_that_launch_refuses(tmp_path, capsys, classes, words):
    make(tmp_path, *(f"{c}/{i}.png" for c in classes for i in range(2)))
    assert cli.main(["data", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert words in out and ("cannot be trained on: " in out) == bool(words)
    assert words or r"'b\nc'" in out


def test_the_data_command_tells_of_a_class_without_a_whole_image(tmp_path, capsys):
    make(tmp_path, *(f"{c}/{i}.png" for c in "ab" for i in range(4)))
    for path in (tmp_path / "b").iterdir():
        path.write_bytes(path.read_bytes()[:20])
    assert cli.main(["data", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "no training image of class 'b' can be read" in out and "skip_unreadable" not in out


def test_the_data_command_tells_how_a_folder_is_read(tmp_path, capsys):
    make(tmp_path, *(f"train/{c}/{i}.png" for c in "ab" for i in range(3)), "train/a/notes.txt")
    make(tmp_path, "valid/a/0.png", "valid/b/1.png")
    (tmp_path / "valid/b/1.png").write_bytes((tmp_path / "train/a/2.png").read_bytes())
    (tmp_path / "train/b/0.png").write_bytes(b"")
    Image.new("RGB", (40, 8)).save(tmp_path / "train/b/1.png")
    assert cli.main(["data", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{tmp_path}: 2 classes, 8 images"
    assert [line.split() for line in lines if line[:2] in ("cl", "a ", "b ", "al")] == [
        ["class", "train", "val"],
        ["a", "3", "1"],
        ["b", "3", "1"],
        ["all", "6", "2"],
    ]
    text = "\n".join(lines)
    assert "pixels: 9 to 40 (median 9) wide, 8 high" in text
    first = f"{tmp_path}/train/a/2.png = {tmp_path}/valid/b/1.png"
    assert f"equal files in several splits: 2 (first: {tmp_path}/train/a/0.png" in text
    assert f"equal files in several classes: 1 (first: {first})" in text
    assert "1 not an image (.txt)" in text and "cannot be read: 1 empty file" in text
