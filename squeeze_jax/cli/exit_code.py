"""Turns errors that the user can mend into one line and an exit code."""

import errno
import sys
from collections.abc import Callable


def exit_code(run: Callable[[], int]) -> int:
    """Runs a command and returns its exit code; errors that the user cannot mend pass through.

    The code is 2 for a UserError and for a disk that is full or cannot be written, and
    128 + signal where the program was asked to stop and has saved everything.
    """
    from squeeze_jax.errors import UserError
    from squeeze_jax.train.interrupt import Interrupted

    try:
        return run()
    except UserError as e:
        return _report(str(e), 2)
    except Interrupted as e:
        return _report(str(e), e.exit_code)
    except OSError as e:
        if e.errno == errno.ENOSPC:
            return _report(
                "the disk is full; make room and run the same command again to continue, "
                "nothing finished is lost",
                2,
            )
        if e.errno in (errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EDQUOT):
            return _report(f"cannot write: {e}", 2)
        raise


def _report(message: str, code: int) -> int:
    print(f"error: {message}" if code == 2 else message, file=sys.stderr)
    return code
