"""Finds the images that cannot be decoded, all in one pass."""

import os
import sys
from collections.abc import Callable, Container, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

from squeeze_jax.data.decode import UnreadableImage
from squeeze_jax.data.folder import FileSource, count_by_reason
from squeeze_jax.data.source import Example, Source
from squeeze_jax.errors import UserError

CHUNK = 128  # examples read at a time


def read_all(
    source: Source, use: Callable[[int, Example], None] = lambda index, example: None
) -> dict[int, UnreadableImage]:
    """Decodes every image of a source; shows a bar on a terminal where it takes over a second.

    Args:
      source: where to read.
      use: receives each example that can be read with its index, on any of several threads.

    Returns:
      What keeps the others from being read, by index.
    """
    failures: dict[int, UnreadableImage] = {}

    def read_each(indices: Iterable[int]) -> None:
        for index in indices:
            try:
                use(index, source[index])
            except UnreadableImage as error:
                failures[index] = error

    def read(start: int) -> int:
        indices = range(start, min(start + CHUNK, len(source)))
        try:
            examples = source.read(indices)
        except UnreadableImage:
            read_each(indices)
        else:
            for index, example in zip(indices, examples, strict=True):
                use(index, example)
        return len(indices)

    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(
            desc=f"decoding {source.name}",
            total=len(source),
            unit="image",
            delay=1,
            leave=False,
            disable=None,
        ) as bar,
    ):
        try:
            for count in pool.map(read, range(0, len(source), CHUNK)):
                bar.update(count)
        except BaseException:
            # A fault in the program, or Ctrl-C: do not decode the rest first.
            pool.shutdown(cancel_futures=True)
            raise
    return dict(sorted(failures.items()))


def reject(failures: Sequence[UnreadableImage], total: int, skip: bool) -> None:
    """Rejects unreadable images in one line, or prints it where they are to be skipped.

    Args:
      failures: the images.
      total: how many images there are.
      skip: whether to go on without them.

    Raises:
      UserError: there are any, and they are not to be skipped, or there are no others.
    """
    if not failures:
        return
    line = f"cannot read {len(failures)} of {total} images: {describe(failures)}"
    if len(failures) == total:
        raise UserError(line)
    if not skip:
        raise UserError(
            f"{line}; remove or repair them, or skip them: --config.data.skip_unreadable=True to "
            "launch, --skip-unreadable elsewhere"
        )
    print(f"{line}; skipped", file=sys.stderr)


def reject_lost(splits: Sequence[Source], failures: Sequence[Container[int]]) -> None:
    """Rejects a split, or a class of a folder's training set, of which no image can be read.

    Args:
      splits: the training set first.
      failures: the indices of each one's unreadable images.

    Raises:
      UserError: there is one.
    """
    for source, gone in zip(splits, failures, strict=True):
        if all(index in gone for index in range(len(source))):
            raise UserError(f"{source.name}: none of its {len(source)} images can be read")
    train, gone = splits[0], failures[0]
    if not gone or not isinstance(train, FileSource):
        return
    left = {label for index, label in enumerate(train.labels) if index not in gone}
    for label in set(train.labels) - left:
        raise UserError(
            f"{train.name}: no training image of class {train.class_names[label]!r} can be read; "
            "repair some, or remove the class"
        )


def as_one(failures: Sequence[UnreadableImage]) -> UserError:
    """Returns the error of one unreadable image, or one that names several by reason."""
    if len(failures) == 1:
        return failures[0]
    return UserError(f"cannot read {len(failures)} images: {describe(failures)}")


def describe(failures: Iterable[UnreadableImage]) -> str:
    """Returns unreadable images by reason: "2 empty file (first: a/1.jpg), 1 damaged (...)"."""
    reasons: dict[str, list[str]] = {}
    for failure in failures:
        reasons.setdefault(failure.reason, []).append(failure.name)
    return count_by_reason(reasons)
