"""Shows the progress of a sweep: a bar on a terminal, plain lines elsewhere."""

import contextlib
import sys
import time
from typing import Any, TextIO

from tqdm import tqdm


class Progress:
    """Shows the steps of a whole sweep, the rate and the time left, and a line for each trial."""

    def __init__(
        self,
        total_steps: int = 0,
        stream: TextIO | None = None,
        plain_every: float = 15.0,
        jobs: int = 1,
    ):
        """Shows progress on a stream.

        Args:
          total_steps: steps of all trials, as far as they are known.
          stream: where to show it; stderr by default.
          plain_every: seconds between lines where the stream is no terminal.
          jobs: processes that take the steps together.
        """
        shown = stream or sys.stderr
        self._bar = tqdm(
            total=total_steps,
            file=shown,
            disable=not shown.isatty(),
            unit="step",
            dynamic_ncols=True,
            smoothing=0.05,
        )
        self._plain = None if shown.isatty() else shown
        self._total, self._done, self._elsewhere, self._jobs = total_steps, 0, 0, jobs
        self._first: tuple[float, int] | None = None
        self._printed, self._every = time.monotonic(), plain_every
        self._running: dict[str, tuple[int, int]] = {}  # trial -> its steps so far, and in all

    def start_trial(self, name: str, steps: int, done: int = 0) -> None:
        """Notes that a trial begins, perhaps beside others, or once more.

        Args:
          name: of the trial.
          steps: the step that it is to end at.
          done: the step that it stopped at before, which was counted then.
        """
        self._running[name] = self._running.get(name, (done, 0))[0], steps
        self._bar.set_description_str(name)

    def step(self, name: str, done: int, loss: float | None) -> None:
        """Notes that `done` steps of a trial are taken, and the mean loss where it is known."""
        before, steps = self._running[name]
        self._advance(done - before)
        self._running[name] = done, steps
        if loss is not None:
            self._bar.set_postfix_str(f"loss {loss:.3f}")
        if self._plain and time.monotonic() - self._printed > self._every:
            self._printed = time.monotonic()
            part = (self._done + self._elsewhere) / self._total
            self.say(f"{name}: step {done}, {100 * part:.0f} % of the sweep{self._time_left()}")

    def expect(self, steps: int) -> None:
        """Adds steps to the total; a negative number subtracts them."""
        self._total += steps
        self._bar.total = self._total
        self._bar.refresh()

    def taken_elsewhere(self, steps: int) -> None:
        """Notes that another process took some of the steps."""
        self._elsewhere += steps
        self._bar.update(steps)

    def finish_trial(self, name: str, result: dict[str, Any]) -> None:
        """Prints a line for a finished trial, which may have ended early."""
        done, steps = self._running.pop(name)
        self.expect(done - steps)
        parts = [f"{name}: {result['status']}"]
        if result.get("top1") is not None:
            parts.append(f"top-1 {result['top1']:.1f} %, top-5 {result['top5']:.1f} %")
        if result.get("seconds") is not None:
            parts.append(f"{result['seconds']:.1f} s")
        if result.get("images_per_second") is not None:
            parts.append(f"{result['images_per_second']:.0f} images/s")
        sizes = {
            key.removeprefix("bytes_"): size
            for key, size in result.items()
            if key.startswith("bytes_")
        }
        parts += [f"{size:,} bytes ({coder})" for coder, size in sizes.items()]
        if result.get("reason"):
            parts.append(result["reason"])
        self.say(", ".join(parts))

    def close(self) -> None:
        """Closes the bar."""
        self._bar.close()

    def _advance(self, steps: int) -> None:
        self._done += steps
        self._bar.update(steps)
        # The rate counts from the end of the first steps, without the compilation.
        if self._first is None and steps:
            self._first = (time.monotonic(), self._done)

    def _time_left(self) -> str:
        if self._first is None:
            return ""
        since, done = self._first
        rate = self._jobs * (self._done - done) / max(time.monotonic() - since, 1e-9)
        return (
            f", about {(self._total - self._done - self._elsewhere) / rate / 60:.1f} min left"
            if rate
            else ""
        )

    def say(self, line: str) -> None:
        """Prints a line beside the bar."""
        if self._plain:
            with contextlib.suppress(BrokenPipeError):  # its reader has ended; training goes on
                print(line, file=self._plain, flush=True)
        else:
            self._bar.write(line, file=self._bar.fp)
