"""The command that makes firmware of a folder of images: search, train, compress, export."""

import argparse
import io
import json
import re
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from squeeze_jax.cli.checks import check_ranges
from squeeze_jax.config_parsing import Range
from squeeze_jax.errors import UserError
from squeeze_jax.files import check_new
from squeeze_jax.storage import as_path

if TYPE_CHECKING:
    from squeeze_jax.api import LoadedNetwork
    from squeeze_jax.train.calibrated_export import ExportedFile

NAME = "firmware"
HELP = "from a folder of images to a C project within a device's flash and RAM"
GROUP = "weights in and out"
EXAMPLE = "squeeze-jax firmware photos --flash 256K --ram 96K -o OUT"

# Bytes on top of the constants and the arena: engine.c and net.c (7.1 KB on a Cortex-M4), and the
# stack (600 bytes); see experiments/engine.
CODE_BYTES, STACK_BYTES = 8 * 1024, 1024
# A folder of few photos has few batches, and so many epochs of them would end at chance.
SEARCH_STEPS, STEPS = 150, 600
ATTEMPTS = 4  # at a .sqz file whose weights fit as the engine codes them


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "photos", metavar="FOLDER", help="FOLDER/class/image.jpg; see `squeeze-jax data FOLDER`"
    )
    parser.add_argument(
        "--flash", type=parse_bytes, required=True, metavar="N", help="such as 256K"
    )
    parser.add_argument("--ram", type=parse_bytes, required=True, metavar="N", help="such as 96K")
    parser.add_argument("-o", "--output", type=as_path, required=True, metavar="FOLDER")
    parser.add_argument(
        "--search-epochs",
        type=float,
        default=15.0,
        metavar="N",
        help=f"of each design point (15), at least {SEARCH_STEPS} steps",
    )
    parser.add_argument(
        "--epochs",
        type=float,
        default=60.0,
        metavar="N",
        help=f"of the best (60), at least {STEPS} steps",
    )
    parser.add_argument(
        "--config",
        action="append",
        type=parse_setting,
        default=[],
        metavar="KEY=VALUE",
        help="or --config.KEY=VALUE, with the sign =, as of launch: sets a key of "
        "configs/device.py, such as --config.widths=(16,32) or --config.image_sizes=(96,)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Trains, compresses and exports the best net that fits; continues where it was stopped."""
    from squeeze_jax import api
    from squeeze_jax.configs import device

    check_ranges(arguments, search_epochs=Range(above=0), epochs=Range(above=0))
    output, constants = arguments.output, arguments.flash - CODE_BYTES
    if constants <= 0 or arguments.ram <= STACK_BYTES:
        raise UserError(
            f"--flash {arguments.flash:,} --ram {arguments.ram:,}: the code alone takes "
            f"{CODE_BYTES:,} bytes of flash, and its stack {STACK_BYTES:,} of RAM; K is 1,024"
        )
    check_new(output / "firmware", "move it away: what was trained is kept")
    limits = {
        "engine_ram_bytes": arguments.ram - STACK_BYTES,
        "params": int(8 * constants / device.BITS_A_WEIGHT),
    }
    settings = {
        "data.data_dir": arguments.photos,
        "budget.max_engine_ram": limits["engine_ram_bytes"],
        "budget.max_params": limits["params"],
        **dict(arguments.config),
    }
    print("1/4 searching: every design point that fits", file=sys.stderr)
    length = {"train.epochs": arguments.search_epochs, "train.min_steps": SEARCH_STEPS}
    if code := _launch(output / "search", length | settings):
        return code
    best = best_trial(output / "search", limits)
    point = {"image_sizes": (best["image_size"],), "widths": (best["base_e"],)}
    so_far = f"{best['top1']:.1f} % so far"
    print(f"2/4 training the best point, {best['trial']}: {so_far}", file=sys.stderr)
    training = output / "training" / best["trial"]
    length = {"train.epochs": arguments.epochs, "train.min_steps": STEPS}
    if code := _launch(training, length | settings | point):
        return code
    trained = best_trial(training, limits)
    network = api.load(training / "trials" / trained["trial"])
    print("3/4 compressing and 4/4 exporting", file=sys.stderr)
    written = export_within(network, output, constants)
    engine = json.loads((written.path / "net.json").read_text())["engine"]
    flash, ram = engine["constant_bytes"] + CODE_BYTES, engine["ram_bytes"] + STACK_BYTES
    print(
        f"{written.path}: {flash:,} of {arguments.flash:,} bytes of flash, {ram:,} of "
        f"{arguments.ram:,} bytes of RAM, code and stack included; {trained['macs']:,} MACs"
    )
    if accuracy := written.accuracy:
        print(
            f"top-1 of the C code {accuracy.after:.2f} %, of the float net "
            f"{accuracy.before:.2f} %, on {accuracy.num_images:,} images"
        )
    print(f"report: {output / 'search' / 'report.html'}; test: make -C {written.path} test")
    return 0


def parse_bytes(text: str) -> int:
    """Returns 262144 for 256K; K and M are 1024 and its square."""
    found = re.fullmatch(r"(\d{1,15}(?:\.\d+)?)([KkMm]?)B?", text)
    if not found:
        raise argparse.ArgumentTypeError(f"bytes are like 262144, 256K or 1M; got {text!r}")
    return int(float(found[1]) * {"": 1, "k": 1024, "m": 1024**2}[found[2].lower()])


def parse_setting(text: str) -> tuple[str, str]:
    """Returns the key and the value of KEY=VALUE."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"a setting is KEY=VALUE; got {text!r}")
    return key, value


def best_trial(workdir: Path, limits: Mapping[str, int]) -> dict[str, Any]:
    """Returns the row of the most accurate trial, of equals the one that takes the least RAM.

    Args:
      workdir: of a study, which may hold trials of an earlier, larger budget.
      limits: cost -> the most that the trial may take of it.

    Raises:
      UserError: no trial has learned.
    """
    from squeeze_jax.study import read_study

    learned = [
        row
        for row in read_study(workdir)
        if row["status"] == "ok" and all(row[name] <= limit for name, limit in limits.items())
    ]
    if not learned:
        raise UserError(
            f"no trial of {workdir} is better than chance: more photos or more epochs may help; "
            "see its report.html"
        )
    return max(learned, key=lambda row: (row["top1"], -row["engine_ram_bytes"]))


def export_within(network: "LoadedNetwork", output: Path, constants: int) -> "ExportedFile":
    """Writes output/firmware, and output/net.sqz where its weights are coded.

    Args:
      network: what was trained.
      output: the folder.
      constants: bytes that the project's constants may take. Plain weights, a byte each, are taken
        where they fit; otherwise those of the best .sqz file of which the coded weights fit.

    Raises:
      UserError: none of ATTEMPTS files fits.
    """
    from squeeze_jax import api
    from squeeze_jax.convert import exporters
    from squeeze_jax.train.calibrated_export import ExportedFile

    path, target = output / "firmware", constants
    images, measured = network.training_sources()
    content, deviation, accuracy = network.calibrated_bytes(
        "c", images, measured=measured, weights="plain"
    )
    for attempt in range(ATTEMPTS + 1):
        size = engine_record(content)["constant_bytes"]
        if size <= constants:
            exporters.save(content, path, "c")
            return ExportedFile(path, len(content), deviation, accuracy)
        if attempt == ATTEMPTS:
            break
        if attempt:  # a device's codes take some percent more than the arithmetic coder's
            target = int(0.995 * target * constants / size)
        file = network.compress(output / "net.sqz", target_bytes=target)
        print(f"{file.path}: {file.num_bytes:,} bytes", file=sys.stderr)
        content, deviation, accuracy = api.load(file.path).calibrated_bytes(
            "c", images, measured=measured, weights="coded"
        )
    raise UserError(f"no .sqz file has coded weights of at most {constants:,} bytes")


def engine_record(content: bytes) -> dict[str, Any]:
    """Returns what a project, as a zip archive, says of the engine: ram_bytes, constant_bytes."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return json.loads(archive.read("net.json"))["engine"]


def _launch(workdir: Path, settings: Mapping[str, Any]) -> int:
    """Trains configs/device.py on the folder; returns the exit code."""
    from squeeze_jax.cli import launch

    flags = [f"--config.{key}={value}" for key, value in settings.items()]
    return launch.main(["device:folder", *flags, f"--workdir={workdir}"])
