"""Shows the progress of a sweep: a bar on a terminal, plain lines elsewhere.

Several processes on one sweep share one display: each has a `Relay` in place of a `Progress`.
"""

import contextlib
import json
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from tqdm import tqdm

from squeeze_jax.study.time_left import Expected, TimeLeft, as_record, of_record

_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} steps{postfix}"
_EVENT = "\x1e"  # begins the line of an event: the record separator of RFC 7464
_RELAYED_EVERY = 0.2  # seconds


class Progress:
    """Shows the steps of a whole sweep, the rate and the time left, and a line for each trial."""

    def __init__(
        self,
        total_steps: int = 0,
        stream: TextIO | None = None,
        plain_every: float = 15.0,
        jobs: int = 1,
        expected: Mapping[str, Expected] | None = None,
    ):
        """Shows progress on a stream.

        Args:
          total_steps: steps of all trials, as far as they are known. Once more are taken, as by
            designs that a schedule promotes late, neither a share nor a time left is shown.
          stream: where to show it; stderr by default.
          plain_every: seconds between lines where the stream is no terminal.
          jobs: processes that take the steps together.
          expected: what the trials are known to take, where their steps are known beforehand; the
            time left is told by it.
        """
        shown = stream or sys.stderr
        self._bar = tqdm(
            total=total_steps,
            file=shown,
            disable=not shown.isatty(),
            bar_format=_BAR,
            dynamic_ncols=True,
            leave=False,
        )
        self._plain = None if shown.isatty() else shown
        self._total, self._done, self._elsewhere, self._jobs = total_steps, 0, 0, jobs
        self._since: tuple[float, int] | None = None  # of the first step after a compilation
        self._times = TimeLeft(expected, jobs) if expected else None
        self._loss = ""
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
        if self._times:
            self._times.start(name, time.monotonic())
        self._bar.set_description_str(f"{name}: compiling")

    def step(self, name: str, done: int, loss: float | None) -> None:
        """Notes that `done` steps of a trial are taken, and the mean loss where it is known."""
        before, steps = self._running[name]
        self._advance(done - before)
        self._running[name] = done, steps
        if self._times:
            self._times.step(name, done, time.monotonic())
        if done > before:
            self._bar.set_description_str(name, refresh=False)
        if loss is not None:
            self._loss = f", loss {loss:.3f}"
            # A narrow terminal cuts off the end.
            self._bar.set_postfix_str((self._time_left() + self._loss).removeprefix(", "))
        if self._plain and time.monotonic() - self._printed > self._every:
            self._printed = time.monotonic()
            taken = self._done + self._elsewhere
            part = (
                f", {100 * taken / self._total:.0f} % of all steps"
                if 0 < taken <= self._total
                else ""
            )
            self.say(f"{name}: step {done} of {steps}{part}{self._time_left()}")

    def expect(self, steps: int) -> None:
        """Adds steps to the total; a negative number subtracts them."""
        self._total += steps
        self._bar.total = self._total
        self._bar.refresh()

    def taken_elsewhere(self, steps: int, name: str = "") -> None:
        """Notes that another process took some of the steps: those of the trial `name`."""
        self._elsewhere += steps
        if self._times:
            self._times.finish(name, time.monotonic())
        self._bar.update(steps)

    def finish_trial(self, name: str, result: dict[str, Any]) -> None:
        """Prints a line for a finished trial, which may have ended early."""
        done, steps = self._running.pop(name)
        self.expect(done - steps)
        if self._times:
            self._times.finish(name, time.monotonic())
        parts = [f"{name}: {result['status']}"]
        if result.get("top1") is not None:
            parts.append(f"top-1 {result['top1']:.1f} %")
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
        if self._since is None and steps:
            self._since = (time.monotonic(), self._done)

    def _time_left(self) -> str:
        now = time.monotonic()
        seconds = self._times.seconds(now) if self._times else None
        if self._times is None and self._since is not None:
            since, done = self._since
            rate = self._jobs * (self._done - done) / max(now - since, 1e-9)
            left = self._total - self._done - self._elsewhere
            seconds = left / rate if rate and left >= 0 else None
        if seconds is None:
            return ""
        left = f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"
        return f", about {left} left"

    def say(self, line: str) -> None:
        """Prints a line beside the bar."""
        if self._plain:
            with contextlib.suppress(BrokenPipeError):  # its reader has ended; training goes on
                print(line, file=self._plain, flush=True)
        else:
            self._bar.write(line, file=self._bar.fp)


