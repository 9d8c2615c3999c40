"""Data parallelism over a set of devices: the only file that names pmap.

The state is replicated, and a batch is divided along its first axis. Each of several processes
feeds the share of the batch that belongs to its own devices.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from squeeze_jax.train.step import AXIS, EvalStep, TrainStep

Devices = Sequence[jax.Device]


def parallel_train_step(step: TrainStep, devices: Devices) -> Callable:
    """Returns the training step over `devices`.

    It takes (replicated state, replicated data, divided batch, learning rate, replicated weights of
    the teacher, or anything without one), and returns the replicated state.
    """
    return jax.pmap(
        step,
        axis_name=AXIS,
        in_axes=(None, None, 0, None, None),
        out_axes=None,
        donate_argnums=0,
        devices=devices,
    )


def parallel_eval_step(step: EvalStep, devices: Devices) -> Callable:
    """Returns the evaluation step over `devices`.

    It takes (params, stats, data: replicated; batch: divided), and returns replicated sums.
    """
    return jax.pmap(
        step, axis_name=AXIS, in_axes=(None, None, None, 0), out_axes=None, devices=devices
    )


def replicated(devices: Devices) -> NamedSharding:
    """Returns the sharding of an array that each of `devices` holds whole."""
    return NamedSharding(Mesh(np.asarray(devices), (AXIS,)), PartitionSpec())


def replicate(tree: Any, devices: Devices) -> Any:
    """Returns the tree with a copy of each array on each of this process's `devices`.

    A state is placed so before the first call: a step compiles twice for NumPy arrays.
    """
    return jax.device_put(tree, replicated(local_devices(devices)))


def as_global(tree: Any, devices: Devices) -> Any:
    """Returns replicated arrays as held by all of `devices`.

    Orbax saves and restores such arrays; pmap knows this process's devices only.
    """
    return _with_sharding(tree, replicated(devices))


def as_local(tree: Any, devices: Devices) -> Any:
    """Returns what `as_global` was made of."""
    return _with_sharding(tree, replicated(local_devices(devices)))


def _with_sharding(tree: Any, sharding: NamedSharding) -> Any:
    """Returns the same buffers under another sharding."""

    def view(array):
        return jax.make_array_from_single_device_arrays(
            array.shape, sharding, [shard.data for shard in array.addressable_shards]
        )

    return jax.tree.map(view, tree)


def divide(batch: dict[str, np.ndarray], devices: Devices) -> dict[str, np.ndarray]:
    """Returns this process's share of a batch, [b, ...], as [devices, b / devices, ...]."""
    local = len(local_devices(devices))
    return {name: array.reshape(local, -1, *array.shape[1:]) for name, array in batch.items()}


def local_devices(devices: Devices) -> Devices:
    """Returns those of `devices` that belong to this process."""
    return [device for device in devices if device.process_index == jax.process_index()]
