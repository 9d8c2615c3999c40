"""The SqueezeNet paper's Table 2 of a study in stages, with the sizes of real files: python experiments/deep_compression/table2.py WORKDIR

WORKDIR is that of a finished `configs/deep_compression.py`. The SVD baseline is computed here, from the dense nets and without
retraining; its files are trials/NAME/svd-FRACTION.npz.
"""

import argparse
import dataclasses
import io
import json
from pathlib import Path

import numpy as np

from squeeze_jax.compress.svd import low_rank
from squeeze_jax.config_parsing import parse_section
from squeeze_jax.data import DataConfig, evaluation_data, load
from squeeze_jax.files import write_atomically
from squeeze_jax.network import leaves_by_path
from squeeze_jax.report import tables
from squeeze_jax.study import Workdir
from squeeze_jax.study.records import TrialRecord
from squeeze_jax.train import evaluation
from squeeze_jax.train.checkpoint import load_network

CODERS = {"huffman": "Huffman, as published", "arithmetic": "arithmetic"}
HEAD = ["method", "bits", "file", "bytes", "against dense", "top-1 (%)", "top-5 (%)", "seeds"]


def float32_size(trial: TrialRecord) -> TrialRecord:
    """The trial with the size of its parameters as they are."""
    return dataclasses.replace(
        trial, measures={**trial.measures, "bytes": 4 * trial.measures["params"]}
    )


def by_svd(workdir: Path, trial: TrialRecord, fraction: float) -> TrialRecord:
    """A dense trial as it would be with kernels of low rank: size of the file, top-1 and top-5."""
    directory = workdir / "trials" / trial.name
    net = load_network(directory)
    params, stored = low_rank(net.params, fraction)
    file, path = io.BytesIO(), directory / f"svd-{fraction}.npz"
    np.savez(
        file,
        **stored,
        **{f"stats/{name}": leaf for name, leaf in leaves_by_path(net.stats).items()},
    )
    write_atomically(path, file.getvalue())
    config = json.loads((directory / "config.json").read_text())
    _, source = load(parse_section(DataConfig, config["data"], "data"))
    classifier = dataclasses.replace(net, params=params).classifier()
    measured = evaluation.evaluate(classifier, evaluation_data(source, net.preprocessing), 250)
    return dataclasses.replace(
        trial,
        measures={"bytes": path.stat().st_size, "top1": measured["top1"], "top5": measured["top5"]},
    )


def row(
    point: tables.Point, method: str, bits: str, file: str, size: str, dense: float
) -> list[str]:
    """One line of the table; `size` is the measure that holds the bytes."""
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


def table(workdir: Path, fractions: list[float]) -> list[list[str]]:
    """The whole table, with a head."""
    points = {
        point.design["stage"]: point
        for point in tables.aggregate(Workdir(workdir).read_trials())
    }
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
    for stage, method, bits in (
        ("pruned", "pruning", "32"),
        ("shared8", "Deep Compression", "8"),
        ("shared6", "Deep Compression", "6"),
    ):
        rows += [
            row(points[stage], method, bits, f".sqz, {name}", f"bytes_{coder}", whole)
            for coder, name in CODERS.items()
        ]
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Table 2 of a study in stages.")
    parser.add_argument("workdir", type=Path)
    parser.add_argument(
        "--svd",
        type=float,
        nargs="*",
        default=[0.2, 0.5],
        help="fractions of the parameters (the paper's baseline: 0.2)",
    )
    arguments = parser.parse_args()
    print(tables.markdown(table(arguments.workdir, arguments.svd)), end="")
