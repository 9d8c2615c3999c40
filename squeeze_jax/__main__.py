"""The process of `squeeze-jax`, of `python -m squeeze_jax` and of launch.py."""

import sys
from collections.abc import Sequence

from squeeze_jax.signals import exit_on_signals


def run(argv: Sequence[str] | None = None) -> None:
    """Runs the command that the arguments name, and ends the process with its exit code.

    Args:
      argv: the arguments; None: those of the process.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    resumes = argv[:1] == ["launch"]
    exit_on_signals("; run the same command again to continue" if resumes else "")
    from squeeze_jax.cli import main  # only now, since imports take seconds

    sys.exit(main(argv))


if __name__ == "__main__":
    run()
