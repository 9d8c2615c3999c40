"""Lowers training and evaluation steps for Cloud TPUs on a machine that has none."""

import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.experimental import topologies

from squeeze_jax.data import ArraySource, Data, DataConfig
from squeeze_jax.models import batch_norm, conv_backend
from squeeze_jax.network import build_model, split_model
from squeeze_jax.train import TrialConfig, has_batch_norm, optimizers, parallel, step
from squeeze_jax.train.batches import divide_batch
from squeeze_jax.train.state import create

CLASSES = 1000
# Chips -> their arrangement, and that of the chips of one host.
HOSTS = {1: ("1x1", (1, 1, 1)), 8: ("2x4", (2, 2, 1)), 32: ("4x8", (2, 2, 1))}


def set_environment() -> None:
    """Sets what libtpu reads when it loads: do not ask the cloud which machine this is."""
    os.environ.update(
        JAX_PLATFORMS="cpu",
        TPU_SKIP_MDS_QUERY="1",
        TPU_ACCELERATOR_TYPE="v5e-8",
        TPU_WORKER_HOSTNAMES="localhost",
    )


def devices(generation: str, chips: int) -> parallel.Devices:
    """Returns devices that programs can be compiled for and not run on.

    Args:
      generation: v5e or v6e.
      chips: a key of HOSTS.
    """
    arrangement, host = HOSTS[chips]
    return topologies.get_topology_desc(
        f"{generation}:{arrangement}", "tpu", chips_per_host_bounds=host
    ).devices


def lower_steps(
    config: Any, devices: parallel.Devices
) -> dict[str, Callable[[], jax.stages.Lowered]]:
    """Returns functions that lower the steps "train" and "eval" of a config, over all devices."""
    config.data.workers = 0  # one batch is read, for its shapes
    config = TrialConfig.parse(config)
    batch_size = config.train.batch_size
    data = _blank_data(config.data, batch_size)
    model = config.model.to_mapping()
    abstract = nnx.eval_shape(lambda: build_model(model, CLASSES, 0))
    division = divide_batch(config.train, len(devices), has_batch_norm(config))
    batch_norm.set_groups(abstract, division.group_images, division.group_devices, step.AXIS)
    graphdef, params, stats = split_model(abstract)
    optimizer = optimizers.make_optimizer(config.train, params)
    state = jax.eval_shape(
        lambda params, stats: create(params, stats, optimizer, config.train, 0, data), params, stats
    )
    backend = conv_backend.default_conv_backend(devices[0].platform)
    rate = jax.ShapeDtypeStruct((), "float32")

    def batch(pipeline):
        share = pipeline.share // len(devices)
        return {
            name: jax.ShapeDtypeStruct((len(devices), share, *values.shape[1:]), values.dtype)
            for name, values in next(pipeline.batches()).items()
        }

    train, evaluation = data.train(batch_size, 0), data.evaluation(batch_size)
    train_step = parallel.parallel_train_step(
        step.make_train_step(graphdef, train, optimizer, config.train, backend, division), devices
    )
    eval_step = parallel.parallel_eval_step(
        step.make_eval_step(graphdef, evaluation, config.train.dtype, backend), devices
    )
    return {
        "train": lambda: train_step.lower(state, {}, batch(train), rate, ()),
        "eval": lambda: eval_step.lower(state.params, state.stats, {}, batch(evaluation)),
    }


def cost(compiled: jax.stages.Compiled, images: int) -> dict[str, float]:
    """Returns a step's FLOPs and bytes for each image, and the memory of a chip.

    Args:
      compiled: the step.
      images: on each chip; the compiler's analysis is of one chip's program.
    """
    analysis, memory = compiled.cost_analysis(), compiled.memory_analysis()
    return {
        "mflops_per_image": round(analysis["flops"] / images / 1e6, 1),
        "mbytes_per_image": round(analysis["bytes accessed"] / images / 1e6, 2),
        "temporary_mib": round(memory.temp_size_in_bytes / 2**20, 1),
        "arguments_mib": round(memory.argument_size_in_bytes / 2**20, 1),
    }


def _blank_data(config: DataConfig, count: int) -> Data:
    """Returns a streamed data set of the config's size of which only the shapes matter."""
    images = np.broadcast_to(np.uint8(0), (count, config.resize, config.resize, 3))
    names = tuple(map(str, range(CLASSES)))
    source = ArraySource("blank", names, images, np.zeros(count, np.int32))
    return Data(config, source, source, {}, {})
