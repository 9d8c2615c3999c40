"""The command that prunes one layer at a time."""

import argparse
import json

from squeeze_jax.cli.checks import BATCH_SIZE, check_ranges
from squeeze_jax.cli.data_arguments import add_labelled_data_arguments, open_data
from squeeze_jax.cli.network_arguments import add_checkpoint_argument
from squeeze_jax.config_parsing import Range
from squeeze_jax.errors import UserError

NAME = "sensitivity"
HELP = "measure top-1 with one layer pruned at a time"
GROUP = "inspect"
EXAMPLE = "squeeze-jax sensitivity runs/sr_sweep-digits/trials/squeeze_ratio=0.5,seed=0"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_checkpoint_argument(parser)
    add_labelled_data_arguments(parser)
    parser.add_argument(
        "--fractions",
        default="0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9",
        help="of a layer's weights that are kept (default 0.1 to 0.9)",
    )
    parser.add_argument(
        "--max-drop",
        type=float,
        default=1.0,
        metavar="POINTS",
        help="of top-1 that a layer may cost (default 1)",
    )
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--format", choices=("text", "json"), default="text")


def run(arguments: argparse.Namespace) -> int:
    """Prints top-1 by layer and fraction kept, and the densities that the loss allows."""
    from tqdm import tqdm

    from squeeze_jax import api
    from squeeze_jax.compress.prune import kernels
    from squeeze_jax.data import evaluation_data
    from squeeze_jax.network import leaves_by_path
    from squeeze_jax.report.layer_table import text_table
    from squeeze_jax.train.sensitivity import sensitivity

    check_ranges(arguments, batch_size=BATCH_SIZE, max_drop=Range(at_least=0, at_most=100))
    fractions = _parse_fractions(arguments.fractions)
    loaded = api.load(arguments.checkpoint)
    network = loaded.whole()
    source = open_data(arguments, loaded)
    evaluations = sum(leaves_by_path(kernels(network.params)).values()) * len(fractions) + 1
    batches = -(-len(source) // arguments.batch_size)
    with tqdm(total=evaluations * batches, unit="batch", delay=1, leave=False, disable=None) as bar:
        data = evaluation_data(source, network.preprocessing)
        result = sensitivity(
            network, data, fractions, arguments.max_drop, arguments.batch_size, api.advance(bar)
        )
    if arguments.format == "json":
        print(json.dumps(result))
        return 0
    rows = [
        [
            layer["name"],
            f"{layer['weights']:,}",
            *(f"{top1:.2f}" for top1 in layer["top1"].values()),
        ]
        for layer in result["layers"]
    ]
    total = f"{sum(layer['weights'] for layer in result['layers']):,}"
    whole = ["all kept", total, *[f"{result['top1']:.2f}"] * len(fractions)]
    head = ["layer", "weights", *map(str, fractions)]
    print(
        f"{source.name}: {result['images']} images; top-1 (%) with a fraction of one layer's "
        "weights kept, all others as they are"
    )
    print(text_table([head, *rows, whole], numeric=range(1, 2 + len(fractions))))
    print(
        f"the smallest fractions that cost at most {arguments.max_drop:g} of it, each alone "
        "(all at once cost more, before retraining):"
    )
    print(f'--config.train.prune_density="{tuple(result["keep"])}"')
    return 0


def _parse_fractions(text: str) -> list[float]:
    """Parses 0.1,0.5.

    Raises:
      UserError: a part is not between 0 and 1.
    """
    try:
        fractions = sorted({float(part) for part in text.split(",")})
    except ValueError:
        fractions = []
    if not fractions or not all(0 < fraction < 1 for fraction in fractions):
        raise UserError(f"--fractions are numbers between 0 and 1 such as 0.2,0.5; got {text!r}")
    return fractions
