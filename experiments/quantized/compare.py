"""Compares quantization-aware training from a lossy .sqz with longer training without it.

    python experiments/quantized/compare.py OUT TRIAL [TRIAL ...] --bytes 7000 5000 --csv FILE \
        [--data-dir DIR] [flags for launch.py]

Prints a markdown table and writes a row for each network as CSV. Each TRIAL is the folder of a
trial of a finished study on `cifar10`. For each trial the script evaluates the network as trained
(`dense`) and after one more epoch (`longer`), and three files of each size: `lossy` (the trial,
compressed to the size), `QAT` (that file's network, trained by `configs/quantized.py` and written
again) and `longer, lossy` (the longer training, compressed to the size). The script does not make
files again that OUT already holds.
"""

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path

from squeeze_jax.report import tables
from squeeze_jax.report.statistics import confidence
from squeeze_jax.study import Workdir
from squeeze_jax.study.records import FINISHED

CLI = [sys.executable, "-m", "squeeze_jax"]
LAUNCH = [sys.executable, "launch.py", "--config", "configs/quantized.py:cifar10"]
WITHOUT_QAT = ["--config.train.qat=False", "--config.compress.coders=()"]
TRIAL = "seed=0"  # the only trial of configs/quantized.py
HEAD = ["way", "net", "bytes", "top1"]


def run(command: list[str]) -> None:
    """Prints a command and runs it."""
    print(*command, file=sys.stderr)
    subprocess.run(command, check=True, stdout=sys.stderr)


def compress(network: Path, file: Path, size: int) -> Path:
    """Compresses a trial's network to at most `size` bytes and returns the file."""
    if not file.exists():
        run([*CLI, "compress", str(network), "-o", str(file), "--target-bytes", str(size)])
    return file


def decompress(file: Path, folder: Path) -> Path:
    """Decompresses a .sqz file and returns the folder of the network."""
    if not folder.exists():
        run([*CLI, "decompress", str(file), "-o", str(folder)])
    return folder


def train(start: Path, folder: Path, flags: list[str]) -> Workdir:
    """Trains from the network `start` and returns the study's workdir."""
    workdir = Workdir(folder)
    if workdir.status(TRIAL) not in FINISHED:
        run([*LAUNCH, f"--workdir={folder}", f"--config.train.init_from={start}", *flags])
    return workdir


def top1(network: Path, data: list[str]) -> float:
    """Evaluates a trial or a .sqz file on CIFAR-10's test set; returns the top-1 accuracy in %."""
    command = [*CLI, "evaluate", str(network), "--data", "cifar10", *data, "--format", "json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)["top1"]


def ways(trial: Path, out: Path, sizes: list[int], data: list[str], flags: list[str]) -> list[list]:
    """Returns the CSV rows of a trial."""
    out.mkdir(parents=True, exist_ok=True)
    longer = train(trial, out / "longer", [*WITHOUT_QAT, *flags]).trial_directory(TRIAL)
    files = [("dense", trial), ("longer", longer)]
    for size in sizes:
        lossy = compress(trial, out / f"lossy-{size}.sqz", size)
        start = decompress(lossy, out / f"start-{size}")
        quantized = train(start, out / f"qat-{size}", flags).sqz_path(TRIAL, "arithmetic")
        control = compress(longer, out / f"longer-{size}.sqz", size)
        files += [
            (f"lossy, {size:,}", lossy),
            (f"QAT, {size:,}", quantized),
            (f"longer, lossy, {size:,}", control),
        ]
    return [
        [way, out.name, file.stat().st_size if file.suffix == ".sqz" else "", top1(file, data)]
        for way, file in files
    ]


def summary(rows: list[list]) -> list[list[str]]:
    """Averages the CSV rows over networks: a row of the markdown table for each way."""
    table = [["way", "bytes", "top-1 (%)", "against dense", "nets"]]
    dense = {net: accuracy for way, net, _, accuracy in rows if way == "dense"}
    for way in dict.fromkeys(row[0] for row in rows):
        _, nets, sizes, found = zip(*(row for row in rows if row[0] == way), strict=True)
        change = confidence(
            [accuracy - dense[net] for net, accuracy in zip(nets, found, strict=True)]
        )
        size = "" if "" in sizes else f"{min(sizes):,} to {max(sizes):,}"
        gain = tables.show_interval("top1", change, sign="+")
        table.append(
            [
                way,
                size,
                tables.show_interval("top1", confidence(found, percent=True)),
                gain,
                str(len(nets)),
            ]
        )
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, help="receives the files")
    parser.add_argument("trial", type=Path, nargs="+", help="the folder of a trial")
    parser.add_argument(
        "--bytes", type=int, nargs="+", default=[7000], help="sizes of the files (default 7000)"
    )
    parser.add_argument("--csv", type=Path, help="receives a row for each network")
    parser.add_argument("--data-dir", help="where TFDS has CIFAR-10")
    arguments, flags = parser.parse_known_args()
    data = ["--data-dir", arguments.data_dir] if arguments.data_dir else []
    flags += [f"--config.data.data_dir={arguments.data_dir}"] if arguments.data_dir else []
    nets = [(trial, arguments.out / trial.name) for trial in arguments.trial]
    rows = [row for trial, out in nets for row in ways(trial, out, arguments.bytes, data, flags)]
    if arguments.csv:
        with arguments.csv.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([HEAD, *rows])
    print(tables.markdown(summary(rows)), end="")
