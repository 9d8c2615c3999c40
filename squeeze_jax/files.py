"""Writes a file or a folder whole or not at all, and says which one cannot be written."""

import contextlib
import errno
import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

from squeeze_jax import storage
from squeeze_jax.errors import UserError
from squeeze_jax.signals import held_signals

# What another file of the same disk would meet as well: full, over a quota, read-only, forbidden.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_UNWRITABLE = (*FULL, errno.EROFS, errno.EACCES, errno.EPERM)
_PARTIAL = ".squeeze_jax-"  # of the name of a temporary file, before the number of its process


class WriteError(OSError):
    """A file cannot be written; `errno`, `strerror` and `filename` are set."""


def is_sqz(path: Path) -> bool:
    """Returns whether a path is named as a .sqz file."""
    return path.suffix.lower() == ".sqz"


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replaces a file in one step, and makes its folder.

    A process killed meanwhile leaves the old file or the new one, and perhaps a hidden temporary
    file, which the next write of the same path removes. In object storage, any write is such.

    Raises:
      WriteError: the file cannot be written; nothing is left behind.
    """
    content = content.encode() if isinstance(content, str) else content
    if storage.is_remote(path):
        with write_errors(path), held_signals():
            path.write_bytes(content)
        return
    with new_file(path) as partial:
        partial.write_bytes(content)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yields an empty file for a library to write, which replaces `path` once the block has ended.

    The file is on a disk, and uploaded at the end where the path is in object storage. Signals are
    held meanwhile: do only the writing inside; see `write_atomically`.

    Raises:
      WriteError: the file cannot be written; nothing is left behind.
    """
    if storage.is_remote(path):
        with tempfile.TemporaryDirectory() as folder:
            with new_file(Path(folder) / path.name) as partial:
                yield partial
            write_atomically(path, (Path(folder) / path.name).read_bytes())
        return
    with _replacing(path, Path.touch) as partial:
        yield partial


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yields an empty folder, which is at `path` once the block has ended; see `write_atomically`.

    In object storage it is there from the start, and is removed where the block fails: write last
    what tells that the folder is whole.

    Raises:
      UserError: the path exists already.
      WriteError: something in the folder cannot be written; nothing is left behind.
    """
    check_new(path)
    if storage.is_remote(path):
        try:
            with write_errors(path):
                yield path
        except BaseException:
            remove(path)
            raise
        return
    with _replacing(path, Path.mkdir) as partial:
        yield partial


def append(path: Path, line: str) -> None:
    """Adds a line to a file of a disk; a process killed meanwhile may leave a part of it.

    Raises:
      WriteError: it cannot be written.
    """
    with write_errors(path), path.open("a") as file:
        file.write(line + "\n")


def check_new(path: Path, remedy: str = "name a new folder") -> None:
    """Rejects, with a UserError, the path of a folder that exists already or cannot be made.

    Args:
      path: of the folder.
      remedy: what to do where it exists.
    """
    _check_parents(path)
    if path.exists():
        raise UserError(f"{path} exists already; {remedy}")


def check_file(path: Path) -> None:
    """Rejects, with a UserError, the path of a file that cannot be written where it is."""
    if not storage.is_remote(path) and path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder; name a file")
    _check_parents(path)


def nearest_existing(path: Path) -> Path:
    """Returns a path, or the nearest folder above it that exists."""
    return next(found for found in (path, *path.absolute().parents) if found.exists())


def _check_parents(path: Path) -> None:
    if storage.is_remote(path):
        storage.check_writable(path.parent)
        return
    folder = nearest_existing(path.absolute().parent)
    if not folder.is_dir():
        raise UserError(f"cannot write {path}: {folder} is no folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"cannot write {path}: {folder} is not writable; write elsewhere")


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Raises WriteError of `path` where what is inside cannot write.

    Other exceptions pass. Libraries report a full disk as an exception of their own.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, WriteError) or (code := _error_code(error)) is None:
            raise
        raise WriteError(code, os.strerror(code), str(path)) from error


def find_write_error(error: BaseException) -> WriteError | None:
    """Returns the WriteError that an exception is or comes from, if any.

    A full disk is one wherever it was met; its `filename` is None where nothing tells it.
    """
    for cause in _causes(error):
        if isinstance(cause, WriteError):
            return cause
    if (code := _error_code(error)) not in FULL:
        return None
    return WriteError(code, os.strerror(code), getattr(error, "filename", None))


def _error_code(error: BaseException) -> int | None:
    """Returns the system's error code where an exception comes from a disk that takes nothing."""
    for cause in _causes(error):
        # TensorStore: RESOURCE_EXHAUSTED: ... No space left on device [os_error_code='28']
        told = re.search(r"os_error_code='(\d+)'", str(cause))
        code = cause.errno if isinstance(cause, OSError) else int(told[1]) if told else None
        code = errno.EACCES if storage.is_forbidden(cause) else code
        if code in _UNWRITABLE:
            return code
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an exception and all that it comes from, as a traceback shows them."""
    seen: list[BaseException | None] = []
    waiting = [error]
    while waiting:
        error = waiting.pop(0)
        if error is None or error in seen:
            continue
        seen.append(error)
        yield error
        waiting += error.exceptions if isinstance(error, BaseExceptionGroup) else ()
        waiting.append(error.__cause__ if error.__suppress_context__ else error.__context__)


@contextlib.contextmanager
def _replacing(path: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """Yields a temporary file or folder that takes the place of `path` at the end."""
    partial = path.with_name(f".{path.name}{_PARTIAL}{os.getpid()}")
    with write_errors(path), held_signals():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(path)
            make(partial)
        except OSError as e:  # a name that is too long, or a file system of the kernel's own
            raise WriteError(e.errno, e.strerror, str(path)) from e
        try:
            with _locked(partial):
                yield partial
                os.replace(partial, path)
        finally:
            remove(partial)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Holds the lock of a file or folder; yields False where another process holds it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # held, or the file system has no locks
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _remove_leftovers(path: Path) -> None:
    """Removes the temporary files of processes that were killed."""
    pattern = re.compile(rf"\.{re.escape(path.name + _PARTIAL)}(\d+)")
    for found in list(path.parent.iterdir()):
        if (match := pattern.fullmatch(found.name)) and not _runs_elsewhere(int(match[1])):
            # Another machine's process holds the lock.
            with contextlib.suppress(OSError), _locked(found) as is_left:
                if is_left:
                    remove(found)


def _runs_elsewhere(pid: int) -> bool:
    """Returns whether another process of this machine has the number, and has not ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    with contextlib.suppress(OSError, IndexError):  # Linux alone tells
        # A zombie: killed, and its parent has not asked how it ended.
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return False
    return pid != os.getpid()


def remove(path: Path) -> None:
    """Removes a file or a folder, if it is there."""
    if storage.is_remote(path):
        cast(Any, path).rmtree(missing_ok=True)
        return
    if not path.is_dir():
        path.unlink(missing_ok=True)
    for _ in range(20):
        if not path.exists():
            return
        # Again while Orbax's threads still write: they go on for a moment after a save has failed.
        shutil.rmtree(path, ignore_errors=True)
        time.sleep(0.1 if path.exists() else 0)
