"""Claims: which of several launchers, on any machines, runs a trial.

A claim is one of the numbered files in a trial's folder `claims`, of which the highest counts. It
is created on the precondition that it is not there, so that one launcher gets a number; its
modification time is renewed while the trial runs; and it says so when it is released. It is taken
over, by the next number, once its owner's process is gone or, on another machine, once it was not
renewed for `STALE` seconds by the clock of the storage. No file is ever removed, so that a number
is never given twice. All this works on a disk, over NFS and in object storage alike.
"""

import contextlib
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from squeeze_jax import storage
from squeeze_jax.files import write_atomically, write_errors

RENEW, STALE = 15.0, 90.0  # seconds


class Claim:
    """A trial that this launcher holds."""

    def __init__(self, path: Path, content: bytes):
        self._path, self._content = path, content
        self._next = path.with_name(_file_name(_number(path.name) + 1))
        self._lost, self._released = threading.Event(), threading.Event()

    @property
    def is_lost(self) -> bool:
        """Returns whether another launcher has taken the trial over; this one was halted."""
        return self._lost.is_set()

    def renew_until_released(self) -> None:
        """Renews the claim as long as it is held; to be run by a thread."""
        while not self._released.wait(RENEW):
            # A storage that does not answer for a while: it is tried again.
            with contextlib.suppress(Exception):
                if self._next.exists():
                    self._lost.set()
                    return
                storage.touch(self._path, self._content)

    def release(self) -> None:
        """Ends the claim; one that cannot be written ends with the process."""
        self._released.set()
        with contextlib.suppress(Exception):
            released = json.loads(self._content) | {"held": False}
            write_atomically(self._path, json.dumps(released))


@dataclass(frozen=True)
class _Sighting:
    """A claim of another launcher as it was first met."""

    path: Path
    modified: float
    is_known_alive: bool


class Claims:
    """The claims of one launcher."""

    def __init__(self, folder: Path):
        """Prepares to claim.

        Args:
          folder: of the study, on whose storage the claims are.
        """
        self._folder = folder
        self._owner = {
            "host": _host(),
            "pid": os.getpid(),
            "started": _process_start(os.getpid()),
            "id": uuid.uuid4().hex,
        }
        self._offset: float | None = None
        self._seen: dict[Path, _Sighting] = {}

    @contextlib.contextmanager
    def claim(self, folder: Path) -> Iterator[Claim | None]:
        """Yields a claim that is renewed inside the block; None where another launcher holds it.

        Args:
          folder: the trial's folder `claims`.

        Raises:
          WriteError: it cannot be written.
        """
        with write_errors(folder):
            claim = self._try(folder)
        if claim is None:
            yield None
            return
        renewal = threading.Thread(target=claim.renew_until_released, daemon=True)
        renewal.start()
        try:
            yield claim
        finally:
            claim.release()

    def _try(self, folder: Path) -> Claim | None:
        highest = _newest(folder)
        if highest >= 0 and self._is_held(folder / _file_name(highest)):
            return None
        record = {**self._owner, "time": datetime.now(UTC).isoformat(timespec="seconds")}
        content = json.dumps(record | {"held": True}).encode()
        path = folder / _file_name(highest + 1)
        self._seen.pop(folder, None)
        return Claim(path, content) if storage.create(path, content) else None

    def is_held(self, folder: Path) -> bool:
        """Returns whether a living launcher holds a trial, as far as can be told.

        Args:
          folder: the trial's folder `claims`.
        """
        newest = _newest(folder)
        return newest >= 0 and self._is_held(folder / _file_name(newest))

    def _is_held(self, path: Path) -> bool:
        record = _read(path)
        if record.get("held") is False:
            return False
        if record.get("host") == self._owner["host"]:
            self._seen[path.parent] = _Sighting(path, 0.0, is_known_alive=True)
            return _process_start(record["pid"]) == record["started"]
        modified = storage.modified(path)
        before = self._seen.get(path.parent)
        if before is None or before.path != path:
            self._seen[path.parent] = _Sighting(path, modified, is_known_alive=False)
        elif modified != before.modified:
            self._seen[path.parent] = _Sighting(path, modified, is_known_alive=True)
        return self._storage_time() - modified <= STALE

    def may_be_free_soon(self) -> bool:
        """Returns whether a claim that was met may be a dead launcher's, on another machine.

        A living one renews its claim within `RENEW` seconds.
        """
        return any(not sighting.is_known_alive for sighting in self._seen.values())

    def _storage_time(self) -> float:
        """Returns the time now by the clock that the storage's files are stamped with."""
        if self._offset is None:
            probe = self._folder / f".clock-{self._owner['id']}"
            write_atomically(probe, b"")
            self._offset = storage.modified(probe) - time.monotonic()
            probe.unlink()
        return time.monotonic() + self._offset


def _newest(folder: Path) -> int:
    """Returns the number of the claim that counts; -1 where there is none."""
    return max(map(_number, storage.list_names(folder)), default=-1)


def _file_name(number: int) -> str:
    return f"{number}.json"


def _number(name: str) -> int:
    """Returns the number of a claim's file; -1 for another, such as a temporary one."""
    stem = name.removesuffix(".json")
    return int(stem) if stem.isdecimal() and stem != name else -1


def _read(path: Path) -> dict[str, Any]:
    """Returns a claim's record; nothing of one that is being written."""
    try:
        record = json.loads(path.read_bytes())
    except (ValueError, FileNotFoundError):
        return {}
    return record if isinstance(record, dict) else {}


def _host() -> str:
    """Returns what tells a set of processes that see each other: machine, boot and namespace."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):  # no Linux
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _process_start(pid: int) -> str | None:
    """Returns what tells a process from a later one of its number; None where it has ended."""
    try:
        # pid (name) state ...: the name may hold anything, the 22nd field is the time of the start.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
        try:  # no Linux
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        return "running"
    except ProcessLookupError:
        return None
    return None if fields[0] in "ZX" else fields[19]
