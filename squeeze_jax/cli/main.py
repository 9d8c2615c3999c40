"""The entry point of `squeeze-jax`: finds the command, parses its flags and runs it."""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn, Protocol

from squeeze_jax import __version__
from squeeze_jax.cli import (
    compare,
    compress,
    data,
    decompress,
    evaluate,
    export,
    firmware,
    hardware,
    import_weights,
    predict,
    prepare,
    report,
    sensitivity,
    serve_demo,
    summary,
)
from squeeze_jax.cli.exit_code import exit_code
from squeeze_jax.errors import nearest, suggest
from squeeze_jax.signals import RESUMABLE


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with the arguments; --help explains the rest."""

    def error(self, message: str) -> NoReturn:
        hint = ""
        if found := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message):
            close = nearest(found[1], found[2].replace("'", "").split(", "))
            hint = f"; did you mean {close}?" if close else ""
        self.exit(2, f"error: {message}{hint}; see {self.prog} --help\n")


class _HelpFormatter(argparse.HelpFormatter):
    """Leaves an example on one line, to be copied."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith("example:"):
            return indent + text
        return super()._fill_text(text, width, indent)


class Command(Protocol):
    """What a command's file provides."""

    @property
    def NAME(self) -> str: ...  # noqa: D102

    @property
    def HELP(self) -> str: ...  # noqa: D102

    @property
    def GROUP(self) -> str: ...  # noqa: D102

    @property
    def EXAMPLE(self) -> str: ...  # noqa: D102

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...  # noqa: D102

    def run(self, arguments: argparse.Namespace) -> int: ...  # noqa: D102


_MODULES: tuple[Command, ...] = (
    report,
    compare,
    summary,
    hardware,
    data,
    prepare,
    evaluate,
    sensitivity,
    predict,
    import_weights,
    export,
    firmware,
    serve_demo,
    compress,
    decompress,
)
COMMANDS: dict[str, Command] = {module.NAME: module for module in _MODULES}

# Command -> old name of a flag -> today's.
RENAMED_FLAGS = {
    compress.NAME: {"--calibrate": "--data"},
    evaluate.NAME: {"--labels_by_position": "--labels-by-position"},
    sensitivity.NAME: {
        "--max-loss": "--max-drop",
        "--labels_by_position": "--labels-by-position",
    },
}

# launch has flags of its own, those of the config among them, so it is no entry of COMMANDS.
LAUNCH_GROUP = "study"
LAUNCH_HELP = "train a study; alone, it lists the studies"
LAUNCH_EXAMPLE = "squeeze-jax launch sr_sweep:digits --config.train.epochs=5"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that the arguments name; returns its exit code.

    Args:
      argv: the arguments; None: those of the process.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = _Parser(
        prog="squeeze-jax",
        usage="squeeze-jax COMMAND ...",
        description="Explores, trains, costs, compresses and exports small image networks.",
        epilog=describe_commands(COMMANDS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action="store_true", help="print the versions and the devices, and end"
    )
    parser.add_argument("command", metavar="COMMAND", nargs="?", help=argparse.SUPPRESS)
    first = parser.parse_args(argv[:1])
    if first.version:
        return exit_code(_print_versions)
    if (name := first.command) is None:
        return exit_code(lambda: print(parser.format_help()) or 0)
    if name not in ("launch", *COMMANDS):
        parser.error(f"no command {name!r}; {suggest(name, ['launch', *COMMANDS])}")
    if name == "launch":
        from squeeze_jax.cli import launch

        return launch.main(argv[1:])
    command = COMMANDS[name]
    parser = _Parser(
        prog=f"squeeze-jax {name}",
        description=f"{command.HELP[0].upper()}{command.HELP[1:]}.",
        epilog=f"example: {command.EXAMPLE}",
        formatter_class=_HelpFormatter,
    )
    command.add_arguments(parser)
    parser.add_argument("--verbose", action="store_true", help="also show what libraries log")
    given = [_current_flag(argument, RENAMED_FLAGS.get(name, {})) for argument in argv[1:]]
    if name == firmware.NAME:  # whose keys are written as launch's
        given = [re.sub(r"^--config\.(?=.*=)", "--config=", argument) for argument in given]
    return exit_code(lambda: command.run(parser.parse_args(given)), name in RESUMABLE)


def _current_flag(argument: str, renamed: Mapping[str, str]) -> str:
    """Returns a flag under today's name; prints a line if it is another."""
    flag, equals, value = argument.partition("=")
    if flag not in renamed:
        return argument
    print(f"{flag} is called {renamed[flag]} now", file=sys.stderr)
    return f"{renamed[flag]}{equals}{value}"


def _print_versions() -> int:
    """Prints what a report of a fault should name."""
    from squeeze_jax.study.environment import environment

    found = environment("")
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    print(f"squeeze_jax {__version__}\n{versions}\n{found['device']}")
    return 0


def describe_commands(commands: Mapping[str, Command]) -> str:
    """Returns the commands by group, each with what it does and an example."""
    groups = {LAUNCH_GROUP: [("launch", LAUNCH_HELP, LAUNCH_EXAMPLE)]}
    for name, command in commands.items():
        groups.setdefault(command.GROUP, []).append((name, command.HELP, command.EXAMPLE))
    lines = []
    for group, described in groups.items():
        lines += ["", f"{group}:"]
        for name, words, example in described:
            lines += [f"  {name:<12} {words}", f"  {'':<12}   {example}"]
    return "\n".join([*lines[1:], "", "squeeze-jax COMMAND --help explains the command's flags."])
