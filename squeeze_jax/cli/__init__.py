"""The `squeeze-jax` command: one file a command, listed in `main.COMMANDS`."""

from squeeze_jax.cli.exit_code import exit_code
from squeeze_jax.cli.main import COMMANDS, main

__all__ = ["COMMANDS", "exit_code", "main"]
