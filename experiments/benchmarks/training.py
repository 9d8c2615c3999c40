"""Times a training step in squeeze_jax and in PyTorch.

A step is the forward and backward pass, gradient clipping where the preset has it, and SGD with
momentum and weight decay. squeeze_jax runs the step of `launch.py`, which also takes the batch's
images from memory, crops and mirrors them. PyTorch gets a preprocessed channels-last batch and runs
eagerly and compiled (torch.compile).
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
SETTINGS = {  # title -> (preset, batch size, arguments of torch_nets.SqueezeNet, rounds)
    "SqueezeNet v1.0 at 227, batch 32": (
        "imagenet",
        32,
        torch_nets.IMAGENET["squeezenet_v1_0"],
        10,
    ),
    "CIFAR variant, batch 256": ("cifar10", 256, torch_nets.CIFAR, 10),
}


def rows() -> list[interleaved.Row]:
    """Measures both settings."""
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
    """Returns a function that runs one step of `launch.py` on all devices.

    The images are random and lie in device memory.
    """
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
    """Returns a function that runs one step of PyTorch on a preprocessed batch."""
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
