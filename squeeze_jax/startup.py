"""What a process of the command line sets before JAX is imported: caches, silence, a first line."""

import contextlib
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

CACHE = Path.home() / ".cache/squeeze_jax"  # of compiled programs and decoded weights
_PATIENCE = 0.5  # seconds
_VARIABLES = {  # logs of XLA, of gRPC and of JAX
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "GRPC_VERBOSITY": "NONE",
    "JAX_LOGGING_LEVEL": "CRITICAL",
}


def keep_programs() -> None:
    """Makes JAX keep compiled programs in CACHE, unless the environment names another folder.

    Does nothing where CACHE cannot be written, so that JAX does not complain about it.
    """
    # Path.exists raises where a folder above cannot be entered.
    folder = next(folder for folder in (CACHE, *CACHE.parents) if os.path.exists(folder))
    if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK):
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
        # A small net is made of small programs.
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


def silence_libraries() -> None:
    """Drops what libraries log and warn of; Python's -W and the libraries' variables go first."""
    for name, value in _VARIABLES.items():
        os.environ.setdefault(name, value)
    logging.disable(logging.CRITICAL)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


@contextlib.contextmanager
def announced(command: str) -> Iterator[None]:
    """Tells a person at a terminal that the command works, if it takes longer than half a second.

    For importing JAX takes one, in which a command cannot print anything of its own.
    """

    def tell() -> None:
        with contextlib.suppress(OSError, ValueError):  # the terminal is gone, or is closed
            print(f"squeeze-jax {command}: loading JAX ...", file=sys.stderr, flush=True)

    timer = threading.Timer(_PATIENCE, tell)
    timer.daemon = True
    if sys.stderr.isatty():
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
