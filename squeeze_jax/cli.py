"""The `squeeze-jax` command, and how both commands speak of errors: one line for what the user can mend."""

import argparse
import errno
import sys
from collections.abc import Callable
from pathlib import Path

from squeeze_jax.errors import UserError


def exit_code(run: Callable[[], int]) -> int:
    """Runs a command; what the user can mend becomes one line on stderr and an exit code, other exceptions pass.

    2: UserError, or a disk that is full or can't be written; 128 + signal: asked to stop, everything saved.
    """
    from squeeze_jax.train.interrupt import Interrupted

    try:
        return run()
    except UserError as e:
        return _complain(str(e), 2)
    except Interrupted as e:
        return _complain(str(e), e.exit_code)
    except KeyboardInterrupt:
        return _complain("interrupted; run the same command again to continue from the last checkpoint", 130)
    except OSError as e:
        if e.errno == errno.ENOSPC:
            return _complain("the disk is full; make room and run the same command again to continue, nothing finished is lost", 2)
        if e.errno in (errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EDQUOT):
            return _complain(f"can't write: {e}", 2)
        raise


def _complain(message: str, code: int) -> int:
    print(f"error: {message}" if code == 2 else message, file=sys.stderr)
    return code


def main() -> int:
    """Entry point of `squeeze-jax`."""
    parser = argparse.ArgumentParser(prog="squeeze-jax", description="Work with what `launch.py` leaves behind.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    report = commands.add_parser("report", help="draw table, figure and report of a finished or partial sweep again")
    report.add_argument("workdir", type=Path, help="a sweep's workdir, such as runs/sr_sweep-digits")
    report.set_defaults(run=_report)
    arguments = parser.parse_args()
    return exit_code(lambda: arguments.run(arguments))


def _report(arguments: argparse.Namespace) -> int:
    from squeeze_jax import analysis, sweep

    written = [sweep.write_table(arguments.workdir), *analysis.draw(arguments.workdir)]
    print("\n".join(map(str, written)))
    return 0
