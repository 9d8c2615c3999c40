"""Says in one line what an exception of a config file's own code means, and in which line it is."""

import contextlib
import re
import traceback
from collections.abc import Iterator
from pathlib import Path

from squeeze_jax.errors import UserError


@contextlib.contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Turns an exception of a config file's own code into a UserError that names its line.

    A UserError, and an exception that no line of the file leads to, pass.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as e:
        for cause in _causes(e):
            if (line := error_line(cause, path)) is not None:
                text = f"{type(cause).__name__}: {error_text(cause)}"
                raise UserError(f"{path}, line {line}: {text}") from e
        raise


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an exception and those that it comes from: libraries wrap what a file raises."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def error_line(error: BaseException, path: Path) -> int | None:
    """Returns the last line of a file on the way to an exception; None where there is none."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) in (path, path.resolve())]
    return lines[-1] if lines else None


def error_text(error: BaseException) -> str:
    """Returns the first line of an exception's message, of a missing key what it says of it."""
    if isinstance(error, SyntaxError):
        return error.msg
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if "Did you mean" in text:
        name, close = missing_key(text)
        return f"no key {name}; did you mean {close}?"
    return text.strip().partition("\n")[0]


def missing_key(message: str) -> tuple[str, str]:
    """Returns the key that ml_collections' message is about, and one that may be meant, or ""."""
    found = re.search(r"""^[\\']*(?:Key ")?(\w+)""", message)
    close = re.search(r'Did you mean "(\w+)"', message)
    return found[1] if found else message, close[1] if close else ""
