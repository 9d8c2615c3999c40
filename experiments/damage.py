"""Damages files, measures memory and tabulates outcomes for the fuzzers."""

import resource
import sys
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from squeeze_jax.report.tables import markdown


def truncated(content: bytes, random: np.random.Generator) -> bytes:
    """Truncates a file at a random offset."""
    return content[: random.integers(len(content))]


def flipped(content: bytes, random: np.random.Generator) -> bytes:
    """Flips one to eight random bits."""
    changed = bytearray(content)
    for _ in range(random.integers(1, 9)):
        changed[random.integers(len(changed))] ^= 1 << random.integers(8)
    return bytes(changed)


def cut_out(content: bytes, random: np.random.Generator) -> bytes:
    """Removes up to 199 bytes at a random offset."""
    start, size = random.integers(len(content)), random.integers(1, 200)
    return content[:start] + content[start + size :]


def inserted(content: bytes, random: np.random.Generator) -> bytes:
    """Inserts up to 199 random bytes at a random offset."""
    offset = random.integers(len(content) + 1)
    return content[:offset] + random.bytes(random.integers(1, 200)) + content[offset:]


def peak() -> float:
    """Returns the peak resident memory of this process, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1024 if sys.platform == "linux" else 1 << 20
    )


def table(counts: Mapping[str, Counter], headings: Mapping[str, str]) -> str:
    """Formats outcomes as a markdown table: a row for each kind of file and one for the total.

    Args:
      counts: kind of file -> how often each outcome occurred.
      headings: outcome -> heading of its column.
    """

    def row(name: str, counters: Sequence[Counter]) -> list[str]:
        return [name, *(str(sum(counter[column] for counter in counters)) for column in headings)]

    rows = [row(name, [counter]) for name, counter in counts.items()]
    return markdown([["file", *headings.values()], *rows, row("all", list(counts.values()))])
