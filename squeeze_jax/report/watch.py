"""Draws a study's report again and again while the study runs."""

import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from squeeze_jax.report import page
from squeeze_jax.signals import handled_signals
from squeeze_jax.study.records import STOPPED
from squeeze_jax.study.search import KEPT
from squeeze_jax.study.workdir import Workdir

PERIOD = 5  # seconds between two looks at the results


def watch(
    workdir: Path | str, tell: Callable[[str], None] = print, period: float = PERIOD
) -> list[Path]:
    """Draws the report whenever results have changed, until all trials have ended.

    Meanwhile the page reloads itself. Ctrl-C and SIGTERM also end it; the last page does not
    reload.

    Args:
      workdir: folder of the study.
      tell: is given a line each time.
      period: seconds between two looks at the results.

    Returns:
      The paths of the files that were written last.

    Raises:
      UserError: the folder is no workdir, or is damaged.
    """
    folder = Workdir(workdir)
    stopped, signals = threading.Event(), []

    def stop(signum: int, frame: FrameType | None) -> None:
        signals.append(signum)
        stopped.set()

    with handled_signals(stop):
        before, quiet_before = None, False
        while not stopped.is_set():
            rows = folder.read_rows()
            waiting = sum(row["status"] == "pending" for row in rows)
            promotes = any(row["status"] == STOPPED for row in rows)
            quiet = not waiting and not _draws_more(folder) and not _trains_on(folder, rows)
            # Between two trials a scheduler's launcher holds none for a moment.
            if quiet and (quiet_before or not promotes):
                break
            quiet_before = quiet
            if rows != before:
                _draw(folder, max(1, round(period)))
                tell(f"{len(rows) - waiting} of {len(rows)} trials have ended")
            before = rows
            stopped.wait(period)
        written = _draw(folder, None)
    if signals:
        signal.raise_signal(signals[0])  # to whoever handled it before
    return written


def _draws_more(folder: Workdir) -> bool:
    """Returns whether the study's search will add trials to those that it has."""
    record, config = folder.read_search(), folder.read_record().config
    if record is None or "search" not in config:
        return False
    kept = sum(each["verdict"] == KEPT for each in record["draws"])
    return kept < config["search"]["designs"]


def _trains_on(folder: Workdir, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Returns whether trials go on that were stopped early, and stay so until they have ended."""
    stopped = (row["trial"] for row in rows if row["status"] == STOPPED)
    return any(map(folder.is_claimed, stopped))


def _draw(folder: Workdir, reload_after: int | None) -> list[Path]:
    return [folder.write_table(), *page.draw(folder.path, reload_after)]
