"""A folder of images: what is a split, a class and an image in it, and what is left out.

Every file under a class folder is used, or reported:

- An image is what Pillow opens, whatever its suffix, at any depth under its class folder.
- The folder train (or training) holds the classes to train on, beside val (valid, validation) or
  test (testing). Where all three are there, val is what designs are chosen by.
- A val or test folder without class folders is for `squeeze-jax predict` only.
- Without these folders every folder is a class, of which `data.holdout` is held out.
- Hidden files and what archives and systems leave behind are skipped; other files that are no
  images are counted by reason.
"""

import dataclasses
import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from squeeze_jax.data.config import DataConfig
from squeeze_jax.data.decode import decode, is_image
from squeeze_jax.data.source import Example, Source, fingerprint
from squeeze_jax.errors import UserError
from squeeze_jax.network.labels import nfc
from squeeze_jax.storage import as_path, is_remote

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
LAYOUT = "expected data_dir/<class>/<image> or data_dir/{train,val,test}/<class>/<image>"
_SPLIT_LIKE = re.compile(r"train|val|test|dev|eval|holdout", re.IGNORECASE)  # starts such a name
_SYSTEM_NAMES = frozenset({"__macosx", "@eadir", "thumbs.db", "ehthumbs.db", "desktop.ini"})

Classes = Mapping[str, Sequence[Path]]  # class name -> its images; both sorted
LeftOut = dict[str, list[Path]]  # reason -> files


@dataclasses.dataclass(frozen=True)
class ImageFolder:
    """How a folder is read.

    Attributes:
      root: the folder.
      splits: "train", "val", "test" -> classes; without split folders "train" alone.
      folders: the same -> the folder that holds the classes.
      unlabelled: split -> images without class folders; none where the split is empty.
      left_out: reason -> files that are not used; hidden ones are not among them.
    """

    root: Path
    splits: Mapping[str, Classes]
    folders: Mapping[str, Path]
    unlabelled: Classes
    left_out: Mapping[str, Sequence[Path]]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes to train on, in order of their labels."""
        return tuple(self.splits["train"])

    def notes(self) -> list[str]:
        """Returns a line on each thing that a user may not expect."""
        notes = []
        if self.left_out:
            notes.append(f"{self.root}: files not used: {count_by_reason(self.left_out)}")
        for split, images in self.unlabelled.items():
            notes.append(
                f"{self.root}: {split} holds {len(images)} images without class folders, "
                "for squeeze-jax predict only"
                if images
                else f"{self.root}: {split} holds no image and is not used"
            )
        for split in self.splits.keys() - {"train"}:
            absent = [name for name in self.class_names if not self.splits[split].get(name)]
            if absent:
                notes.append(f"{self.folders[split]} has no image of {_some(absent)}")
        return notes

    def holdout(self, fraction: float) -> tuple[Classes, Classes]:
        """Returns (train, held out) of each class: always the same, at least one image in either.

        Raises:
          UserError: a class has one image, or the fraction does not lie between 0 and 1.
        """
        if not 0 < fraction < 1:
            raise UserError(f"data.holdout must lie between 0 and 1, not {fraction}")
        train, held_out = {}, {}
        for name, paths in self.splits["train"].items():
            if len(paths) < 2:
                raise UserError(
                    f"class folder {self.folders['train'] / name} holds one image; "
                    "two are needed to hold one out"
                )
            count = min(max(round(fraction * len(paths)), 1), len(paths) - 1)
            chosen = frozenset(np.random.default_rng(0).permutation(len(paths))[:count].tolist())
            train[name] = [path for i, path in enumerate(paths) if i not in chosen]
            held_out[name] = [path for i, path in enumerate(paths) if i in chosen]
        return train, held_out

    def roles(self, holdout: float) -> dict[str, Classes]:
        """Returns the classes of "train", of "eval" (val, test or held out), and perhaps of "test".

        Raises:
          UserError: there is only one class; see also `holdout`.
        """
        if len(self.class_names) < 2:
            raise UserError(_one_class(self))
        others = {split: self.splits[split] for split in ("val", "test") if split in self.splits}
        if not others:
            return dict(zip(("train", "eval"), self.holdout(holdout), strict=True))
        names = ("train", "eval", "test")
        return dict(zip(names, (self.splits["train"], *others.values()), strict=False))


@dataclasses.dataclass(frozen=True, eq=False)
class FileSource(Source):
    """Image files and their labels; each read decodes the file."""

    name: str
    class_names: tuple[str, ...]
    root: Path
    paths: Sequence[Path]
    labels: Sequence[int]
    background: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Example:
        path = self.paths[index]
        return decode(path, str(path), self.background), self.labels[index]

    def is_prepared(self) -> bool:
        """Returns False: any file may be damaged."""
        return False

    def subset(self, indices: Sequence[int]) -> "FileSource":
        """Returns the source with some of its images alone."""
        return dataclasses.replace(
            self, paths=[self.paths[i] for i in indices], labels=[self.labels[i] for i in indices]
        )

    def fingerprint(self) -> str:
        """Returns a hash of the files' relative paths and sizes."""
        files = sorted(
            (path.relative_to(self.root).as_posix(), path.stat().st_size) for path in self.paths
        )
        return fingerprint(files)


