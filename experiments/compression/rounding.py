"""Compares ways to round a network at one price of a bit: GPTQ, coordinate descent and AdaRound.

    python -m experiments.compression.rounding CHECKPOINT --data NAME --data-dir DIR

Each way adds to the one before it. Calibrates on the images of draw 0 of few_bytes.py, and prints
the bytes of the file, the KL divergence from the original network on all other images, and the
change of top-1.
"""

import argparse
import time
from contextlib import ExitStack
from unittest import mock

from experiments.compression import few_bytes
from experiments.compression.accuracy import compare, outputs
from squeeze_jax import api
from squeeze_jax.compress import adaround, gptq, quantize
from squeeze_jax.compress.calibrate import calibrate
from squeeze_jax.compress.sqz import container
from squeeze_jax.data import load_split

WITHOUT_SWEEPS = mock.patch.object(gptq, "_SWEEPS", 0)
WITHOUT_ADAROUND = mock.patch.object(adaround, "refine", lambda given, found, multiplier: found)
WAYS = {
    "GPTQ": (WITHOUT_SWEEPS, WITHOUT_ADAROUND),
    "coordinate descent": (WITHOUT_ADAROUND,),
    "AdaRound": (),
}


def main() -> None:
    """Prints a line a way."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", help="a network that every command opens")
    parser.add_argument("--data", required=True, metavar="NAME", help="labelled images")
    parser.add_argument("--data-dir", required=True, metavar="DIR")
    parser.add_argument("--multiplier", type=float, default=2.1e-7, help="nats a bit")
    arguments = parser.parse_args()
    network = api.load(arguments.checkpoint).whole()
    source = load_split(arguments.data, arguments.data_dir, None)
    seen, others = few_bytes.split(few_bytes.read_images(source, network), 0)
    calibrated, own = calibrate(network, seen), outputs(network, others)
    for name, patches in WAYS.items():
        start = time.perf_counter()
        with ExitStack() as stack:
            for patch in patches:
                stack.enter_context(patch)
            coded = quantize.quantize(network, calibrated, arguments.multiplier)
        seconds = time.perf_counter() - start
        content = container.write(network, coded, known_classes=few_bytes.KNOWN, added=set())
        found = compare(own, outputs(container.read(content, few_bytes.KNOWN), others))
        print(f"{name}: {len(content):,} bytes, {found['kl_nats']:.4f} nats", end=", ")
        print(f"top-1 {found['top1_change']:+.2f} points, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
