"""What happens between the steps of a training run: it is logged, shown, evaluated and saved."""

import math
import time
from collections.abc import Callable
from typing import Any

import jax

from squeeze_jax.train import parallel
from squeeze_jax.train.checkpoint import Checkpoints
from squeeze_jax.train.compiled import CompiledTrial
from squeeze_jax.train.config import TrainConfig
from squeeze_jax.train.evaluation import percentages
from squeeze_jax.train.state import TrainState
from squeeze_jax.train.stopwatch import Stopwatch
from squeeze_jax.train.trackers import Trackers


class Run:
    """A training run as its callbacks see it.

    Attributes:
      compiled: the compiled steps.
      config: the recipe.
      state: after `step` steps.
      start: the step that this launch began after.
      step: how many steps are taken.
      total_steps: of the whole run.
      end: the step to end at, perhaps early.
      learning_rate: of the latest step.
      loss: mean training loss since the last log line, None except at one.
      sums: of the latest evaluation; see `step.make_eval_step`.
      diverged: the loss is not finite any more; the run ends.
      stopwatch: the speed of the steps alone.
    """

    def __init__(
        self,
        compiled: CompiledTrial,
        config: TrainConfig,
        state: TrainState,
        trackers: Trackers,
        steps_per_epoch: int,
        stop_after: int | None = None,
    ):
        self.compiled, self.config, self.state = compiled, config, state
        self.start = self.step = int(state.step)
        self.total_steps = compiled.total_steps
        self.end = self.total_steps if stop_after is None else min(stop_after, self.total_steps)
        self.learning_rate = 0.0
        self.loss: float | None = None
        self.sums: dict[str, Any] | None = None
        self.diverged = False
        self.stopwatch = Stopwatch(config.batch_size)
        self._trackers = trackers
        self._seconds_before = trackers.open(self.step)
        self._begun = time.perf_counter()
        self._steps_per_epoch = steps_per_epoch

    @property
    def is_last(self) -> bool:
        """Returns whether all steps are taken that this run is to take."""
        return self.step >= self.end

    @property
    def is_early(self) -> bool:
        """Returns whether the net is not trained to its end: the run diverged or is to stop."""
        return self.diverged or self.step < self.total_steps

    def is_due(self, every: int) -> bool:
        """Returns whether what is done each `every` steps (0: at the end only) is due now."""
        return self.is_last or (every > 0 and self.step % every == 0)

    def seconds(self) -> float:
        """Returns the seconds spent on this run, earlier launches included."""
        return self._seconds_before + time.perf_counter() - self._begun

    def record(self, **metrics: Any) -> None:
        """Hands what was measured after the latest step to all trackers.

        JSON has no NaN: a value that is not finite becomes None.
        """
        finite = {
            name: None if value is None or not math.isfinite(value) else value
            for name, value in metrics.items()
        }
        record = {"step": self.step, "epoch": self.step / self._steps_per_epoch, **finite}
        record["seconds"] = self.seconds()
        self._trackers.write(record)

    def flush(self) -> None:
        """Makes what was recorded last as long as a checkpoint of this step."""
        self._trackers.flush()


class Callback:
    """Is called at the start of a run, after each step, and at the end; does nothing."""

    def on_start(self, run: Run) -> None:
        """Is called before the first step of a launch."""

    def on_step(self, run: Run) -> None:
        """Is called after each step."""

    def on_end(self, run: Run) -> None:
        """Is called after the last step, or where the loss has diverged."""


class Log(Callback):
    """Reads the running metrics each `train.log_every` steps, and tells a loss that diverged."""

    def on_step(self, run: Run) -> None:
        """Waits for the first step to be compiled, and records the loss where it is due."""
        run.loss = None
        if run.step == run.start + 1:
            # The step is compiled by now: the stopwatch starts here.
            jax.block_until_ready(run.state.step)
            run.stopwatch.start(run.step)
        if not run.is_due(run.config.log_every):
            return
        running = jax.device_get(run.state.running)
        count = (run.step - 1) % run.config.log_every + 1
        run.loss = float(running["loss"]) / count
        run.diverged = not math.isfinite(running["loss"])
        run.record(
            loss=run.loss,
            train_top1=100 * float(running["top1"]) / count,
            learning_rate=run.learning_rate,
            images_per_second=run.stopwatch.lap(run.step),
        )


class Progress(Callback):
    """Calls a function with the number of steps taken and, where it was read, the mean loss."""

    def __init__(self, show: Callable[[int, float | None], None]):
        self._show = show

    def on_start(self, run: Run) -> None:
        """Shows the step that the run starts at."""
        self._show(run.step, None)

    def on_step(self, run: Run) -> None:
        """Shows the step."""
        self._show(run.step, run.loss)


class Evaluation(Callback):
    """Evaluates each `train.eval_every` steps and at the end, on the whole evaluation set."""

    def on_step(self, run: Run) -> None:
        """Evaluates where it is due."""
        if run.diverged or not run.is_due(run.config.eval_every):
            return
        run.record(**self._evaluate(run))
        run.flush()
        run.stopwatch.start(run.step)

    def on_end(self, run: Run) -> None:
        """Evaluates where the run was complete already."""
        if run.sums is None and not run.diverged:
            # It was killed between the last checkpoint and its result.
            self._evaluate(run)

    def _evaluate(self, run: Run) -> dict[str, float]:
        """Returns the percentages, and tells weights that diverged after the last reading."""
        run.sums = run.compiled.evaluate(*run.state.network_weights)
        found = percentages(run.sums)
        run.diverged = not math.isfinite(found["eval_loss"])
        return found


class SaveCheckpoint(Callback):
    """Saves the state each `train.checkpoint_every` steps and at the end, with the records."""

    def __init__(self, checkpoints: Checkpoints):
        self._checkpoints = checkpoints

    def on_step(self, run: Run) -> None:
        """Saves where it is due."""
        if run.diverged or not run.is_due(run.config.checkpoint_every):
            return
        self.save(run)
        run.stopwatch.start(run.step)

    def on_end(self, run: Run) -> None:
        """Keeps the records of a run that has diverged, which is not saved."""
        run.flush()

    def save(self, run: Run) -> None:
        """Saves the state as it is now, and what was recorded until now."""
        run.flush()
        self._checkpoints.save(parallel.as_global(run.state, run.compiled.devices))
