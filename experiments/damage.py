"""What the fuzzers share.

Ways to damage a file, the memory it took, and the table of what became of the files.
"""

import resource
import sys
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from squeeze_jax.report.tables import markdown


def truncated(content: bytes, random: np.random.Generator) -> bytes:
    return content[: random.integers(len(content))]


def flipped(content: bytes, random: np.random.Generator) -> bytes:
    changed = bytearray(content)
    for _ in range(random.integers(1, 9)):
        changed[random.integers(len(changed))] ^= 1 << random.integers(8)
    return bytes(changed)


def cut_out(content: bytes, random: np.random.Generator) -> bytes:
    start, size = random.integers(len(content)), random.integers(1, 200)
    return content[:start] + content[start + size :]


def inserted(content: bytes, random: np.random.Generator) -> bytes:
    place = random.integers(len(content) + 1)
    return content[:place] + random.bytes(random.integers(1, 200)) + content[place:]


def peak() -> float:
    """The most memory this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1024 if sys.platform == "linux" else 1 << 20
    )


def table(counts: Mapping[str, Counter], headings: Mapping[str, str]) -> str:
    """Markdown: a row a kind of file and one for all of them.

    Args:
      counts: outcomes of each kind.
      headings: of the outcomes' columns.
    """

    def row(name: str, counters: Sequence[Counter]) -> list[str]:
        return [name, *(str(sum(counter[column] for counter in counters)) for column in headings)]

    rows = [row(name, [counter]) for name, counter in counts.items()]
    return markdown([["file", *headings.values()], *rows, row("all", list(counts.values()))])
