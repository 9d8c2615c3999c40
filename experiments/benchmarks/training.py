"""Times a training step in squeeze_jax and in PyTorch.

A step is the forward and backward pass, gradient clipping where the preset has it, and SGD with
momentum and weight decay. squeeze_jax runs the step of `launch.py`, which also takes the batch's
images from memory, crops and mirrors them. PyTorch gets a preprocessed channels-last batch and runs
eagerly and compiled (torch.compile). Each has a process of its own, and takes STEPS steps in a row,
as in training.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
from ml_collections import ConfigDict
from torch import nn

from experiments.benchmarks import interleaved, torch_nets
from squeeze_jax.allocator import keep_freed_memory
from squeeze_jax.configs import base, squeezenet
from squeeze_jax.data import ArraySource, Data
from squeeze_jax.train import (
    CompiledTrial,
    TrialConfig,
    compile_trial,
    fill_from_checkpoint,
    parallel,
)
from squeeze_jax.train.state import TrainState

PACKAGES = ("torch",)


class Setting(NamedTuple):
    """One net: `config` returns what squeeze_jax trains, `module` what PyTorch does."""

    config: Callable[[], ConfigDict]
    module: Callable[[], nn.Module]
    batch_size: int
    classes: int


def with_model(preset: str, name: str, **options: Any) -> ConfigDict:
    """Returns the config of a preset with another model."""
    config = base.get_config(preset, "training")
    config.model = base.model(name, **options)
    return config


SETTINGS = {
    "SqueezeNet v1.0 at 227, batch 32": Setting(
        lambda: squeezenet.get_config("imagenet"),
        lambda: torch_nets.SqueezeNet(**torch_nets.IMAGENET["squeezenet_v1_0"]),
        32,
        1000,
    ),
    "CIFAR variant, batch 256": Setting(
        lambda: squeezenet.get_config("cifar10"),
        lambda: torch_nets.SqueezeNet(**torch_nets.CIFAR),
        256,
        10,
    ),
    "CIFAR net with BatchNorm, batch 128": Setting(
        lambda: with_model(
            "cifar10",
            "squeezenet_complex_bypass",
            base_e=32,
            incr_e=32,
            squeeze_ratio=0.25,
            conv1_filters=32,
            conv1_kernel=3,
            conv1_stride=1,
            conv1_pad=1,
            pool_after=("fire3", "fire5"),
            conv10_relu=False,
            dropout=0.0,
            batch_norm=True,
            init="he",
        ),
        lambda: torch_nets.SqueezeNet(**torch_nets.CIFAR_BN),
        128,
        10,
    ),
    "SqueezeNext-23 at 32, batch 128": Setting(
        lambda: with_model(
            "cifar10",
            "squeezenext_23",
            conv1_kernel=3,
            conv1_stride=1,
            conv1_pad=1,
            pool1=False,
        ),
        lambda: torch_nets.SqueezeNext(small=True, classes=10),
        128,
        10,
    ),
    "SqueezeNext-23 at 227, batch 32": Setting(
        lambda: with_model("imagenet", "squeezenext_23"),
        lambda: torch_nets.SqueezeNext(small=False, classes=1000),
        32,
        1000,
    ),
}
ROUNDS, STEPS = 6, 4


def rows() -> list[interleaved.Row]:
    """Measures every setting."""
    result = []
    for title, setting in SETTINGS.items():
        with contextlib.ExitStack() as stack:
            runs = {
                name: stack.enter_context(interleaved.in_process(*arguments))
                for name, arguments in {
                    "squeeze_jax": (own_step, title, STEPS),
                    "PyTorch, channels-last": (torch_step, title, False, STEPS),
                    "PyTorch, channels-last, compiled": (torch_step, title, True, STEPS),
                }.items()
            }
            images = setting.batch_size * STEPS
            result += interleaved.compare(title, runs, ROUNDS, images=images)
    return result


def config_of(setting: Setting, **recipe: Any) -> ConfigDict:
    """Returns the config of a setting, with its batch size, and keys of the train section."""
    config = setting.config()
    config.train.update(batch_size=setting.batch_size, steps=1000)
    config.train.update(recipe)
    return config


def own_step(title: str, steps: int = 1, **recipe: Any) -> Callable[[], None]:
    """Returns a function that runs steps of `launch.py` on all devices.

    Args:
      title: of the setting.
      steps: in a row before the result is waited for.
      recipe: keys of the train section.
    """
    compiled, state, batches, constants = _own_trial(title, recipe)

    def run() -> None:
        nonlocal state
        for _ in range(steps):
            state = compiled.train_step(
                state, compiled.train_device_data, next(batches), *constants
            )
        jax.block_until_ready(state)

    return run


def own_cost(title: str, **recipe: Any) -> tuple[float, float]:
    """Returns the FLOPs and the bytes of `own_step` on each device, according to XLA.

    FLOPs are those before XLA optimises, which puts calls of libraries in place of a GPU's
    convolutions; bytes are those of the compiled step.
    """
    compiled, state, batches, constants = _own_trial(title, recipe)
    lowered = compiled.train_step.lower(
        state, compiled.train_device_data, next(batches), *constants
    )
    flops = lowered.cost_analysis()["flops"]
    return flops, lowered.compile().cost_analysis()["bytes accessed"]


def _own_trial(
    title: str, recipe: dict[str, Any]
) -> tuple[CompiledTrial, TrainState, Iterator[dict[str, np.ndarray]], tuple]:
    """Returns a trial, its first state, endless batches, and the step's last two arguments.

    The images are random and lie in device memory.
    """
    keep_freed_memory()
    classes = SETTINGS[title].classes
    config = fill_from_checkpoint(config_of(SETTINGS[title], **recipe))
    random, count = np.random.default_rng(0), 2 * config.train.batch_size
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
    rate, teacher = np.float32(trial.train.learning_rate), compiled.teacher_weights(trial)
    return (
        compiled,
        parallel.replicate(compiled.initial_state(trial), devices),
        (parallel.divide(batch, devices) for batch in batches),
        (rate, teacher),
    )


def torch_step(
    title: str, compiled: bool, steps: int = 1, device: str = "cpu", **recipe: Any
) -> Callable[[], None]:
    """Returns a function that runs steps of PyTorch on a preprocessed batch.

    Args:
      title: of the setting.
      compiled: by torch.compile.
      steps: in a row before the result is waited for.
      device: of PyTorch.
      recipe: keys of the train section; with dtype bfloat16 PyTorch's autocast is on.
    """
    setting = SETTINGS[title]
    config = config_of(setting, **recipe)
    torch.backends.cudnn.benchmark = True
    module = setting.module().train().to(device, memory_format=torch.channels_last)
    size, train = config.data.image_size, config.train
    optimizer = torch.optim.SGD(
        module.parameters(),
        train.learning_rate,
        momentum=train.momentum,
        weight_decay=train.weight_decay,
    )
    images = torch.randn(train.batch_size, 3, size, size, device=device)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.randint(0, setting.classes, (train.batch_size,), device=device)
    forward = torch.compile(module) if compiled else module
    autocast = torch.autocast(device, torch.bfloat16, enabled=train.dtype == "bfloat16")

    def run() -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            with autocast:
                loss = nn.functional.cross_entropy(forward(images), labels)
            loss.backward()
            if train.clip_norm:
                nn.utils.clip_grad_norm_(module.parameters(), train.clip_norm)
            optimizer.step()
        loss.item()

    return run
