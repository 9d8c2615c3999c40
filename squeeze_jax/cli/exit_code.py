"""Turns errors that the user can mend into one line and an exit code."""

import contextlib
import errno
import io
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from squeeze_jax.files import WriteError


def exit_code(run: Callable[[], int], resumes: bool = False) -> int:
    """Runs a command and returns its exit code; errors that the user cannot mend pass through.

    What the terminal's encoding lacks, such as a file's name that is not UTF-8, is printed escaped.
    The code is 2 for a UserError and for a file that cannot be read or written, and 128 + signal
    where the program was asked to stop and has saved everything.

    Args:
      run: the command.
      resumes: the same command again continues where it ended.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = run()
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # as in `squeeze-jax summary ... | head`
        _discard_output()
        return 128 + signal.SIGPIPE
    except Exception as e:
        if (described := describe_error(e, resumes)) is None:
            raise
        line, code = described
        print(line, file=sys.stderr)
        return code


def describe_error(error: BaseException, resumes: bool = False) -> tuple[str, int] | None:
    """Returns the line and the exit code of an error that the user can mend, see `exit_code`."""
    from squeeze_jax import storage
    from squeeze_jax.errors import UserError
    from squeeze_jax.files import find_write_error
    from squeeze_jax.train.interrupt import Interrupted

    if isinstance(error, UserError):
        return f"error: {error}", 2
    if isinstance(error, Interrupted):
        return str(error), error.exit_code
    if (failed := find_write_error(error)) is not None:
        return f"error: {_advice(failed, resumes)}", 2
    known = (errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)
    known += (errno.ENAMETOOLONG, errno.ELOOP)
    if isinstance(error, OSError) and error.errno in known and error.filename:
        return f"error: {error.filename}: {error.strerror}", 2
    if line := storage.describe_error(error):
        return f"error: object storage: {line}", 2
    return None


def _advice(failed: "WriteError", resumes: bool) -> str:
    """Returns what cannot be written, why, and what to do."""
    from squeeze_jax.files import FULL

    if failed.filename is None:
        _discard_output()
        return f"cannot write the output or a temporary file: {failed.strerror}"
    remedy = "make it writable"
    if failed.errno in FULL:
        remedy = "free some space"
    elif failed.errno == errno.ENAMETOOLONG:
        remedy = "shorten its name"
    remedy += " and run the same command again to continue" if resumes else " or write elsewhere"
    return f"cannot write {failed.filename}: {failed.strerror}; {remedy}"


def _discard_output() -> None:
    """Drops what is still to be printed: Python would try again at its end, and complain."""
    with contextlib.suppress(OSError):  # an output that is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
