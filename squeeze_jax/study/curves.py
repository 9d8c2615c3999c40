"""The training curve of a trial: the records of metrics.jsonl."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from squeeze_jax.errors import UserError

Item = TypeVar("Item")


def parse_curve(path: Path, content: bytes, at_most: int | None = None) -> list[dict[str, Any]]:
    """Returns the records of a metrics.jsonl: one a step, in order.

    Args:
      path: of the file, for messages.
      content: of the file.
      at_most: how many lines of training, and of evaluation, are read, evenly spaced; None: all.

    Raises:
      UserError: a line is damaged.
    """
    steps: dict[int, dict[str, Any]] = {}
    # What follows the last newline is still being written.
    lines = list(enumerate(content.split(b"\n")[:-1], start=1))
    if at_most is not None and len(lines) > at_most:
        lines = _sample(lines, at_most)
    for number, line in lines:
        try:
            record = json.loads(line)
            # The training and evaluation lines of a step are one entry. A resumed trial repeats
            # some steps; the last line of a step counts.
            steps.setdefault(record["step"], {}).update(record)
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path} is damaged: line {number} is no record of a step") from error
    return [steps[step] for step in sorted(steps)]


def thin(values: Sequence[Item], at_most: int) -> list[Item]:
    """Returns at most so many of the values, evenly spaced, the first and the last among them."""
    if len(values) <= at_most:
        return list(values)
    return [values[round(i * (len(values) - 1) / (at_most - 1))] for i in range(at_most)]


def _sample(lines: Sequence[tuple[int, bytes]], at_most: int) -> list[tuple[int, bytes]]:
    """Returns lines of training and lines of evaluation, which are few, in their order."""
    evaluations = [each for each in lines if b'"top1"' in each[1]]
    others = [each for each in lines if b'"top1"' not in each[1]]
    return sorted(thin(evaluations, at_most) + thin(others, at_most))
