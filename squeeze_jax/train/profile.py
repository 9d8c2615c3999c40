"""Traces some steps of a training run for XProf and Perfetto."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import jax

from squeeze_jax.train.callbacks import Callback, Run
from squeeze_jax.train.config import TrainConfig

PROFILE_FOLDER = "profile"  # in a trial's


class Profile(Callback):
    """Writes a trace of the steps that `train.profile` names; of those that a launch takes."""

    def __init__(self, steps: tuple[int, int] | None, directory: Path):
        self._steps, self._directory, self._traces = steps, directory, False

    def on_start(self, run: Run) -> None:
        """Starts the trace where the next step is in it."""
        if self._steps and self._steps[0] <= run.step + 1 <= self._steps[1] and not self._traces:
            jax.block_until_ready(run.state)  # earlier steps are not in it
            jax.profiler.start_trace(self._directory, create_perfetto_trace=True)
            self._traces = True

    def on_step(self, run: Run) -> None:
        """Ends the trace after its last step, or else starts it where it is due."""
        if self._traces and (run.step == (self._steps or (0, 0))[1] or run.is_last):
            jax.block_until_ready(run.state)
            self.stop()
        elif not run.is_last:
            self.on_start(run)

    def stop(self) -> None:
        """Writes what was traced, if anything was."""
        if self._traces:
            self._traces = False
            jax.profiler.stop_trace()


@contextlib.contextmanager
def profiled(config: TrainConfig, directory: Path) -> Iterator[Profile]:
    """Yields the callback of `train.profile`; its trace ends with the block at the latest.

    Args:
      config: the recipe.
      directory: the trial's.
    """
    profile = Profile(config.profiled_steps(), directory / PROFILE_FOLDER)
    try:
        yield profile
    finally:
        profile.stop()
