"""Compares quantization-aware training from a lossy .sqz with longer training without it.

    python experiments/quantized/compare.py OUT TRIAL [TRIAL ...] --bytes 7000 5000 --csv FILE \
        [--data-dir DIR] [flags for launch.py]

Prints a markdown table and writes a row for each network as CSV. Each TRIAL is one of a finished
study on `cifar10`. For each trial and each size it makes four files and evaluates them on the test
set: `lossy` (the trial, compressed to the size), `on the grid` (that file's network, trained by
`configs/quantized.py` and written again), `longer` (the trial trained as long without quantization)
and `longer, lossy` (that, compressed to the size). Files that OUT already holds are not made again.
"""

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path

from squeeze_jax.report import tables

CLI = [sys.executable, "-m", "squeeze_jax"]
LAUNCH = [sys.executable, "launch.py", "--config", "configs/quantized.py:cifar10"]
WITHOUT_GRID = ["--config.train.qat=False", "--config.compress.coders=()"]
HEAD = ["way", "net", "bytes", "top1"]


def run(command: list[str], made: Path) -> None:
    """Runs the command, unless it has been."""
    if not made.exists():
        print(*command, file=sys.stderr)
        subprocess.run(command, check=True, stdout=sys.stderr)


def compressed(net: Path, file: Path, size: int) -> Path:
    """The file of a trial's net at no more than `size` bytes."""
    run([*CLI, "compress", str(net), "-o", str(file), "--target-bytes", str(size)], file)
    return file


def trained(start: Path, workdir: Path, flags: list[str]) -> Path:
    """The trial that one more epoch from `start` makes."""
    trial = workdir / "trials" / "seed=0"
    run(
        [*LAUNCH, f"--workdir={workdir}", f"--config.train.init_from={start}", *flags],
        trial / "result.json",
    )
    return trial


def top1(net: Path, data: list[str]) -> float:
    """Of a trial or a .sqz file on CIFAR-10's test set, in percent."""
    command = [*CLI, "evaluate", str(net), "--data", "cifar10", *data, "--format", "json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)["top1"]


def ways(trial: Path, out: Path, sizes: list[int], data: list[str], flags: list[str]) -> list[list]:
    """Rows of the CSV for one net."""
    out.mkdir(parents=True, exist_ok=True)
    longer = trained(trial, out / "longer", [*WITHOUT_GRID, *flags])
    files = [("dense", trial), ("longer", longer)]
    for size in sizes:
        lossy, start = compressed(trial, out / f"lossy-{size}.sqz", size), out / f"start-{size}"
        run([*CLI, "decompress", str(lossy), "-o", str(start)], start)
        grid = trained(start, out / f"grid-{size}", flags) / "net.arithmetic.sqz"
        control = compressed(longer, out / f"longer-{size}.sqz", size)
        files += [
            (f"lossy, {size:,}", lossy),
            (f"on the grid, {size:,}", grid),
            (f"longer, lossy, {size:,}", control),
        ]
    return [
        [way, out.name, file.stat().st_size if file.suffix == ".sqz" else "", top1(file, data)]
        for way, file in files
    ]


def summary(rows: list[list]) -> list[list[str]]:
    """The rows with the nets of a way together."""
    table = [["way", "bytes", "top-1 (%)", "against dense", "nets"]]
    dense = {net: accuracy for way, net, _, accuracy in rows if way == "dense"}
    for way in dict.fromkeys(row[0] for row in rows):
        _, nets, sizes, found = zip(*(row for row in rows if row[0] == way), strict=True)
        change = tables.confidence(
            [accuracy - dense[net] for net, accuracy in zip(nets, found, strict=True)]
        )
        size = "" if "" in sizes else f"{min(sizes):,} to {max(sizes):,}"
        gain = f"{change.mean:+.1f}" + (f" ± {change.half:.1f}" if change.half is not None else "")
        table.append(
            [
                way,
                size,
                tables.show_interval("top1", tables.confidence(found)),
                gain,
                str(len(nets)),
            ]
        )
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Quantization-aware training, compared with longer training."
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("trial", type=Path, nargs="+")
    parser.add_argument("--bytes", type=int, nargs="+", default=[7000])
    parser.add_argument("--csv", type=Path)
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
