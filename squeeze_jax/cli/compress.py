"""The command that writes a network in few bytes."""

import argparse

from squeeze_jax.cli.checks import COUNT, check_ranges, check_suffix
from squeeze_jax.cli.data_arguments import (
    add_calibration_images_argument,
    add_data_arguments,
    calibration_images,
    check_data_named,
)
from squeeze_jax.cli.network_arguments import add_base_argument, add_checkpoint_argument
from squeeze_jax.config_parsing import Range
from squeeze_jax.storage import as_path

NAME = "compress"
HELP = "write a .sqz file, lossless or of a given size or loss"
GROUP = "compression"
EXAMPLE = (
    "squeeze-jax compress squeezenet -o net.sqz --target-bytes 500000 "
    "--data folder --data-dir photos"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    from squeeze_jax.compress.sqz.coders import CODERS

    add_checkpoint_argument(parser)
    parser.add_argument("-o", "--output", type=as_path, required=True, metavar="FILE.sqz")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--lossless", action="store_true", help="the very same weights (the default)")
    how.add_argument(
        "--bits",
        type=int,
        metavar="N",
        help="2^N - 1 values a layer; better where --data or --split names images",
    )
    how.add_argument(
        "--target-bytes", type=int, metavar="N", help="the best file of at most N bytes"
    )
    how.add_argument(
        "--max-loss",
        type=float,
        metavar="NATS",
        help="the smallest file whose outputs diverge by at most so much (KL) from the network's "
        "own: .005 can hardly be measured in top-1",
    )
    add_data_arguments(parser, "images to calibrate on, without labels: ")
    add_calibration_images_argument(parser, "(default 200) as many others measure the loss")
    parser.add_argument(
        "--coder",
        choices=tuple(CODERS),
        default="arithmetic",
        help="huffman is Deep Compression's as published; c/sqz.c reads arithmetic only",
    )
    add_base_argument(
        parser, "a checkpoint or .sqz file that readers have; the file holds what differs"
    )


def run(arguments: argparse.Namespace) -> int:
    """Writes the file and says how large and how near to the network it is."""
    from squeeze_jax import api
    from squeeze_jax.compress import quantize

    check_ranges(
        arguments,
        bits=Range(at_least=quantize.FEWEST_BITS, at_most=quantize.MOST_BITS),
        target_bytes=COUNT,
        max_loss=Range(above=0),
        calibration_images=COUNT,
    )
    check_suffix(arguments.output, [".sqz"])
    network = api.load(arguments.checkpoint)
    searches = arguments.target_bytes is not None or arguments.max_loss is not None
    names_images = arguments.data or arguments.data_dir or arguments.split
    images = calibration_images(arguments, bool(searches or names_images))
    if searches:
        check_data_named(arguments, network)
    written = network.compress(
        arguments.output,
        bits=arguments.bits,
        target_bytes=arguments.target_bytes,
        max_loss=arguments.max_loss,
        data=arguments.data,
        data_dir=arguments.data_dir,
        split=arguments.split,
        calibration_images=images,
        coder=arguments.coder,
        base=api.load(arguments.base) if arguments.base else None,
    )
    loss = "lossless"
    if written.divergence is not None:
        loss = (
            f"outputs diverge by {written.divergence:.2g} nats from the net's own on "
            f"{written.num_images} images that calibration did not see"
        )
    elif arguments.bits is None:
        loss += "; --target-bytes makes it smaller"
    else:
        loss = f"{arguments.bits} bits a level"
    print(
        f"{written.path}: {written.num_bytes:,} bytes, "
        f"{written.bits_per_weight:.2f} bits a weight, {loss}"
    )
    if arguments.base and not written.needs_base:
        print(f"{arguments.base} saves nothing: the file does not need it")
    return 0
