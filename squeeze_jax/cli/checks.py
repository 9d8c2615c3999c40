"""Checks of flags that several commands have."""

import argparse
from collections.abc import Collection
from pathlib import Path

from squeeze_jax.config_parsing import Range
from squeeze_jax.errors import UserError
from squeeze_jax.files import check_file

BATCH_SIZE = Range(at_least=1, at_most=2**20)
COUNT = Range(at_least=1)
PIXELS = Range(at_least=1, at_most=2**12)


def check_ranges(arguments: argparse.Namespace, **ranges: Range) -> None:
    """Rejects the values of flags that are out of range; None counts as not given.

    Raises:
      UserError: a value is out of range.
    """
    for flag, valid in ranges.items():
        if (value := getattr(arguments, flag)) is not None:
            for each in value if isinstance(value, tuple) else (value,):
                valid.check(f"--{flag.replace('_', '-')}", each)


def parse_size(text: str) -> int | tuple[int, int]:
    """Parses pixels: 128 of a square, or 160x120, the height and the width.

    Raises:
      argparse.ArgumentTypeError: it is neither.
    """
    parts = text.split("x")
    if len(parts) > 2 or not all(part.isascii() and part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not pixels such as 128 or 160x120")
    first, last = int(parts[0]), int(parts[-1])
    return first if first == last else (first, last)


def check_suffix(path: Path, suffixes: Collection[str]) -> None:
    """Rejects an --output that no command would know again by its suffix.

    Raises:
      UserError: its suffix is none of `suffixes`.
    """
    if path.suffix not in suffixes:
        raise UserError(
            f"--output ends in {' or '.join(suffixes)}, by which it is opened again; got {path}"
        )


def check_figure(flag: str, path: Path) -> None:
    """Rejects a figure's path that ends in neither .png nor .svg, or cannot be written.

    Raises:
      UserError: naming the flag.
    """
    if path.suffix not in (".png", ".svg"):
        raise UserError(f"{flag} draws .png and .svg, not {path.name!r}")
    check_file(path)