def load(config: DataConfig) -> tuple[Source, ...]:
    """Returns the images to train on, those to choose by, and a test set where there is one.

    Prints what is left out.

    Raises:
      UserError: there is no such folder, or its layout is another.
    """
    folder = _open(config)
    roles = folder.roles(config.holdout)
    return tuple(source_of(folder, role, classes, config) for role, classes in roles.items())


def load_split(config: DataConfig, split: str | None) -> Source:
    """Returns one split; None takes test, val, or all images where there are no splits.

    Raises:
      UserError: there is no such split, see also `load`.
    """
    folder = _open(config)
    wanted = SPLITS.get((split or "").casefold(), split)
    if wanted is None:
        wanted = next(name for name in ("test", "val", "train") if name in folder.splits)
    elif wanted not in folder.splits or len(folder.splits) == 1:
        there = ", ".join(folder.splits) if len(folder.splits) > 1 else "none"
        raise UserError(f"{folder.root} has no split {split!r}; it has {there}")
    name = wanted if len(folder.splits) > 1 else ""
    return source_of(folder, name, folder.splits[wanted], config)


def scan(data_dir: str | Path) -> ImageFolder:
    """Looks through a folder, without decoding an image.

    Raises:
      UserError: there is no such folder, or its layout is another.
    """
    root = as_path(data_dir).expanduser()
    if is_remote(root):
        raise UserError(f"an image folder lies on a disk; copy {root} to one")
    if not str(data_dir):
        raise UserError(
            "which image folder? Give --data-dir DIR; to launch, --config.data.data_dir=DIR"
        )
    if not root.is_dir():
        where = "" if root.is_absolute() else f" in {Path.cwd()}"
        raise UserError(f"no such image folder: data_dir={str(data_dir)!r}{where}")
    left_out: LeftOut = defaultdict(list)
    folders = _subfolders(root)
    training, held_out = _split_folders(root, folders)
    classes = [folder for folder in _subfolders(training) if folder not in held_out.values()]
    if training != root:
        for folder in folders:
            if folder not in (training, *held_out.values()):
                left_out["outside the splits"] += find_images(folder, left_out)
        left_out[_OUTSIDE] += find_images(root, left_out, nested=False)
    splits: dict[str, Classes] = {"train": _class_images(training, classes, left_out)}
    name_of = {nfc(name): name for name in splits["train"]}
    unlabelled: dict[str, Sequence[Path]] = {}
    for split, folder in held_out.items():
        # Archives of different systems write the same name in different Unicode forms.
        found: dict[str, list[Path]] = defaultdict(list)
        for each in _subfolders(folder):
            found[name_of.get(nfc(each.name), each.name)] += find_images(each, left_out)
        loose = find_images(folder, left_out, nested=False)
        if not any(found.values()):
            unlabelled[split] = loose
            continue
        left_out[_OUTSIDE] += loose
        splits[split] = {name: images for name, images in found.items() if images}
        if unknown := [name for name in splits[split] if name not in splits["train"]]:
            raise UserError(f"{folder} has a class that {training} lacks: {_some(unknown)}")
    folders_of = {"train": training, **held_out}
    reasons = {reason: files for reason, files in left_out.items() if files}
    return ImageFolder(root, splits, folders_of, unlabelled, reasons)


def list_images(paths: Iterable[Path]) -> list[Path]:
    """Returns the images that paths name, all those in it for a folder; prints what is left out.

    Raises:
      UserError: a folder holds no image.
    """
    images, left_out = [], defaultdict(list)
    for path in paths:
        if is_remote(path) and path.is_dir():
            raise UserError(f"name the images in {path}, or copy it to a disk")
        found = find_images(path, left_out) if path.is_dir() else [path]
        if not found:
            raise UserError(f"{path} holds no image")
        images += found
    if left_out:
        print(f"files not used: {count_by_reason(left_out)}", file=sys.stderr)
    return images


def find_images(
    folder: Path,
    left_out: LeftOut,
    nested: bool = True,
    above: frozenset[Path] = frozenset(),
) -> list[Path]:
    """Returns the images of a folder in order of their names.

    Args:
      folder: the folder.
      left_out: receives the other files by reason.
      nested: whether those in its subfolders belong to it.
      above: the real paths of the folders that led here, so that links cannot go in circles.
    """
    found = []
    for path in _visible(folder):
        if path.is_dir():
            if not nested:
                continue
            within = above | {folder.resolve()}
            if path.resolve() in within:
                left_out["link to a folder above it"].append(path)
            else:
                found += find_images(path, left_out, nested, within)
        elif not path.is_file():
            left_out["broken link" if path.is_symlink() else "not a file"].append(path)
        elif is_image(path):
            found.append(path)
        else:
            left_out[f"not an image ({path.suffix.lower() or 'no suffix'})"].append(path)
    return found


