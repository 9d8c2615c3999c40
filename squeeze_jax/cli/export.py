"""The command that writes a network for another engine."""

import argparse
from pathlib import Path

from squeeze_jax.cli.checks import check_at_least_one
from squeeze_jax.cli.data_arguments import (
    add_calibration_images_argument,
    add_data_arguments,
    check_data_named,
)
from squeeze_jax.cli.network_arguments import add_checkpoint_argument

NAME = "export"
HELP = "write a file for another engine, checked against the network"
GROUP = "weights in and out"
EXAMPLE = "squeeze-jax export net.sqz --format onnx -o net.onnx"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_checkpoint_argument(parser)
    parser.add_argument(
        "--format", choices=("onnx", "tflite", "stablehlo", "safetensors", "pth"), required=True
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    parser.add_argument("--opset", type=int, help="of ONNX (default 17)")
    parser.add_argument("--batch", type=int, help="a fixed batch size (default: any; tflite: 1)")
    parser.add_argument(
        "--precision", choices=("float32", "float16", "int8"), default="float32", help="of ONNX"
    )
    add_data_arguments(parser, words="for int8: ")
    add_calibration_images_argument(parser, "of the data, for int8 (default 200)")


def run(arguments: argparse.Namespace) -> int:
    """Writes the file and says how far its logits are from the network's."""
    from squeeze_jax import api

    check_at_least_one(arguments, "batch", "calibration_images")
    network = api.load(arguments.checkpoint)
    if arguments.precision == "int8":
        check_data_named(arguments, network)
    deviation = network.export(
        arguments.output,
        arguments.format,
        arguments.data,
        arguments.data_dir,
        arguments.split,
        arguments.calibration_images,
        opset=arguments.opset,
        batch=arguments.batch,
        precision=arguments.precision,
    )
    size = arguments.output.stat().st_size
    print(f"{arguments.output}: {size:,} bytes, logits within {deviation:.1e} of the net's")
    return 0
