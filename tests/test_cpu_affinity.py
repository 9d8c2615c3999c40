"""XLA's worker threads, as Linux shows them."""

import os
from pathlib import Path

import jax
import pytest

from squeeze_jax import cpu_affinity

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="where threads run is Linux's to say"
)


@pytest.fixture
def threads():
    """Returns a function that maps the id of each of XLA's workers to its cores.

    All workers may run on all cores before the test and after it.
    """
    jax.devices()
    everywhere = os.sched_getaffinity(0)
    ids = [
        int(path.parent.name)
        for path in Path("/proc/self/task").glob("*/comm")
        if path.read_text().startswith("tf_XLAEigen")
    ]

    def free():
        os.sched_setaffinity(0, everywhere)
        for thread in ids:
            os.sched_setaffinity(thread, everywhere)

    free()
    yield lambda: {thread: os.sched_getaffinity(thread) for thread in ids}
    free()


def test_each_worker_gets_a_core_of_its_own(threads):
    cores = os.sched_getaffinity(0)
    if len(threads()) != len(cores):
        pytest.skip("more devices than cores")
    cpu_affinity.pin_xla_threads()
    assert all(len(allowed) == 1 for allowed in threads().values())
    assert set.union(*threads().values()) == cores


def test_without_a_core_for_each_nothing_changes(threads):
    before, core = threads(), min(os.sched_getaffinity(0))
    assert len(before) > 1  # XLA has one for each device at least
    os.sched_setaffinity(0, {core})
    cpu_affinity.pin_xla_threads()
    assert threads() == before


def test_nothing_changes_where_it_is_forbidden(threads, monkeypatch):
    def forbidden(*_):
        raise PermissionError

    before = threads()
    with monkeypatch.context() as patch:
        patch.setattr(os, "sched_setaffinity", forbidden)
        cpu_affinity.pin_xla_threads()
    assert threads() == before
