"""The process of `squeeze-jax`, of `python -m squeeze_jax` and of launch.py."""

import os
import sys
from collections.abc import Sequence

from squeeze_jax.signals import RESUMABLE, exit_on_signals

VERBOSE = "--verbose"  # of any command


def run(argv: Sequence[str] | None = None) -> None:
    """Runs the command that the arguments name, and ends the process with its exit code.

    Args:
      argv: the arguments; None: those of the process.
    """
    _open_standard_streams()
    argv = list(sys.argv[1:] if argv is None else argv)
    resumes = bool(argv) and argv[0] in RESUMABLE
    exit_on_signals("; run the same command again to continue" if resumes else "")
    # Only now, so that Ctrl-C ends in one line.
    from squeeze_jax.allocator import keep_freed_memory
    from squeeze_jax.startup import announced, keep_programs, silence_libraries

    if VERBOSE not in argv:
        silence_libraries()
    if argv[:1] == ["launch"]:
        keep_freed_memory()
    else:
        keep_programs()  # launch has a flag for it
    with announced(argv[0] if argv else ""):
        from squeeze_jax.cli import main

        code = main(argv)
    sys.exit(code)


def _open_standard_streams() -> None:
    """Opens /dev/null for each standard stream that the process began without.

    Otherwise the next file that is opened has its number, and gets what libraries print.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


if __name__ == "__main__":
    run()
