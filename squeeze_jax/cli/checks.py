"""Checks of flags that several commands have."""

import argparse
from collections.abc import Collection
from pathlib import Path

from squeeze_jax.config_parsing import Range
from squeeze_jax.errors import UserError

BATCH_SIZE = Range(at_least=1, at_most=2**20)
COUNT = Range(at_least=1)
PIXELS = Range(at_least=1, at_most=2**14)


def check_ranges(arguments: argparse.Namespace, **ranges: Range) -> None:
    """Rejects the values of flags that are out of range; None counts as not given.

    Raises:
      UserError: a value is out of range.
    """
    for flag, valid in ranges.items():
        if (value := getattr(arguments, flag)) is not None:
            valid.check(f"--{flag.replace('_', '-')}", value)


def check_suffix(path: Path, suffixes: Collection[str]) -> None:
    """Rejects an --output that no command would know again by its suffix.

    Raises:
      UserError: its suffix is none of `suffixes`.
    """
    if path.suffix not in suffixes:
        raise UserError(
            f"--output ends in {' or '.join(suffixes)}, by which it is opened again; got {path}"
        )
