"""Counts how much luck a small file needs: accuracy over draws of the calibration images.

    python -m experiments.compression.few_bytes CHECKPOINT --data NAME --data-dir DIR --csv FILE \
        [--way NAME] [--goals BYTES ...] [--draws SEED ...] [--files FOLDER]

Each draw takes 200 images at random to calibrate on; all others measure top-1, top-5 and the KL
divergence from the original network. Each row is written once it is known. A row that FILE has
already is not measured again.
"""

import argparse
import csv
import io
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from experiments.compression.accuracy import Images, compare, outputs
from squeeze_jax import api
from squeeze_jax.compress import rate_search
from squeeze_jax.compress.calibrate import calibrate
from squeeze_jax.compress.sqz import container
from squeeze_jax.data import Source, load_split, relabel
from squeeze_jax.files import write_atomically
from squeeze_jax.network import Network, imagenet, preprocessing
from squeeze_jax.study.environment import environment

CALIBRATION_IMAGES = 200  # as `squeeze-jax compress` takes them
KNOWN = {"imagenet": imagenet.class_names()}
WAY = "AdaRound"  # names what `rate_search.to_size` does at this commit


def read_images(source: Source, network: Network) -> Images:
    """Returns all images of a source, preprocessed for a network, under its labels."""
    examples = relabel(source, network.class_names).read(range(len(source)))
    return Images(
        np.stack([preprocessing.preprocess(image, network.preprocessing) for image, _ in examples]),
        np.array([label for _, label in examples], np.int32),
    )


def split(images: Images, draw: int) -> tuple[np.ndarray, Images]:
    """Returns the images that a draw calibrates on, and all others with their labels."""
    order = np.random.default_rng(draw).permutation(len(images.labels))
    seen, others = np.sort(order[:CALIBRATION_IMAGES]), np.sort(order[CALIBRATION_IMAGES:])
    return images.images[seen], Images(images.images[others], images.labels[others])


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of a CSV file; none if there is no file yet."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes rows as CSV, in order of way, size and draw."""
    table = io.StringIO()
    writer = csv.DictWriter(table, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(rows, key=_key))
    write_atomically(path, table.getvalue())


def _key(row: dict[str, Any]) -> tuple[str, int, int]:
    return row["way"], -int(row["goal"]), int(row["draw"])


def main() -> None:
    """Writes the CSV file, row by row."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", help="a network that every command opens")
    parser.add_argument("--data", required=True, metavar="NAME", help="labelled images")
    parser.add_argument("--data-dir", required=True, metavar="DIR")
    parser.add_argument("--csv", type=Path, required=True, metavar="FILE")
    parser.add_argument("--way", default=WAY, help=f"the rows' name (default {WAY!r})")
    parser.add_argument("--goals", nargs="+", type=int, default=[320_000, 300_000], metavar="BYTES")
    parser.add_argument("--draws", nargs="+", type=int, default=list(range(5)), metavar="SEED")
    parser.add_argument("--files", type=Path, metavar="FOLDER", help="receives the .sqz files")
    arguments = parser.parse_args()
    network = api.load(arguments.checkpoint).whole()
    images = read_images(load_split(arguments.data, arguments.data_dir, None), network)
    run = environment(shlex.join([Path(sys.executable).name, "-m", __spec__.name, *sys.argv[1:]]))
    about = {
        "commit": run["commit"],
        "device": run["device"],
        "versions": " ".join(f"{name} {version}" for name, version in run["versions"].items()),
        "command": run["command"],
    }
    for draw in arguments.draws:
        known = set(map(_key, read_rows(arguments.csv)))
        todo = [goal for goal in arguments.goals if (arguments.way, -goal, draw) not in known]
        if not todo:
            continue
        seen, others = split(images, draw)
        start = time.perf_counter()
        calibrated = calibrate(network, seen)
        calibrating = time.perf_counter() - start
        own = outputs(network, others)
        for goal in todo:
            start = time.perf_counter()
            content = rate_search.to_size(network, calibrated, goal, known_classes=KNOWN)
            seconds = time.perf_counter() - start
            if arguments.files:
                write_atomically(arguments.files / f"{arguments.way}-{goal}-{draw}.sqz", content)
            decoded = container.read(content, KNOWN)
            compared = compare(own, outputs(decoded, others))
            row = {
                "way": arguments.way,
                "goal": goal,
                "draw": draw,
                "bytes": len(content),
                **{name: round(value, 5) for name, value in compared.items()},
                "calibrate_s": round(calibrating, 1),
                "search_s": round(seconds, 1),
                **about,
            }
            # Other processes may have added rows meanwhile.
            write_rows(arguments.csv, [*read_rows(arguments.csv), row])
            print(*list(row.values())[:12], file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
