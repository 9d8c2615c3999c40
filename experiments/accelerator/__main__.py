"""Measures training on the accelerator of this machine, beside PyTorch on the same card.

    python -m experiments.accelerator [--batch-size N] [--steps N] [--data-dir DIR]

Under ten minutes: images/s in bfloat16 of SqueezeNet v1.0 at 227, the CIFAR nets with and without
BatchNorm and SqueezeNext-23, and their share of the roofline: the time that the step's FLOPs or
bytes take at the device's peak, whichever is longer, over the time measured. Then the SR sweep on
CIFAR-10, one epoch a trial, with --jobs 1 and --jobs 2. Prints a table and writes results.json in
this folder. PyTorch needs a build for the card, and the sweep CIFAR-10 in DIR (TFDS's folder);
either is left out with a line. On a CPU the command tries itself out, in float32 and with
two steps a trial, and writes nothing.
"""

import argparse
import json
import os
import shlex
import sys
import tempfile
from pathlib import Path

import torch

from experiments.accelerator import measure
from experiments.benchmarks import interleaved, training
from squeeze_jax.files import write_atomically
from squeeze_jax.study.environment import environment


def main() -> None:
    """Measures what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch-size", type=int, help="images a step; 512, on a CPU 32")
    parser.add_argument("--steps", type=int, help="a round; 20, on a CPU 1")
    parser.add_argument("--data-dir", default="", help="TFDS's, with CIFAR-10, for the sweep")
    arguments = parser.parse_args()
    # JAX takes the whole memory of a GPU otherwise, and PyTorch shares it.
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    platform, kind = measure.in_new_process(measure.device)
    on_cpu = platform == "cpu"
    recipe = {
        "batch_size": arguments.batch_size or (32 if on_cpu else 512),
        "dtype": "float32" if on_cpu else "bfloat16",
    }
    torch_device = {"cpu": "cpu", "gpu": "cuda" if torch.cuda.is_available() else ""}.get(platform)
    if not torch_device:
        print(f"PyTorch is left out: PyTorch {torch.__version__} has no build for {kind}")
    begun = measure.in_new_process(
        environment, shlex.join(["python", "-m", "experiments.accelerator", *sys.argv[1:]])
    )
    steps, rows = arguments.steps or (1 if on_cpu else 20), []
    with tempfile.TemporaryDirectory() as cache:
        # For the analysis and the measurement of a step, which is compiled once so.
        os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
        for title in training.SETTINGS:
            found = measure.speed(title, steps, torch_device, recipe)
            found[0] |= measure.share_of_roofline(title, found[0], kind, recipe)
            print(interleaved.table(found), flush=True)
            if "of_roofline" in found[0]:
                print(f"{100 * found[0]['of_roofline']:.0f} % of the roofline", flush=True)
            rows += found
    length = "--config.train.steps=2" if on_cpu else "--config.train.epochs=1"
    sweeps = [measure.sweep(jobs, arguments.data_dir, length) for jobs in (1, 2)]
    if not on_cpu:
        begun["versions"]["torch"] = torch.__version__
        result = begun | {"results": rows, "sweep_seconds": sweeps}
        write_atomically(
            Path(__file__).parent / "results.json", json.dumps(result, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