def count_by_reason(files: Mapping[str, Sequence[Path | str]]) -> str:
    """Returns "2 empty file (first: a/1.jpg), 1 damaged (first: b/2.jpg)"."""
    return ", ".join(f"{len(each)} {reason} (first: {each[0]})" for reason, each in files.items())


_OUTSIDE = "outside class folders"


def _open(config: DataConfig) -> ImageFolder:
    folder = scan(config.data_dir)
    for line in folder.notes():
        print(line, file=sys.stderr)
    return folder


def _split_folders(root: Path, folders: Sequence[Path]) -> tuple[Path, dict[str, Path]]:
    """Returns the folder that holds the classes to train on, and those of val and test.

    Raises:
      UserError: two folders are the same split, or training images are in no class folders.
    """
    named: dict[str, Path] = {}
    for folder in folders:
        if split := SPLITS.get(folder.name.casefold()):
            if split in named:
                raise UserError(f"{named[split]} and {folder} are the same split; merge them")
            named[split] = folder
    if "train" in named and (len(named) > 1 or len(folders) == 1):
        training = named.pop("train")
        if not _subfolders(training):
            raise UserError(f"{training} has no class folders; {LAYOUT}")
        return training, _val_first(named)
    # Beside classes, val and test are splits if they hold the same classes, or none.
    named.pop("train", None)
    classes = _names(folders) - _names(named.values())
    beside = {
        split: folder
        for split, folder in named.items()
        if len(classes) > 1 and _names(_subfolders(folder)) <= classes
    }
    _reject_split_as_class(root, [each for each in folders if each not in beside.values()])
    return root, _val_first(beside)


def _reject_split_as_class(root: Path, folders: Sequence[Path]) -> None:
    """Rejects what looks like a split among the classes: it holds the same folders as another.

    Raises:
      UserError: there is one.
    """
    inner = {each: _names(_subfolders(each)) for each in folders if _SPLIT_LIKE.match(each.name)}
    for folder, classes in inner.items():
        others = {root: _names(folders)} | {each: inner[each] for each in inner if each != folder}
        for other, names in others.items():
            if len(classes & names) > 1:
                raise UserError(
                    f"{folder} looks like a split, not a class: it holds folders of the same names "
                    f"as {other}; call the splits train, val and test, and give each of them the "
                    "training set's classes"
                )


def _val_first(splits: Mapping[str, Path]) -> dict[str, Path]:
    return {split: splits[split] for split in ("val", "test") if split in splits}


def _class_images(root: Path, folders: Sequence[Path], left_out: LeftOut) -> Classes:
    if not folders:
        flat = find_images(root, defaultdict(list), nested=False)
        hint = "; `squeeze-jax predict` takes its images as they are" if flat else ""
        raise UserError(f"no class folders in {root}; {LAYOUT}{hint}")
    images = {folder.name: find_images(folder, left_out) for folder in folders}
    if empty := [name for name, paths in images.items() if not paths]:
        counts = count_by_reason({reason: files for reason, files in left_out.items() if files})
        other = f", but {counts}" if counts else ""
        raise UserError(f"class folder {root / empty[0]} holds no image{other}; {LAYOUT}")
    left_out[_OUTSIDE] += find_images(root, left_out, nested=False)
    return images


def _visible(folder: Path) -> list[Path]:
    """Returns what a folder holds, but for hidden files and what systems leave behind, by name."""
    return [
        Path(folder, name)
        for name in sorted(os.listdir(folder))
        if not name.startswith(".") and name.casefold() not in _SYSTEM_NAMES
    ]


def _subfolders(folder: Path) -> list[Path]:
    return [path for path in _visible(folder) if path.is_dir()]


def _names(folders: Iterable[Path]) -> set[str]:
    return {nfc(folder.name) for folder in folders}


def _one_class(folder: ImageFolder) -> str:
    """Returns why one class is too few, and what may be meant."""
    (name,) = folder.class_names
    inner = _subfolders(folder.folders["train"] / name)
    hint = f"; is data_dir={folder.folders['train'] / name} meant?" if len(inner) > 1 else ""
    return f"{folder.root} has only one class, {name!r}; at least two are needed{hint}"


def _some(names: Sequence[str]) -> str:
    """Returns the first names: "a, b, c and 7 more"."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def source_of(folder: ImageFolder, split: str, classes: Classes, config: DataConfig) -> FileSource:
    """Returns the images of one split, labelled by the order of the folder's classes.

    Raises:
      UserError: there are none.
    """
    names = folder.class_names
    pairs = [(path, label) for label, name in enumerate(names) for path in classes.get(name, ())]
    if not pairs:
        raise UserError(f"{folder.root} has no images in its {split} split")
    paths, labels = zip(*pairs, strict=True)
    own_name = Path(os.path.abspath(folder.root)).name  # of ".", too
    name = f"{own_name}/{split}" if split else own_name
    return FileSource(name, names, folder.root, paths, labels, config.background)
