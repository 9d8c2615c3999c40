"""Writes a prepared set (data/prepared.py): every image of a source once, resized, as JPEG.

Each shard is written whole or not at all, and has a hidden record beside it until the end. So a
preparation that was killed goes on where it was, and ends with the same bytes.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Generator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from squeeze_jax import files
from squeeze_jax.data import unreadable
from squeeze_jax.data.decode import UnreadableImage, first_line
from squeeze_jax.data.prepared import (
    LABEL,
    PREPARATION_FILE,
    UNCROPPED,
    Preparation,
    Settings,
    Shard,
    check_on_disk,
    read_preparation,
    shard_path,
)
from squeeze_jax.data.source import Source
from squeeze_jax.errors import UserError
from squeeze_jax.network import preprocessing

SPLITS = ("train", "eval", "test")
# A shard has at least so many images, if there are, and a split at most so many shards: each is an
# open file in training.
LEAST_IMAGES, MOST_SHARDS = 64, 256


class Task(NamedTuple):
    """A shard to write: the images of a split from `start` to `stop`."""

    split: str
    number: int
    count: int  # of the split's shards
    start: int
    stop: int


def prepare(
    sources: Sequence[Source],
    settings: Settings,
    folder: Path,
    workers: int = 1,
    skip_unreadable: bool = False,
) -> Preparation:
    """Writes the resized images of all splits; goes on where an earlier call was interrupted.

    Args:
      sources: to train on, to evaluate on, and perhaps to test on.
      settings: what to do to every image.
      folder: a new or empty one, or that of the same preparation.
      workers: processes; 1 is this one.
      skip_unreadable: whether to go on without images that cannot be decoded.

    Raises:
      UserError: the folder holds something else, or is not on a disk; or images cannot be decoded,
        and are not to be skipped.
      WriteError: the folder cannot be written.
    """
    check_on_disk(folder)
    whole = settings.resize_mode == UNCROPPED
    for source in sources:
        source.check_resize(settings.resize, "short" if whole else settings.resize_mode, whole)
    splits: dict[str, Source] = dict(zip(SPLITS, sources, strict=False))
    preparation = _continued(folder, _plan(splits, settings))
    tasks = [task for split, source in splits.items() for task in _tasks(split, len(source))]
    shards: dict[Task, Shard] = {}
    for task in tasks:
        shard = _finished(folder, task, preparation)
        if shard is not None and (skip_unreadable or not shard.skipped):
            shards[task] = shard
    left = [task for task in tasks if task not in shards]
    with (
        contextlib.closing(_run(_Writer(splits, settings, folder), left, workers)) as written,
        tqdm(
            desc=f"preparing {preparation.name}",
            total=sum(map(len, sources)),
            initial=sum(task.stop - task.start for task in shards),
            unit="image",
            disable=None,
        ) as bar,
    ):
        for task, shard in written:
            shards[task] = shard
            bar.update(task.stop - task.start)
    _reject(splits, shards, skip_unreadable)
    by_split = {split: [shards[task] for task in tasks if task.split == split] for split in splits}
    preparation = dataclasses.replace(preparation, shards=by_split)
    files.write_atomically(folder / PREPARATION_FILE, preparation.to_json())
    for task in tasks:
        files.remove(_record_path(folder, task))
    return preparation


def shrink(image: np.ndarray, size: preprocessing.Size, mode: str) -> np.ndarray:
    """Returns the image as it is stored.

    Args:
      image: uint8 [H, W, 3].
      size: pixels.
      mode: "squash" and "short" are those of `preprocessing.resize`. UNCROPPED resizes the short
        side and keeps the proportions; of the long side it leaves out less than two pixels, so that
        the centre square is that of "short", to rounding. An image whose short side is not larger
        stays as it is.
    """
    if mode != UNCROPPED:
        return preprocessing.resize(image, size, mode)
    height, width = image.shape[:2]
    short = max(preprocessing.height_width(size))
    scale = min(height, width) / short
    if scale <= 1:
        return image
    new_height, new_width = (
        short + int((side / scale - short) / 2) * 2 for side in (height, width)
    )
    top, left = (height - new_height * scale) / 2, (width - new_width * scale) / 2
    return np.asarray(
        Image.fromarray(image).resize(
            (new_width, new_height),
            Image.Resampling.BILINEAR,
            box=(left, top, left + new_width * scale, top + new_height * scale),
        )
    )


def encode(image: np.ndarray, quality: int, subsampling: str) -> bytes:
    """Returns an image uint8 [H, W, 3] as JPEG, of chroma 4:2:0, 4:2:2 or 4:4:4.

    By Pillow: at quality 95 and less simplejpeg encodes with a less accurate transform.
    """
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling=subsampling)
    return file.getvalue()


@dataclasses.dataclass(frozen=True)
class _Writer:
    """Writes shards."""

    splits: Mapping[str, Source]
    settings: Settings
    folder: Path

    def __call__(self, task: Task) -> Shard:
        """Writes a shard and its record.

        Raises:
          WriteError: they cannot be written.
        """
        # Imported here, since it takes long.
        from array_record.python.array_record_module import ArrayRecordWriter

        records, skipped = [], []
        for index in range(task.start, task.stop):
            try:
                records.append(self._record(self.splits[task.split], index))
            except UnreadableImage as error:
                skipped.append((index, error.name, error.reason))
        path = shard_path(self.folder, task.split, task.number, task.count)
        with files.new_file(path) as partial:
            # JPEG cannot be compressed further, and each read is of one record.
            writer = ArrayRecordWriter(str(partial), "group_size:1,uncompressed")
            for record in records:
                writer.write(record)
            writer.close()
            with partial.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            shard = Shard(len(records), partial.stat().st_size, digest, tuple(skipped))
        record = json.dumps(dataclasses.asdict(shard))
        files.write_atomically(_record_path(self.folder, task), record)
        return shard

    def _record(self, source: Source, index: int) -> bytes:
        """Returns the label and the JPEG of an image; raises UnreadableImage."""
        image, label = source[index]
        stored = shrink(image, self.settings.resize, self.settings.resize_mode)
        try:
            jpeg = encode(stored, self.settings.quality, self.settings.subsampling)
        except (OSError, ValueError) as error:
            name = f"{index} of {source.name}"
            raise UnreadableImage(name, "no JPEG can hold it", first_line(error)) from error
        return LABEL.pack(label) + jpeg


def _plan(splits: Mapping[str, Source], settings: Settings) -> Preparation:
    train = splits["train"]
    return Preparation(
        train.name.split("/")[0],
        {split: source.fingerprint() for split, source in splits.items()},
        settings,
        train.class_names,
        {split: len(source) for split, source in splits.items()},
        {},
    )


def _continued(folder: Path, wanted: Preparation) -> Preparation:
    """Returns the preparation that a folder holds, or writes the record of the one wanted.

    Raises:
      UserError: the folder holds something else.
    """
    if not (folder / PREPARATION_FILE).exists():
        visible = folder.is_dir() and any(path.name[0] != "." for path in folder.iterdir())
        if visible or not folder.is_dir():
            files.check_new(folder)
        files.write_atomically(folder / PREPARATION_FILE, wanted.to_json())
        return wanted
    there = read_preparation(folder)
    old, new = (
        {"class_names": each.class_names, "images": each.images, "fingerprint": each.fingerprint}
        | dataclasses.asdict(each.settings)
        for each in (there, wanted)
    )
    # Lists of names and of hashes say little, and the first difference comes with its cause.
    for key in (*dataclasses.asdict(wanted.settings), "images", "class_names", "fingerprint"):
        if old[key] != new[key]:
            shown = {"class_names": "other classes", "fingerprint": "other files"}
            what = shown.get(key, f"{key} {old[key]}, not {new[key]}")
            raise UserError(
                f"{folder} holds another preparation, of {there.name}: {what}; name a new folder"
            )
    return there


def _tasks(split: str, images: int) -> list[Task]:
    """Returns the shards of a split, of equal size to one image."""
    count = max(1, min(MOST_SHARDS, images // LEAST_IMAGES))
    return [
        Task(split, number, count, number * images // count, (number + 1) * images // count)
        for number in range(count)
    ]


def _finished(folder: Path, task: Task, preparation: Preparation) -> Shard | None:
    """Returns what is known of a shard that is there, whole; None for another."""
    try:
        if task.split in preparation.shards:
            shard = preparation.shards[task.split][task.number]
        else:
            shard = Shard.from_json(json.loads(_record_path(folder, task).read_text()))
        path = shard_path(folder, task.split, task.number, task.count)
        return shard if path.stat().st_size == shard.bytes else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _record_path(folder: Path, task: Task) -> Path:
    path = shard_path(folder, task.split, task.number, task.count)
    return path.with_name(f".{path.name}.json")


def _reject(
    splits: Mapping[str, Source], shards: Mapping[Task, Shard], skip_unreadable: bool
) -> None:
    """Rejects unreadable images, or says which are skipped; see `unreadable`."""
    failures: dict[str, dict[int, UnreadableImage]] = {split: {} for split in splits}
    for task, shard in sorted(shards.items()):
        for index, name, reason in shard.skipped:
            failures[task.split][index] = UnreadableImage(name, reason)
    every = [error for errors in failures.values() for error in errors.values()]
    unreadable.reject(every, sum(map(len, splits.values())), skip_unreadable)
    unreadable.reject_lost(list(splits.values()), list(failures.values()))


def _run(
    write: _Writer, tasks: Sequence[Task], workers: int
) -> Generator[tuple[Task, Shard], None, None]:
    """Writes shards in processes of their own, or here where there is one worker.

    Yields:
      each shard as soon as it is written.

    Raises:
      UserError: a process was killed.
      WriteError: a shard cannot be written.
    """
    if workers == 1:
        for task in tasks:
            yield task, write(task)
        return
    context = multiprocessing.get_context("spawn")  # a fork would take JAX's threads' locks along
    waiting = iter(tasks)
    busy: dict[Connection, Task] = {}  # by the connection to a process
    with contextlib.ExitStack() as stack:
        for task in waiting:
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(write, theirs), daemon=True)
            process.start()
            theirs.close()
            stack.callback(process.join)
            stack.callback(process.terminate)
            ours.send(task)
            busy[ours] = task
            if len(busy) == workers:
                break
        while busy:
            ready = wait(list(busy))
            for connection in [each for each in busy if each in ready]:
                task, following = busy.pop(connection), None
                try:
                    result = connection.recv()
                    if not isinstance(result, BaseException):
                        following = next(waiting, None)
                    if following is not None:
                        connection.send(following)
                        busy[connection] = following
                except (EOFError, ConnectionError) as error:
                    raise UserError(
                        "a worker process was killed, perhaps for want of memory; run the same "
                        "command again to continue, perhaps with fewer --workers"
                    ) from error
                if isinstance(result, BaseException):
                    raise result
                yield task, result


def _work(write: _Writer, connection: Connection) -> None:
    """Writes the shards that arrive, until the process that sends them ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # that process ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        try:
            result: Any = write(task)
        except Exception as error:
            error.add_note(traceback.format_exc())
            result = error
        connection.send(result)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
