"""Claims: one launcher runs a trial, on a disk and in object storage; a dead one loses it."""

import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from squeeze_jax import storage
from squeeze_jax.study import claims as claims_module
from squeeze_jax.study.claims import Claims
from tests.gcs import bucket  # noqa: F401


@pytest.fixture(params=["disk", "bucket"])
def folder(request, tmp_path):
    """A study's folder."""
    if request.param == "disk":
        return tmp_path
    return storage.as_path(request.getfixturevalue("bucket")) / tmp_path.name


@pytest.fixture
def quick(monkeypatch):
    """Claims are renewed and stale within a second."""
    monkeypatch.setattr(claims_module, "RENEW", 0.1)
    monkeypatch.setattr(claims_module, "STALE", 1.0)


def elsewhere(folder) -> Claims:
    """A launcher on another machine."""
    other = Claims(folder)
    other._owner["host"] = f"another {other._owner['id']}"
    return other


def test_of_many_at_once_one_gets_it(folder):
    launchers = [elsewhere(folder) for _ in range(8)]
    start = threading.Barrier(len(launchers))
    with ExitStack() as held, ThreadPoolExecutor(len(launchers)) as pool:

        def take(launcher):
            start.wait()
            return held.enter_context(launcher.claim(folder / "claims"))

        got = list(pool.map(take, launchers))
        assert sum(claim is not None for claim in got) == 1
    with launchers[0].claim(folder / "claims") as mine:  # released now
        assert mine is not None
        with launchers[1].claim(folder / "claims") as other:
            assert other is None


def test_a_dead_process_of_this_machine_loses_it_at_once(folder):
    dead = Claims(folder)
    dead._owner["started"] = "0"  # another process has its number now
    abandoned = dead._try(folder / "claims")
    assert abandoned is not None
    launcher = Claims(folder)
    with launcher.claim(folder / "claims") as mine:
        assert mine is not None


def test_a_living_one_of_another_machine_keeps_it(folder, quick):
    launcher = Claims(folder)
    with elsewhere(folder).claim(folder / "claims") as held:
        end = time.monotonic() + 2.5  # longer than STALE
        while time.monotonic() < end:
            with launcher.claim(folder / "claims") as mine:
                assert mine is None
            time.sleep(0.3)
        assert not launcher.may_be_free_soon() and not held.is_lost


def test_a_halted_one_of_another_machine_loses_it_and_notices(folder, quick):
    launcher, other = Claims(folder), elsewhere(folder)
    halted = other._try(folder / "claims")
    with launcher.claim(folder / "claims") as mine:
        assert mine is None and launcher.may_be_free_soon()
    end = time.monotonic() + 60
    while mine is None and time.monotonic() < end:
        with launcher.claim(folder / "claims") as mine:
            time.sleep(0.1)
    assert mine is not None
    halted.renew_until_released()  # it goes on, and ends at once
    assert halted.is_lost
    halted.release()  # to no effect on its successor
    assert json.loads((folder / "claims" / "1.json").read_bytes())["id"] == launcher._owner["id"]


def test_clocks_of_machines_may_differ(folder, quick, monkeypatch):
    """A claim's age is told by the storage alone."""
    with elsewhere(folder).claim(folder / "claims"):
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + 10**6)
        with Claims(folder).claim(folder / "claims") as mine:
            assert mine is None


def test_a_claim_that_is_half_written_is_held(tmp_path):
    (tmp_path / "claims").mkdir()
    path = tmp_path / "claims" / "0.json"
    path.write_bytes(b"")
    with Claims(tmp_path).claim(tmp_path / "claims") as mine:
        assert mine is None
    os.utime(path, (0, 0))
    with Claims(tmp_path).claim(tmp_path / "claims") as mine:
        assert mine is not None
