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
        stream: TextIO = sys.stderr,
        plain_every: float = 15.0,
        jobs: int = 1,
    ):
        """Shows progress on a stream.

        Args:
          total_steps: steps of all trials, as far as they are known.
          stream: where to show it.
          plain_every: seconds between lines where the stream is no terminal.
          jobs: processes that take the steps together.
        """
        self._bar = tqdm(
            total=total_steps,
            file=stream,
            disable=not stream.isatty(),
            unit="step",
            dynamic_ncols=True,
            smoothing=0.05,
        )
        self._plain = None if stream.isatty() else stream
        self._total, self._done, self._elsewhere, self._jobs = total_steps, 0, 0, jobs
        self._trial_total, self._trial_done = 0, 0
        self._first: tuple[float, int] | None = None
        self._printed, self._every = time.monotonic(), plain_every
        self._name = ""

    def start_trial(self, name: str, steps: int) -> None:
        """Notes that a trial of `steps` steps begins."""
        self._name, self._trial_done, self._trial_total = name, 0, steps
        self._bar.set_description_str(name)

    def step(self, done: int, loss: float | None) -> None:
        """Notes that `done` steps of the trial are taken, and the mean loss where it is known."""
        self._advance(done - self._trial_done)
        self._trial_done = done
        if loss is not None:
            self._bar.set_postfix_str(f"loss {loss:.3f}")
        if self._plain and time.monotonic() - self._printed > self._every:
            self._printed = time.monotonic()
            part = (self._done + self._elsewhere) / self._total
            self._print(
                f"{self._name}: step {done}, {100 * part:.0f} % of the sweep{self._time_left()}"
            )

    def expect(self, steps: int) -> None:
        """Adds steps to the total; a negative number subtracts them."""
        self._total += steps
        self._bar.total = self._total
        self._bar.refresh()

    def taken_elsewhere(self, steps: int) -> None:
        """Notes that another process took some of the steps."""
        self._elsewhere += steps
        self._bar.update(steps)

    def finish_trial(self, result: dict[str, Any]) -> None:
        """Prints a line for a finished trial, which may have ended early."""
        self.expect(self._trial_done - self._trial_total)
        parts = [f"{self._name}: {result['status']}"]
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
        self._print(", ".join(parts))

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

    def _print(self, line: str) -> None:
        if self._plain:
            with contextlib.suppress(BrokenPipeError):  # its reader has ended; training goes on
                print(line, file=self._plain, flush=True)
        else:
            self._bar.write(line, file=self._bar.fp)
