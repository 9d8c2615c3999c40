"""Stops a run between two steps: on SIGTERM (a preempted machine, a scheduler) and Ctrl-C."""

import contextlib
import signal
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils

from squeeze_jax.signals import handled_signals


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

    A second Ctrl-C has its former effect: it ends the process at once. Several processes must agree
    on the step they save at, so there the preemption notice of jax.distributed decides.
    """
    received: list[int] = []

    def note(signum, frame):
        if received and signum == signal.SIGINT:
            earlier = before[signal.SIGINT]
            (earlier if callable(earlier) else signal.default_int_handler)(signum, frame)
        received.append(signum)

    if jax.process_count() > 1:
        yield (
            lambda step: (
                signal.SIGTERM if multihost_utils.reached_preemption_sync_point(step) else None
            )
        )
        return
    with handled_signals(note) as before:
        yield lambda step: received[0] if received else None
