"""Ends the process in order when it is asked to stop: by SIGTERM or Ctrl-C."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

RESUMABLE = ("launch", "prepare", "firmware")  # commands that continue where they were stopped
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def exit_on_signals(hint: str = "") -> None:
    """Makes SIGTERM and Ctrl-C print one line and end the process with 128 + signal.

    The process ends where it is, since an exception does harm in the import of an extension module
    and gets lost in a destructor.

    Args:
      hint: what the line says after the signal's name.
    """
    handler = _ExitHandler(hint)
    for signum in STOP_SIGNALS:
        signal.signal(signum, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # see `executors.jobs`


@contextlib.contextmanager
def handled_signals(
    handler: Callable[[int, FrameType | None], None],
) -> Iterator[dict[signal.Signals, Any]]:
    """Handles SIGTERM and SIGINT by a function while inside; yields the handlers before."""
    before = {signum: signal.signal(signum, handler) for signum in STOP_SIGNALS}
    try:
        yield before
    finally:
        for signum, earlier in before.items():
            signal.signal(signum, earlier)


@contextlib.contextmanager
def held_signals() -> Iterator[None]:
    """Lets what is inside end before `exit_on_signals` ends the process; a second Ctrl-C does not.

    Does nothing under other handlers.
    """
    handler = signal.getsignal(signal.SIGTERM)
    with handler.held() if isinstance(handler, _ExitHandler) else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def raised_signals() -> Iterator[None]:
    """Makes Ctrl-C raise KeyboardInterrupt, and SIGTERM SystemExit, while inside.

    For a place that waits: there is no import to break.
    """

    def end(signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT:
            raise KeyboardInterrupt
        print(f"stopped by {signal.Signals(signum).name}", file=sys.stderr)
        sys.exit(128 + signum)

    with handled_signals(end):
        yield


class _ExitHandler:
    """The handler of `exit_on_signals`."""

    def __init__(self, hint: str):
        self._hint = hint
        self._holders = 0
        self._received: int | None = None

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        if not self._holders or (self._received is not None and signum == signal.SIGINT):
            self._exit(signum)
        self._received = self._received or signum

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        self._holders += 1
        try:
            yield
        finally:
            self._holders -= 1
            if self._received is not None and not self._holders:
                self._exit(self._received)

    def _exit(self, signum: int) -> None:
        with contextlib.suppress(OSError):  # nobody reads any more
            line = "\n" if os.isatty(2) else ""  # after the ^C or the progress bar
            line += f"stopped by {signal.Signals(signum).name}{self._hint}\n"
            os.write(2, line.encode())
        os._exit(128 + signum)
