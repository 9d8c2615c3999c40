"""Measures what a trial takes on this machine, without training it."""

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from squeeze_jax.data import Data
from squeeze_jax.train import parallel
from squeeze_jax.train.compiled import CompiledTrial, training_pipeline
from squeeze_jax.train.config import TrialConfig
from squeeze_jax.train.teacher_views import share_asked

STEPS = 5


class Speed(NamedTuple):
    """Seconds that the parts of a trial take."""

    compilation: float  # of the training and the evaluation step
    step: float  # of training
    evaluation: float  # of the whole evaluation set

    def trial(self, steps: int, evaluations: int) -> float:
        """Returns the seconds of a trial of so many steps."""
        return self.compilation + steps * self.step + evaluations * self.evaluation


def measure(compiled: CompiledTrial, config: TrialConfig, data: Data) -> Speed:
    """Times the compilation, STEPS steps and a batch of the evaluation; returns medians.

    Args:
      compiled: from `compile_trial`.
      config: the trial's.
      data: what `compiled` was built with.
    """
    devices = compiled.devices
    state = parallel.replicate(compiled.initial_state(config), devices)
    batches = training_pipeline(config, data).batches(0)
    constants = np.float32(config.train.learning_rate), compiled.teacher_weights(config)

    def train_step() -> float:
        nonlocal state
        start = time.perf_counter()
        batch = parallel.divide(next(batches), devices)
        state = compiled.train_step(state, compiled.train_device_data, batch, *constants)
        jax.block_until_ready(state)
        return time.perf_counter() - start

    def eval_step() -> float:
        start = time.perf_counter()
        batch = parallel.divide(next(iter(compiled.evaluation.batches())), devices)
        weights = state.network_weights
        jax.block_until_ready(compiled.eval_step(*weights, compiled.eval_device_data, batch))
        return time.perf_counter() - start

    first = train_step() + eval_step()
    typical = step = float(np.median([train_step() for _ in range(STEPS)]))
    if jax.tree.leaves(state.teacher_views):  # all steps so far asked the teacher
        state = state._replace(teacher_views=jnp.zeros_like(state.teacher_views))
        known = float(np.median([train_step() for _ in range(STEPS)]))
        steps_per_epoch = training_pipeline(config, data).steps_per_epoch
        share = share_asked(config.train, steps_per_epoch, compiled.total_steps)
        typical = share * step + (1 - share) * known
    batch = eval_step()
    count = -(-data.num_eval // config.train.eval_batch_size)
    return Speed(max(first - step - batch, 0.0), typical, count * batch)
