"""Tells what a training step costs on Cloud TPUs according to their compiler; needs no TPU.

    python -m experiments.tpu [--generations v5e v6e] [--chips 1 8 32] [--images 128] [--no-search]

The step is that of configs/squeezenet.py:imagenet_modern in bfloat16, with as many images on each
chip as --images says. Prints FLOPs, bytes and memory for each topology, the operations that move
most bytes on a chip of the first topology, and the largest batch that fits in a chip's memory.
Each compilation takes minutes of a core. Needs squeeze_jax[tpu].
"""

import argparse
import json

import jax

from experiments.tpu import steps, traffic
from squeeze_jax.configs import squeezenet

HBM = {"v5e": 16 * 2**30, "v6e": 32 * 2**30}  # bytes of a chip, of Google's pages
TRIES = 4  # compilations in search of the largest batch


def main() -> None:
    """Prints what the command line asks for: lines of JSON, then the operations."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--generations", nargs="+", default=list(HBM), choices=HBM)
    parser.add_argument("--chips", nargs="+", type=int, default=list(steps.HOSTS))
    parser.add_argument("--images", type=int, default=128, help="on each chip")
    parser.add_argument("--no-search", action="store_true", help="for the largest batch")
    arguments = parser.parse_args()
    steps.set_environment()
    operations = None
    for generation in arguments.generations:
        for chips in arguments.chips:
            compiled = compile_step(generation, chips, arguments.images)
            cost = steps.cost(compiled, arguments.images)
            print(json.dumps({"topology": f"{generation}-{chips}"} | cost), flush=True)
            operations = operations or traffic.by_operation(traffic.movements(compiled.as_text()))
            if chips == 1 and not arguments.no_search:
                found = largest_batch(generation, compiled, arguments.images)
                print(json.dumps({"topology": f"{generation}-1"} | found), flush=True)
    for (part, kind, positions), moved in list((operations or {}).items())[:25]:
        print(f"{moved / arguments.images / 1e6:7.2f} MB an image  {part} {kind} {positions}")


def compile_step(generation: str, chips: int, images: int) -> jax.stages.Compiled:
    """Compiles the training step of `imagenet_modern` in bfloat16.

    Args:
      generation: v5e or v6e.
      chips: how many.
      images: on each of them.
    """
    config = squeezenet.get_config("imagenet_modern")
    config.train.update(dtype="bfloat16", batch_size=chips * images)
    return steps.lower_steps(config, steps.devices(generation, chips))["train"]().compile()


def largest_batch(
    generation: str, compiled: jax.stages.Compiled, images: int
) -> dict[str, int | None]:
    """Returns the largest batch of one chip that compiled, and the smallest that did not.

    The compiler refuses a program that does not fit in the chip's memory.

    Args:
      generation: v5e or v6e.
      compiled: the step of `images`, to whose memory the first guess is proportional.
      images: which fit.
    """
    memory = compiled.memory_analysis()
    group = squeezenet.get_config("imagenet_modern").train.bn_group_size
    per_image = memory.temp_size_in_bytes / images
    free = HBM[generation] - memory.argument_size_in_bytes
    fits, fails = images, None
    guess = free / per_image
    for _ in range(TRIES):
        images = group * int(guess / group)
        if images in (fits, fails):
            break
        try:
            compile_step(generation, 1, images)
        except jax.errors.JaxRuntimeError as e:
            if "RESOURCE_EXHAUSTED" not in str(e):
                raise
            fails = images
        else:
            fits = images
        guess = (fits + fails) / 2 if fails else 2 * fits
    return {"largest_batch": fits, "too_large": fails}


if __name__ == "__main__":
    main()
