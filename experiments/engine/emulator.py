"""Runs an exported project on an emulated microcontroller.

It needs arm-none-eabi-gcc with newlib, and qemu-system-arm.
"""

import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

CPUS = ("cortex-m4", "cortex-m55")
TOOLS = ("make", "arm-none-eabi-gcc", "arm-none-eabi-size", "qemu-system-arm")


class Run(NamedTuple):
    """What a run told."""

    outputs: list[list[int]]  # of each test image
    instructions: list[int]  # of each inference, to about a hundred
    stack: int  # bytes
    arena: int  # bytes
    flash: int  # bytes of the program, with the test and its images
    code: int  # bytes of the engine's functions


def missing_tools() -> list[str]:
    """Returns the programs that are not installed."""
    return [tool for tool in TOOLS if shutil.which(tool) is None]


def run(project: Path, cpu: str, optimize: str = "-O3") -> Run:
    """Builds and runs a project's test.

    Args:
      project: its folder.
      cpu: one of CPUS.
      optimize: the compiler's flag.

    Raises:
      CalledProcessError: it cannot be built, or an output is wrong.
    """
    command = ["make", "-s", f"CPU={cpu}", f"OPTIMIZE={optimize}"]
    done = subprocess.run(
        [*command, "test"], cwd=project, capture_output=True, text=True, check=True
    )
    lines = [line.split() for line in done.stdout.splitlines()]

    def numbers(name: str) -> list[list[int]]:
        return [list(map(int, rest)) for first, *rest in lines if first == name]

    program = f"net_test_{cpu}"
    size = subprocess.run(
        ["arm-none-eabi-size", program], cwd=project, capture_output=True, text=True, check=True
    ).stdout.splitlines()[1]
    symbols = subprocess.run(
        ["arm-none-eabi-nm", "-S", "--size-sort", program],
        cwd=project, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    functions = re.findall(r"^\w+ (\w+) [tT] (\w+)$", symbols, re.M)
    test = {"main", "print", "print_number", "print_line", "fault", "tick", "ticks"}
    return Run(
        numbers("output"),
        [count for (count,) in numbers("instructions")],
        numbers("stack")[0][0],
        numbers("arena")[0][0],
        int(size.split()[0]) + int(size.split()[1]),
        sum(
            int(size, 16)
            for size, name in functions
            if name not in test and not name.startswith("board")
        ),
    )
