"""Paths on a disk and in object storage, and what the two do differently.

A path on a disk is a pathlib.Path. One in object storage (gs://bucket/folder) is an
etils.epath.Path, which has the same methods where the storage can do the same; it has no rename, no
append and no lock, but an object is written whole or not at all.
"""

import contextlib
import importlib.util
import os
import re
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from squeeze_jax.errors import UserError

# Scheme -> the package of its fsspec file system, and what to install.
_PACKAGES = {"gs": ("gcsfs", "squeeze_jax[gcs]"), "s3": ("s3fs", "s3fs")}
_URL = re.compile(r"([a-z][a-z0-9+.-]+):/+(.*)", re.DOTALL)
_AT_ONCE = 500  # objects that are asked for at once


def as_path(name: str | os.PathLike[str]) -> Path:
    """Returns the path that a user names: of a disk, or gs://… and s3://… in object storage.

    Raises:
      UserError: the scheme is unknown, its package is not installed, or the bucket is missing.
    """
    text = os.fspath(name)
    if (match := _URL.fullmatch(text)) is None:
        return Path(text)
    scheme, rest = match.groups()
    if scheme == "file":
        return Path("/", rest)
    if scheme not in _PACKAGES:
        known = ", ".join(f"{each}://" for each in _PACKAGES)
        raise UserError(f"{text}: storage is a path of this machine or one of {known}")
    if not rest.strip("/"):
        raise UserError(f"{text} names no bucket; give {scheme}://BUCKET/FOLDER")
    package, extra = _PACKAGES[scheme]
    if importlib.util.find_spec(package) is None:
        raise UserError(f"{scheme}:// needs {package}: pip install '{extra}'")
    # Before anything opens the storage: gcsfs without gRPC, epath without TensorFlow, and no list
    # of a folder that another machine has changed since.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    os.environ.setdefault("EPATH_USE_TF", "0")
    from etils import epath
    from fsspec import config

    config.conf.setdefault("gcs" if scheme == "gs" else scheme, {}).setdefault(
        "use_listings_cache", False
    )
    return cast(Path, epath.Path(f"{scheme}://{rest}"))


def is_remote(path: Path) -> bool:
    """Returns whether a path is one of object storage."""
    return not isinstance(path, Path)


def absolute(path: Path) -> Path:
    """Returns the whole path."""
    return path if is_remote(path) else path.absolute()


def check_writable(path: Path) -> None:
    """Rejects, with a UserError, a folder of object storage that takes no objects.

    It writes one and removes it again.
    """
    probe = path / f".probe-{uuid.uuid4().hex}"
    try:
        probe.write_bytes(b"")
        probe.unlink()
    except Exception as error:
        bucket = "/".join(str(path).split("/")[:3])
        if isinstance(error, FileNotFoundError):
            reason = f"there is no bucket {bucket}"
        else:
            reason = describe_error(error) or f"{type(error).__name__}: {_first_line(error)}"
        raise UserError(f"cannot write {path}: {reason}") from error


def describe_error(error: BaseException) -> str | None:
    """Returns in one line what went wrong in object storage; None for any other exception."""
    module = type(error).__module__.partition(".")[0]
    if is_forbidden(error):
        return f"no right, or no credentials for it: {_first_line(error)}"
    if module in ("aiohttp", "gcsfs", "botocore", "s3fs", "requests"):
        return f"the storage does not answer: {_first_line(error)}"
    if module == "google":
        return f"no credentials (gcloud auth application-default login): {_first_line(error)}"
    return None


def is_forbidden(error: BaseException) -> bool:
    """Returns whether object storage has refused a request."""
    if isinstance(error, OSError):  # gcsfs and s3fs give it no number, or EACCES
        return str(error).startswith("Forbidden: ")
    refused = getattr(error, "code", None) in (401, 403, "401", "403")
    return refused and type(error).__module__.startswith("gcsfs")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return (lines[-1] if lines[0].startswith("Forbidden: ") else lines[0])[:300]


def create(path: Path, content: bytes) -> bool:
    """Creates a file unless it is there; returns whether it was this call that did.

    Of several machines that try at once, one succeeds.
    """
    if is_remote(path):
        try:
            _file_system(path).pipe_file(str(path), content, mode="create")
        except FileExistsError:
            return False
        return True
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = path.open("xb")
    except FileExistsError:
        return False
    try:
        with file:
            file.write(content)
    except OSError:  # the disk is full
        path.unlink(missing_ok=True)
        raise
    return True


def modified(path: Path) -> float:
    """Returns when a file was last written, in seconds, by the clock of the storage."""
    if is_remote(path):
        return _file_system(path).modified(str(path)).timestamp()
    return path.stat().st_mtime


def size(path: Path) -> int:
    """Returns the bytes of a file."""
    if is_remote(path):
        return _file_system(path).size(str(path))
    return path.stat().st_size


def touch(path: Path, content: bytes) -> None:
    """Makes a file, of which the content is known, as new as one that is written now."""
    if is_remote(path):
        path.write_bytes(content)
    else:
        os.utime(path)


def list_names(folder: Path) -> list[str]:
    """Returns the names of what a folder holds; nothing where there is no folder."""
    try:
        return [path.name for path in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def read_all(paths: Sequence[Path]) -> list[bytes | None]:
    """Returns the contents of files, None of those that are not there; at once in object storage.

    All paths are of one storage.
    """
    if not paths or not is_remote(paths[0]):
        return [_read_if_there(path) for path in paths]
    file_system, contents = _file_system(paths[0]), []
    for begin in range(0, len(paths), _AT_ONCE):
        names = [str(path) for path in paths[begin : begin + _AT_ONCE]]
        # By the key that fsspec makes of a name; a single name comes back without one.
        found = file_system.cat([*names, names[0]], on_error="return")
        for name in names:
            content = found[file_system._strip_protocol(name)]
            if isinstance(content, Exception) and not isinstance(content, FileNotFoundError):
                raise content
            contents.append(None if isinstance(content, Exception) else content)
    return contents


def _read_if_there(path: Path) -> bytes | None:
    try:
        return path.read_bytes()  # another process may remove it at any moment
    except (FileNotFoundError, NotADirectoryError):
        return None


@contextlib.contextmanager
def local_file(path: Path) -> Iterator[Path]:
    """Yields a path of this machine with the same name and content, for libraries that need one."""
    if not is_remote(path) or not path.exists() or path.is_dir():
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        _file_system(path).get_file(str(path), str(copy))
        yield copy


def _file_system(path: Path) -> Any:
    """Returns fsspec's file system of a path in object storage, the one that epath uses."""
    from etils.epath import backend

    return backend.fsspec_backend.fs(path)
