"""The steps compile for Cloud TPU, ahead of time, on a machine that has none.

`python tests/test_tpu.py` prints what those of SqueezeNet v1.0 under the imagenet preset cost
there: minutes on two CPU cores.
`python tests/test_tpu.py small` is the test's: two Fire modules at 64 pixels.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
BATCH = 512
CHIPS = 8
# Read by libtpu when it loads: which machine to compile for, and not to ask the cloud about it.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5e-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


def blank_data(config):
    """A streamed data set of the config's size of which only the shapes matter."""
    import numpy as np

    from squeeze_jax.data import ArraySource, Data

    images = np.broadcast_to(np.uint8(0), (4 * BATCH, config.resize, config.resize, 3))
    source = ArraySource(
        "blank", tuple(map(str, range(1000))), images, np.zeros(4 * BATCH, np.int32)
    )
    return Data(config, source, source, {}, {})


def shapes(tree, *leading):
    """The tree's shapes and types, `leading` before each shape."""
    import jax

    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((*leading, *x.shape), x.dtype), tree)


def study(small: bool):
    """The imagenet preset in bfloat16, or a small net under it."""
    from squeeze_jax.configs import squeezenet

    config = squeezenet.get_config("imagenet")
    config.train.dtype = "bfloat16"
    config.data.workers = 0  # one batch is read, for its shapes
    if small:
        config.model.update(num_fire=2, pool_after=("conv1",))
        config.data.update(resize=72, image_size=64)
    return config


def lower_steps(config):
    """The training and the evaluation step, lowered for eight TPU v5e chips."""
    import jax
    from flax import nnx
    from jax.experimental import topologies

    from squeeze_jax.models import conv_backend
    from squeeze_jax.network import build_model, split_model
    from squeeze_jax.train import TrialConfig, optimizers, parallel, step
    from squeeze_jax.train.state import create

    devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4").devices
    config = TrialConfig.parse(config)
    data = blank_data(config.data)
    model = config.model.to_mapping()
    graphdef, params, _ = split_model(
        nnx.eval_shape(lambda: build_model(model, data.num_classes, 0))
    )
    optimizer = optimizers.make_optimizer(config.train, params)
    state = shapes(
        jax.eval_shape(
            lambda: create(*split_model(build_model(model, data.num_classes))[1:], optimizer, 0)
        )
    )
    backend = conv_backend.default_conv_backend(devices[0].platform)

    def batch(pipeline):
        share = pipeline.share // len(devices)
        return shapes(
            {name: values[0] for name, values in next(pipeline.batches()).items()},
            len(devices),
            share,
        )

    train, evaluation = data.train(BATCH, 0), data.evaluation(BATCH)
    train_step = parallel.parallel_train_step(
        step.make_train_step(graphdef, train, optimizer, config.train, backend), devices
    )
    eval_step = parallel.parallel_eval_step(
        step.make_eval_step(graphdef, evaluation, config.train.dtype, backend), devices
    )
    return {
        "train": train_step.lower(state, {}, batch(train), jax.ShapeDtypeStruct((), "float32")),
        "eval": eval_step.lower(state.params, state.stats, {}, batch(evaluation)),
    }


def figures(lowered) -> dict:
    """Returns the FLOPs and bytes an image, the memory a device, and the convolutions of a step."""
    compiled = lowered.compile()
    cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
    text = compiled.as_text()
    share = BATCH // CHIPS  # the analysis is of one device's program
    return {
        "convolutions": lowered.as_text().count("stablehlo.convolution"),
        "windows": sorted(set(re.findall(r"convolution\(.*window=\{size=([0-9x]+)", text))),
        "all_reduce": "all-reduce" in text,
        "mflops_per_image": round(cost["flops"] / share / 1e6, 1),
        "mbytes_per_image": round(cost["bytes accessed"] / share / 1e6, 2),
        "temporary_mib": round(memory.temp_size_in_bytes / 2**20, 1),
        "arguments_mib": round(memory.argument_size_in_bytes / 2**20, 1),
    }


@pytest.fixture(scope="module")
def compiled():
    """The figures of both steps, from a process of its own: libtpu reads its environment once."""
    pytest.importorskip("libtpu")
    run = subprocess.run(
        [sys.executable, __file__, "small"], cwd=ROOT, capture_output=True, text=True, timeout=400
    )
    assert run.returncode == 0, run.stderr[-3000:]
    print(run.stdout)
    return json.loads(run.stdout)


def test_training_step_compiles_to_native_convolutions(compiled):
    """8 layers forward; backward 8 for the weights and 7 for the input; gradients are averaged."""
    train = compiled["train"]
    assert train["convolutions"] == 8 + 8 + 7
    assert {"3x3", "7x7"} <= set(train["windows"])
    assert train["all_reduce"]
    assert 2 < train["mflops_per_image"] / compiled["eval"]["mflops_per_image"] < 3.5


def test_evaluation_step_compiles_to_native_convolutions(compiled):
    """8 layers, among them 3x3 and 7x7 windows; two FLOPs a multiply-accumulate of our trace."""
    evaluation = compiled["eval"]
    assert evaluation["convolutions"] == 8
    assert {"3x3", "7x7"} <= set(evaluation["windows"])
    assert 0.9 < evaluation["mflops_per_image"] / (2 * compiled["mmacs"]) < 1.3


def main(small: bool) -> None:
    """Prints the figures as JSON."""
    from squeeze_jax.cost import design_costs

    config = study(small)
    size = config.data.image_size
    print(
        json.dumps(
            {"mmacs": design_costs(config.model, 1000, (size, size, 3))["macs"] / 1e6}
            | {name: figures(step) for name, step in lower_steps(config).items()}
        )
    )


if __name__ == "__main__":
    os.environ.update(ENVIRONMENT)
    sys.path.insert(0, str(ROOT))
    main("small" in sys.argv[1:])
