"""The steps compile for Cloud TPU, ahead of time, on a machine that has none."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
CHIPS, SHARE = 8, 64
RESIZE = 72


def small_config():
    """The imagenet preset in bfloat16, with two Fire modules at 64 pixels."""
    from squeeze_jax.configs import squeezenet

    config = squeezenet.get_config("imagenet")
    config.train.update(dtype="bfloat16", batch_size=CHIPS * SHARE)
    config.model.update(num_fire=2, pool_after=("conv1",))
    config.data.update(resize=RESIZE, image_size=64)
    return config


@pytest.fixture(scope="module")
def compiled():
    """The figures of both steps, from a process of its own: libtpu reads its environment once."""
    pytest.importorskip("libtpu")
    run = subprocess.run(
        [sys.executable, __file__],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=400,
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


def test_movements_are_told_by_operation(compiled):
    """At least the images come from HBM; the compiler's own count has on-chip memory, too."""
    for name in ("train", "eval"):
        step = compiled[name]
        images = RESIZE * RESIZE * 3 / 1e6
        assert images <= step["moved_mbytes_per_image"] <= step["mbytes_per_image"]
        assert "convolution" in step["kinds"]


def main() -> None:
    """Prints the figures of both steps as JSON."""
    from experiments.tpu import steps, traffic
    from squeeze_jax.cost import design_costs

    steps.set_environment()
    config = small_config()
    size = config.data.image_size
    figures = {"mmacs": design_costs(config.model, 1000, (size, size, 3))["macs"] / 1e6}
    for name, lower in steps.lower_steps(config, steps.devices("v5e", CHIPS)).items():
        lowered = lower()
        compiled = lowered.compile()
        text = compiled.as_text()
        moved = traffic.movements(text)
        figures[name] = steps.cost(compiled, SHARE) | {
            "convolutions": lowered.as_text().count("stablehlo.convolution"),
            "windows": sorted(set(re.findall(r"convolution\(.*window=\{size=([0-9x]+)", text))),
            "all_reduce": "all-reduce" in text,
            "moved_mbytes_per_image": sum(movement.bytes for movement in moved) / SHARE / 1e6,
            "kinds": sorted({movement.kind for movement in moved}),
        }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
