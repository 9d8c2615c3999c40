"""The exported project on emulated microcontrollers: the host's outputs, within its memory."""

import io
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from experiments.engine import emulator
from squeeze_jax.convert.c_engine import integer_net, project, reference
from squeeze_jax.cost.engine import make_plan
from squeeze_jax.network import imagenet
from tests.convert.random_networks import random_net

if missing := emulator.missing_tools():
    pytest.skip(f"no emulator: {', '.join(missing)} missing", allow_module_level=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a project of every kind of step, its plan, and the reference's outputs."""
    network = random_net(
        {
            "name": "squeezenet_complex_bypass",
            "num_fire": 4,
            "base_e": 18,
            "incr_e": 12,
            "pool_after": ["conv1", "fire5"],
        },
        preprocessing=replace(imagenet.TORCH, image_size=35),
    )
    images = np.random.default_rng(0).normal(0, 1, (2, 35, 35, 3)).astype(np.float32)
    net = integer_net.quantize(network, images)
    plan, levels = make_plan(net.graph), net.input_scale.quantize(images)
    folder = tmp_path_factory.mktemp("project")
    with zipfile.ZipFile(io.BytesIO(project.write(network, net, plan, levels))) as archive:
        archive.extractall(folder)
    return folder, plan, [reference.run(net, image).tolist() for image in levels]


@pytest.mark.slow
@pytest.mark.parametrize("cpu", emulator.CPUS)
def test_runs_on_a_microcontroller(made, cpu):
    folder, plan, expected = made
    found = emulator.run(folder, cpu)
    assert found.outputs == expected
    assert found.arena == plan.arena.size
    assert 100 < found.stack < 1024 and found.code < 20_000
    macs = sum(
        operator.size * int(np.prod(operator.window)) * plan.graph.operators[source].shape[2]
        for operator in plan.graph.operators
        if operator.kind == "conv"
        for source in operator.inputs
    )
    first, second = found.instructions
    assert abs(first - second) < 0.01 * first and 0.5 * macs < first < 20 * macs
