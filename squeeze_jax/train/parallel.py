"""Data parallelism over a set of devices: the only file that names pmap.

The state is replicated, a batch is divided along its first axis. With several processes each feeds the share of the batch
that belongs to its own devices.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from squeeze_jax.train.step import AXIS, EvalStep, TrainStep

Devices = Sequence[jax.Device]


def parallel_train_step(step: TrainStep, devices: Devices) -> Callable:
    """The training step over `devices`: (replicated state, replicated data, divided batch) -> replicated state."""
    return jax.pmap(step, axis_name=AXIS, in_axes=(None, None, 0), out_axes=None, donate_argnums=0, devices=devices)


def parallel_eval_step(step: EvalStep, devices: Devices) -> Callable:
    """The evaluation step over `devices`: (params, stats, data: replicated; batch: divided) -> replicated sums."""
    return jax.pmap(step, axis_name=AXIS, in_axes=(None, None, None, 0), out_axes=None, devices=devices)


def replicated(devices: Devices) -> NamedSharding:
    """The sharding of an array that every one of `devices` holds whole."""
    return NamedSharding(Mesh(np.asarray(devices), (AXIS,)), PartitionSpec())


def replicate(tree: Any, devices: Devices) -> Any:
    """A copy of every array on each of `devices`; placed before the first call, since NumPy state would compile it twice."""
    return jax.device_put(tree, replicated(devices))


def divide(batch: dict[str, np.ndarray], devices: Devices) -> dict[str, np.ndarray]:
    """This process's share of a batch [b, ...] as [local devices, b / local devices, ...]."""
    local = len(local_devices(devices))
    return {name: array.reshape(local, -1, *array.shape[1:]) for name, array in batch.items()}


def local_devices(devices: Devices) -> list[jax.Device]:
    """Those of `devices` that belong to this process."""
    return [device for device in devices if device.process_index == jax.process_index()]
