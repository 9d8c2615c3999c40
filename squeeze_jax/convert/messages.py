"""Names that come from files, made fit for an error message."""

from collections.abc import Sequence


def list_names(names: Sequence[str], limit: int = 3) -> str:
    """Returns the first names on one line, and how many more there are.

    Names from files may be anything: each is cut at 100 characters, and "?" stands for what cannot
    be printed.
    """
    first = ["".join(c if c.isprintable() else "?" for c in name[:100]) for name in names[:limit]]
    rest = len(names) - limit
    return ", ".join(first) + (f" and {rest} more" if rest > 0 else "")
