"""Prints the SqueezeNet paper's Table 2 for a staged study, with the sizes of its files.

    python experiments/deep_compression/table2.py WORKDIR

WORKDIR is that of a finished `configs/deep_compression.py`. The SVD baseline is computed here from
the dense networks, without retraining. Its files are trials/NAME/svd-FRACTION.npz.
"""

import argparse
import dataclasses
import io
from pathlib import Path

import numpy as np

from squeeze_jax.compress.svd import low_rank
from squeeze_jax.config_parsing import parse_section
from squeeze_jax.data import DataConfig, evaluation_data, load
from squeeze_jax.errors import UserError
from squeeze_jax.files import write_atomically
from squeeze_jax.network import leaves_by_path
from squeeze_jax.report import tables
from squeeze_jax.study import Workdir
from squeeze_jax.study.records import TrialRecord
from squeeze_jax.train import evaluation
from squeeze_jax.train.checkpoint import load_network

CODERS = {"huffman": "Huffman, as published", "arithmetic": "arithmetic"}
STAGES = {  # stage -> (method, bits of a weight)
    "pruned": ("pruning", "32"),
    "shared8": ("Deep Compression", "8"),
    "shared6": ("Deep Compression", "6"),
}
HEAD = ["method", "bits", "file", "bytes", "against dense", "top-1 (%)", "top-5 (%)", "seeds"]


def float32_size(trial: TrialRecord) -> TrialRecord:
    """Returns a trial with the size of its float32 parameters as the measure `bytes`."""
    return dataclasses.replace(
        trial, measures={**trial.measures, "bytes": 4 * trial.measures["params"]}
    )


def by_svd(workdir: Workdir, trial: TrialRecord, fraction: float) -> TrialRecord:
    """Returns a dense trial with kernels of low rank.

    Its measures are `bytes` (the size of the file), `top1` and `top5`.
    """
    directory = workdir.trial_directory(trial.name)
    network = load_network(directory)
    params, stored = low_rank(network.params, fraction)
    file, path = io.BytesIO(), directory / f"svd-{fraction}.npz"
    np.savez(
        file,
        **stored,
        **{f"stats/{name}": leaf for name, leaf in leaves_by_path(network.stats).items()},
    )
    write_atomically(path, file.getvalue())
    _, source = load(parse_section(DataConfig, workdir.read_record().config["data"], "data"))
    classifier = dataclasses.replace(network, params=params).classifier()
    measured = evaluation.evaluate(classifier, evaluation_data(source, network.preprocessing), 250)
    return dataclasses.replace(
        trial,
        measures={"bytes": path.stat().st_size, "top1": measured["top1"], "top5": measured["top5"]},
    )


def row(
    point: tables.Point, method: str, bits: str, file: str, size: str, dense: float
) -> list[str]:
    """Returns a row of the table.

    Args:
      point: the stage's trials.
      method: how the network was compressed.
      bits: of each weight.
      file: the format.
      size: the measure that holds the bytes.
      dense: the bytes that the ratio refers to.
    """
    found = point.interval(size)
    results = [tables.show_interval(name, point.interval(name)) for name in ("top1", "top5")]
    ratio = f"{dense / found.mean:.1f}x" if found else "–"
    return [
        method,
        bits,
        file,
        tables.show_interval("bytes_huffman", found),
        ratio,
        *results,
        str(point.count("ok")),
    ]


def table(workdir: Workdir, fractions: list[float]) -> list[list[str]]:
    """Returns the table, with a head; SVD keeps each of `fractions` of the parameters.

    Raises:
      UserError: the folder is no workdir of this study, no dense trial has learned, or a file is
        damaged.
    """
    points = {point.design.get("stage"): point for point in tables.aggregate(workdir.read_trials())}
    if missing := {"dense", *STAGES} - points.keys():
        raise UserError(f"{workdir.path} has no stage {', '.join(sorted(missing))}")
    if not points["dense"].count("ok"):
        raise UserError(f"{workdir.path} has no dense trial with status ok; finish the study")
    learned = tuple(float32_size(trial) for trial in points["dense"].trials if trial.status == "ok")
    dense = dataclasses.replace(points["dense"], trials=learned)
    whole = dense.interval("bytes").mean
    rows = [HEAD, row(dense, "none", "32", "float32, 4 bytes a parameter", "bytes", whole)]
    rows += [
        row(dense, "none", "32", f".sqz, {name}", f"bytes_{coder}", whole)
        for coder, name in CODERS.items()
    ]
    for fraction in fractions:
        point = dataclasses.replace(
            dense, trials=tuple(by_svd(workdir, trial, fraction) for trial in learned)
        )
        rows.append(
            row(
                point,
                f"SVD, {fraction:.0%} of the parameters",
                "32",
                ".npz of the factors",
                "bytes",
                whole,
            )
        )
    for stage, (method, bits) in STAGES.items():
        rows += [
            row(points[stage], method, bits, f".sqz, {name}", f"bytes_{coder}", whole)
            for coder, name in CODERS.items()
        ]
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("workdir", type=Path)
    parser.add_argument(
        "--svd",
        type=float,
        nargs="*",
        default=[0.2, 0.5],
        help="fractions of the parameters (the paper's baseline is 0.2)",
    )
    arguments = parser.parse_args()
    try:
        rows = table(Workdir(arguments.workdir), arguments.svd)
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
    print(tables.markdown(rows), end="")