class Relay:
    """Tells another process, which shows the progress of several, what `Progress` is told here.

    Each event is a line of stderr that `RelayedProgress` reads.
    """

    def __init__(self, total_steps: int = 0, jobs: int = 1, expected: Any = None):
        """Tells what is expected; see `Progress`."""
        self._told, self._fresh = 0.0, 0
        self._tell("begin", total_steps, jobs, as_record(expected or {}))

    def step(self, name: str, done: int, loss: float | None) -> None:
        """Tells the first steps of a trial, then some of them; see `Progress.step`."""
        now = time.monotonic()
        self._fresh -= 1
        if self._fresh >= 0 or now - self._told > _RELAYED_EVERY or loss is not None:
            self._told = now
            self._tell("step", name, done, loss)

    def start_trial(self, name: str, *steps: int) -> None:
        """Tells that a trial begins; see `Progress.start_trial`."""
        self._fresh = 3  # where it goes on from, the step that is compiled, and one more
        self._tell("start_trial", name, *steps)

    def finish_trial(self, name: str, result: dict[str, Any]) -> None:
        """Tells that a trial has ended; see `Progress.finish_trial`."""
        self._tell("finish_trial", name, result)

    def taken_elsewhere(self, steps: int, name: str = "") -> None:
        """Tells what another process took; see `Progress.taken_elsewhere`."""
        self._tell("taken_elsewhere", steps, name)

    def expect(self, steps: int) -> None:
        """Tells of more steps; see `Progress.expect`."""
        self._tell("expect", steps)

    def say(self, line: str) -> None:
        """Prints a line."""
        print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Does nothing: the other process sees that this one ends."""

    def _tell(self, *event: Any) -> None:
        with contextlib.suppress(BrokenPipeError):  # its reader has ended; training goes on
            print(_EVENT + json.dumps(event), file=sys.stderr, flush=True)


class RelayedProgress:
    """Shows the progress of several processes as one, from the lines of their `Relay`s."""

    def __init__(self, stream: TextIO | None = None, plain_every: float = 15.0):
        """Shows nothing yet; see `Progress` for the arguments."""
        self._shown: Progress | None = None
        self._stream, self._every = stream, plain_every
        self._own: set[str] = set()  # trials of the processes themselves
        self._printed: set[str] = set()

    def take(self, line: str) -> None:
        """Takes a line that a process has printed, with its end."""
        if line.startswith(_EVENT):
            self._follow(*json.loads(line.removeprefix(_EVENT)))
        elif line not in self._printed:  # a mistake is the same in each process, and is told once
            self._printed.add(line)
            if self._shown is not None:
                self._shown.say(line.rstrip("\n"))
            else:
                print(line, end="", file=self._stream or sys.stderr, flush=True)

    def close(self) -> None:
        """Closes the display."""
        if self._shown is not None:
            self._shown.close()

    def _follow(self, what: str, *values: Any) -> None:
        if what == "begin":
            steps, jobs, expected = values
            if self._shown is None:
                self._shown = Progress(steps, self._stream, self._every, jobs, of_record(expected))
            return
        name = values[-1] if what == "taken_elsewhere" else values[0]
        if what == "taken_elsewhere" and name in self._own:
            return
        self._own |= {name} if isinstance(name, str) else set()
        getattr(self._shown, what)(*values)
