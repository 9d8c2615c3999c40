"""Checks of flags that several commands have."""

import argparse

from squeeze_jax.errors import UserError


def check_at_least_one(arguments: argparse.Namespace, *flags: str) -> None:
    """Rejects values below 1; None counts as not given.

    Raises:
      UserError: a value is below 1.
    """
    for flag in flags:
        if (value := getattr(arguments, flag)) is not None and value < 1:
            raise UserError(f"--{flag.replace('_', '-')} is at least 1, got {value}")
