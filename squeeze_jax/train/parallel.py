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
    return jax.pmap(
        step,
        axis_name=AXIS,
        in_axes=(None, None, 0),
        out_axes=None,
        donate_argnums=0,
        devices=devices,
    )


def parallel_eval_step(step: EvalStep, devices: Devices) -> Callable:
    """The evaluation step over `devices`: (params, stats, data: replicated; batch: divided) -> replicated sums."""
    return jax.pmap(
        step, axis_name=AXIS, in_axes=(None, None, None, 0), out_axes=None, devices=devices
    )


def replicated(devices: Devices) -> NamedSharding:
    """The sharding of an array that every one of `devices` holds whole."""
    return NamedSharding(Mesh(np.asarray(devices), (AXIS,)), PartitionSpec())


def replicate(tree: Any, devices: Devices) -> Any:
    """A copy of every array on each of this process's `devices`; placed before the first call, since NumPy state would compile it twice."""
    return jax.device_put(tree, replicated(local_devices(devices)))


def as_global(tree: Any, devices: Devices) -> Any:
    """Replicated arrays as held by all of `devices`, which is what Orbax saves and restores; pmap knows this process's only."""
    return _seen_as(tree, replicated(devices))


def as_local(tree: Any, devices: Devices) -> Any:
    """The opposite of `as_global`."""
    return _seen_as(tree, replicated(local_devices(devices)))


def _seen_as(tree: Any, sharding: NamedSharding) -> Any:
    """The same buffers under another sharding."""

    def view(array: jax.Array) -> jax.Array:
        return jax.make_array_from_single_device_arrays(
            array.shape, sharding, [shard.data for shard in array.addressable_shards]
        )

    return jax.tree.map(view, tree)


def divide(batch: dict[str, np.ndarray], devices: Devices) -> dict[str, np.ndarray]:
    """This process's share of a batch [b, ...] as [local devices, b / local devices, ...]."""
    local = len(local_devices(devices))
    return {name: array.reshape(local, -1, *array.shape[1:]) for name, array in batch.items()}


def local_devices(devices: Devices) -> list[jax.Device]:
    """Those of `devices` that belong to this process."""
    return [device for device in devices if device.process_index == jax.process_index()]
