"""The one exception whose message is for the person at the terminal, and names in it."""

import difflib
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """Reports in one line something that the user can mend: a path, a key, a data set.

    `launch.py` and `squeeze-jax` print it as `error: ...` and exit with 2. Any other exception is a
    bug and keeps its traceback.
    """


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Returns the name that is most like another one, None where none is."""
    return next(iter(difflib.get_close_matches(name, list(names), 1)), None)


def suggest(name: str, names: Iterable[str]) -> str:
    """Returns "did you mean epochs?" for a name that is nearly one of `names`, or lists them."""
    names = list(names)
    close = nearest(name, names)
    return f"did you mean {close}?" if close else f"there are {', '.join(names)}"


def list_names(names: Sequence[str], limit: int = 3) -> str:
    """Returns the first names on one line, and how many more there are.

    Names from files may be anything: each is cut at 100 characters, and "?" stands for what cannot
    be printed.
    """
    first = ["".join(c if c.isprintable() else "?" for c in name[:100]) for name in names[:limit]]
    rest = len(names) - limit
    return ", ".join(first) + (f" and {rest} more" if rest > 0 else "")
