"""The command that writes a data set once, resized, so that training decodes less."""

import argparse
from typing import Any

from squeeze_jax.cli.checks import check_ranges
from squeeze_jax.cli.data_arguments import add_skip_unreadable_argument
from squeeze_jax.cli.model_arguments import add_set_argument, set_options
from squeeze_jax.config_parsing import Range
from squeeze_jax.storage import as_path

NAME = "prepare"
HELP = "write a data set once, resized, so that training decodes less"
GROUP = "study"
EXAMPLE = "squeeze-jax prepare prepared/imagenet --preset imagenet --data-dir tensorflow_datasets"

QUALITY = 95  # experiments/prepare/README.md


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "output", type=as_path, metavar="FOLDER", help="new, or of the same preparation: it goes on"
    )
    parser.add_argument(
        "--preset",
        default="folder",
        metavar="NAME",
        help="whose data section says what to read and how to resize it (default folder)",
    )
    parser.add_argument("--data-dir", metavar="DIR", help="where the originals are")
    add_set_argument(parser, "a key of the data section, such as resize=320")
    parser.add_argument(
        "--uncropped",
        action="store_true",
        help="keep the proportions: for random_resized_crop, whose presets do so by themselves, "
        "and for either resize_mode",
    )
    parser.add_argument("--quality", type=int, default=QUALITY, help=f"of JPEG (default {QUALITY})")
    parser.add_argument("--workers", type=int, help="processes; by default one a core")
    add_skip_unreadable_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Writes the set and says how to train on it."""
    from squeeze_jax import cpu_affinity, data
    from squeeze_jax.config_parsing import parse_section
    from squeeze_jax.configs import base
    from squeeze_jax.data.checks import check_config
    from squeeze_jax.data.prepare import prepare
    from squeeze_jax.data.prepared import UNCROPPED, Settings
    from squeeze_jax.errors import UserError
    from squeeze_jax.network.preprocessing import height_width

    check_ranges(
        arguments,
        quality=Range(at_least=1, at_most=100),
        workers=Range(at_least=1, at_most=1024),
    )
    section: Any = base.get_config(arguments.preset, NAME).data
    section = dict(section) | set_options(arguments)
    if arguments.data_dir is not None:
        section["data_dir"] = arguments.data_dir
    config = parse_section(data.DataConfig, section, "data")
    check_config(config)
    if config.name == "prepared":
        raise UserError(f"{config.data_dir} is prepared already; prepare the originals again")
    needs_whole = "random_resized_crop" in config.augment and config.placement != "memory"
    mode = UNCROPPED if arguments.uncropped or needs_whole else config.resize_mode
    # Whole images serve any proportions: their short side is the longer side of what is wanted.
    resize = max(height_width(config.resize)) if mode == UNCROPPED else config.resize
    if needs_whole:
        largest = max(height_width(config.image_size))
        smallest = round(max(height_width(config.resize)) * min(config.crop_area) ** 0.5)
        if smallest < largest:
            print(
                f"random_resized_crop needs whole images: their short side becomes {resize} "
                f"pixels; crops of {smallest} to {largest} pixels will "
                "be enlarged, and --set resize=N stores more"
            )
    preparation = prepare(
        data.load(config),
        Settings(resize, mode, config.background, arguments.quality),
        arguments.output,
        arguments.workers or cpu_affinity.usable_cores(),
        arguments.skip_unreadable or config.skip_unreadable,
    )
    counts = {
        split: sum(shard.images for shard in shards) for split, shards in preparation.shards.items()
    }
    size = sum(shard.bytes for shards in preparation.shards.values() for shard in shards)
    print(
        f"{arguments.output}: {', '.join(f'{n:,} {split}' for split, n in counts.items())} images, "
        f"{size / 1e6:,.1f} MB, {size / 1e3 / sum(counts.values()):.1f} KB an image; train with "
        f"--config.data.name=prepared --config.data.data_dir={arguments.output}"
    )
    return 0
