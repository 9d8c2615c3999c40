"""Stops a run between two steps: on SIGTERM (a preempted machine, a scheduler) and Ctrl-C."""

import contextlib
import signal
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils


class Interrupted(Exception):
    """The run was asked to stop, and all is saved; the same command continues it."""

    def __init__(self, signum: int):
        super().__init__(
            f"stopped by {signal.Signals(signum).name}, state saved; "
            "run the same command again to continue"
        )
        self.exit_code = 128 + signum


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[int], int | None]]:
    """Yields a function of a step: the signal that asks to stop before it, or None.

    A second Ctrl-C stops at once. Several processes must agree on the step they save at, so there
    the preemption notice of jax.distributed decides.
    """
    received: list[int] = []

    def note(signum, frame):
        if received and signum == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(signum)

    if jax.process_count() > 1:
        yield (
            lambda step: (
                signal.SIGTERM if multihost_utils.reached_preemption_sync_point(step) else None
            )
        )
        return
    before = {signum: signal.signal(signum, note) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda step: received[0] if received else None
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
