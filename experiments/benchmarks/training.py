"""A training step, ours beside PyTorch's.

Forward, backward, gradient clipping where the preset has it, SGD with momentum and decay.

Ours is the step that `launch.py` runs: it also picks the batch's images from memory, crops and
mirrors them. PyTorch is given a batch that is ready, channels-last, and runs as it is and compiled
(torch.compile).
"""

from collections.abc import Callable

import jax
import numpy as np
import torch
from ml_collections import ConfigDict
from torch import nn

from experiments.benchmarks import interleaved, torch_nets
from squeeze_jax.configs import squeezenet
from squeeze_jax.data import ArraySource, Data
from squeeze_jax.train import TrialConfig, compile_trial, fill_from_checkpoint, parallel

PACKAGES = ("torch",)
SETTINGS = {  # title -> preset, batch, PyTorch's net, rounds
    "SqueezeNet v1.0 at 227, batch 32": (
        "imagenet",
        32,
        torch_nets.IMAGENET["squeezenet_v1_0"],
        10,
    ),
    "CIFAR variant, batch 256": ("cifar10", 256, torch_nets.CIFAR, 10),
}


def rows() -> list[interleaved.Row]:
    """Both settings of the table."""
    result = []
    for title, (preset, batch, settings, rounds) in SETTINGS.items():
        config = squeezenet.get_config(preset)
        config.train.update(batch_size=batch, steps=1000)
        runs = {
            "squeeze_jax": own_step(fill_from_checkpoint(config)),
            "PyTorch, channels-last": torch_step(config, settings, compiled=False),
            "PyTorch, channels-last, compiled": torch_step(config, settings, compiled=True),
        }
        result += interleaved.compare(title, runs, rounds, images=batch, warm_up=2)
    return result


def own_step(config: ConfigDict) -> Callable[[], None]:
    """One call is one step of `launch.py`, over all devices, on random images that live in memory."""
    random, classes, count = (
        np.random.default_rng(0),
        10 if config.preset == "cifar10" else 1000,
        2 * config.train.batch_size,
    )
    images = random.integers(0, 256, (count, config.data.resize, config.data.resize, 3), np.uint8)
    source = ArraySource(
        "random",
        tuple(map(str, range(classes))),
        images,
        random.integers(0, classes, count, np.int32),
    )
    arrays = {"image": source.images, "label": source.labels}
    trial, devices = TrialConfig.parse(config), jax.devices()
    data = Data(trial.data, source, source, arrays, arrays)
    compiled = compile_trial(trial, data, devices)
    batches = data.train(trial.train.batch_size, 0).batches()
    state = parallel.replicate(compiled.initial_state(trial), devices)
    rate = np.float32(trial.train.learning_rate)

    def step() -> None:
        nonlocal state
        batch = parallel.divide(next(batches), devices)
        state = compiled.train_step(state, compiled.train_device_data, batch, rate)
        jax.block_until_ready(state)

    return step


def torch_step(config: ConfigDict, settings: dict, compiled: bool) -> Callable[[], None]:
    """One call is one step on a batch that is ready."""
    module = torch_nets.SqueezeNet(**settings).train().to(memory_format=torch.channels_last)
    classes, size, train = settings.get("classes", 1000), config.data.image_size, config.train
    optimizer = torch.optim.SGD(
        module.parameters(),
        train.learning_rate,
        momentum=train.momentum,
        weight_decay=train.weight_decay,
    )
    images = torch.randn(train.batch_size, 3, size, size).to(memory_format=torch.channels_last)
    labels = torch.randint(0, classes, (train.batch_size,))
    run = torch.compile(module) if compiled else module

    def step() -> None:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(run(images), labels)
        loss.backward()
        if train.clip_norm:
            nn.utils.clip_grad_norm_(module.parameters(), train.clip_norm)
        optimizer.step()
        loss.item()

    return step
