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
def interruptible(
    agree: Callable[[int | None], int | None] | None = None,
) -> Iterator[Callable[[int], int | None]]:
    """Yields a function of a step: the signal that asks to stop before it, or None.

    A second Ctrl-C has its former effect: it ends the process at once.

    Args:
      agree: several processes must agree on the step they save at. Called before each step with the
        signal that this process received, if any; returns the one that makes all stop here. Without
        it, the preemption notice of jax.distributed decides.
    """
    received: list[int] = []

    def note(signum, frame):
        if received and signum == signal.SIGINT:
            earlier = before[signal.SIGINT]
            (earlier if callable(earlier) else signal.default_int_handler)(signum, frame)
        received.append(signum)

    if agree is None and jax.process_count() > 1:
        yield (
            lambda step: (
                signal.SIGTERM if multihost_utils.reached_preemption_sync_point(step) else None
            )
        )
        return
    with handled_signals(note) as before:
        decide = agree or (lambda signum: signum)
        yield lambda step: decide(received[0] if received else None)
