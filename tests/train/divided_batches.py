"""Writes the state after three steps for each of several divisions of one batch.

`python -m tests.train.divided_batches FILE.npz`, with eight devices; see test_step.py.
"""

import sys

import jax
import numpy as np

from squeeze_jax.data import open_data
from squeeze_jax.train import TrialConfig, compile_trial, optimizers, parallel
from squeeze_jax.train.compiled import training_pipeline
from tests.train.narrow import narrow_config

DIVISIONS = ((1, 1), (1, 2), (2, 1), (4, 0), (8, 1))  # devices, train.grad_accum_steps


def states(config, data, devices, steps=3):
    """Yields the state after each of the first steps."""
    trial = TrialConfig.parse(config)
    compiled = compile_trial(trial, data, devices)
    state = parallel.replicate(compiled.initial_state(trial), devices)
    batches, teacher = training_pipeline(trial, data).batches(), compiled.teacher_weights(trial)
    for rate in optimizers.learning_rates(trial.train, compiled.total_steps)[:steps]:
        batch = parallel.divide(next(batches), devices)
        state = compiled.train_step(state, compiled.train_device_data, batch, rate, teacher)
        yield jax.device_get(state)


def get_config():
    """A narrow SqueezeNet with BatchNorm on the digits, and everything random that there is."""
    config = narrow_config()
    config.model.update(batch_norm=True, dropout=0.3)
    augment = ("color_jitter", "trivial_augment", "random_erasing")
    config.data.update(pad=2, mirror=True, augment=augment)
    config.train.update(bn_group_size=16, mixup=0.2, cutmix=1.0)
    return config


def main(path: str) -> None:
    """Writes an array for each leaf, named DIVISION:NUMBER."""
    config = get_config()
    data = open_data(TrialConfig.parse(config).data)
    arrays = {}
    for devices, parts in DIVISIONS:
        config.train.grad_accum_steps = parts
        *_, last = states(config, data, jax.devices()[:devices])
        leaves = jax.tree.leaves((last.params, last.stats, last.running))
        arrays |= {f"{devices} {parts}:{i:03}": leaf for i, leaf in enumerate(leaves)}
    np.savez(path, **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
