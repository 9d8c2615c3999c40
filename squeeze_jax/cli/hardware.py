"""The command that estimates a model's cost on an accelerator."""

import argparse
import functools

from squeeze_jax.cli.checks import check_figure
from squeeze_jax.cli.model_arguments import add_model_arguments, open_network, trace_model
from squeeze_jax.storage import as_path

NAME = "hardware"
HELP = "estimate cycles, energy and DRAM traffic on the SqueezeNext paper's accelerator"
GROUP = "inspect"
EXAMPLE = "squeeze-jax hardware squeezenext_23_v5 --array 8x8 --buffer-kb 32"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_model_arguments(parser)
    parser.add_argument(
        "--array",
        default="16x16",
        metavar="ROWSxCOLUMNS",
        help="multiply-accumulate units (default 16x16)",
    )
    parser.add_argument(
        "--buffer-kb",
        type=float,
        default=128,
        help="size of the global buffer (default 128; the paper's 8x8 array has 32)",
    )
    parser.add_argument(
        "--dataflow",
        choices=("best", "ws", "os"),
        default="best",
        help="weight or output stationary; best: the faster for each layer",
    )
    parser.add_argument("--layers", action="store_true", help="also print a row a layer")
    parser.add_argument(
        "--roofline", type=as_path, metavar="FILE", help="also draw the roofline, as .png or .svg"
    )


def run(arguments: argparse.Namespace) -> int:
    """Prints the machine and the estimate, and draws the roofline."""
    from squeeze_jax.cost import accelerator, sparsity
    from squeeze_jax.report import layer_table

    array = accelerator.Accelerator.parse(arguments.array, arguments.buffer_kb)
    layers = trace_model(arguments).layers
    # Another net than the checkpoint's has no weights.
    is_changed = arguments.set or arguments.data or arguments.data_dir
    network = None if is_changed else open_network(arguments.model)
    densities = network and sparsity.weight_densities(network.whole().params)
    estimate = accelerator.estimate(layers, array, arguments.dataflow, densities)
    record = layer_table.hardware_record(estimate, has_own_zeros=network is not None)
    if arguments.roofline:
        from squeeze_jax.report import figures

        check_figure("--roofline", arguments.roofline)
        figures.write(arguments.roofline, figures.roofline_figure(arguments.model, record))
    text = functools.partial(layer_table.hardware_text, with_layers=arguments.layers)
    print(layer_table.format_record(record, arguments.format, text))
    return 0
