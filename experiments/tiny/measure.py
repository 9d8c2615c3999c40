"""Makes .sqz files of trained nets, and measures them as floats, as .sqz and in int8.

    python -m experiments.tiny.measure NAME TRIAL [TRIAL ...] --bytes 48000 [--data-dir DIR]

Each TRIAL is the folder of a finished trial on CIFAR-10. Its file is NAME-SEED.sqz in this folder,
of at most so many bytes; `Network.source` in it tells its data, top-1, commit and command. A row
for each goes to results.csv, in place of an earlier one of that file. int8 is the ONNX export (QDQ,
calibrated on CALIBRATION_IMAGES training images, as the .sqz file) in onnxruntime.
"""

import argparse
import csv
import dataclasses
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import squeeze_jax
from squeeze_jax.compress.sqz import container
from squeeze_jax.files import write_atomically
from squeeze_jax.study import read_study
from squeeze_jax.train.weights import known_classes

HERE = Path(__file__).parent
DATA = "cifar10"
RECORD = 600  # bytes that the record takes at most
CALIBRATION_IMAGES = 1000  # 200 cost the net of 110 epochs 0.3 points more


def main() -> None:
    """Measures the trials that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("trials", type=Path, nargs="+", metavar="TRIAL")
    parser.add_argument("--bytes", type=int, required=True)
    parser.add_argument("--data-dir", default="")
    arguments = parser.parse_args()
    for trial in arguments.trials:
        row = measure(arguments.name, trial, arguments.bytes, arguments.data_dir)
        print(json.dumps(row))
        write_row(HERE / "results.csv", row)


def measure(name: str, trial: Path, size: int, data_dir: str) -> dict[str, Any]:
    """Writes a trial's .sqz file and returns its row."""
    workdir = trial.resolve().parents[1]
    study = json.loads((workdir / "study.json").read_bytes())
    record = next(each for each in read_study(workdir) if each["trial"] == trial.name)
    network = squeeze_jax.load(trial)
    file = HERE / f"{name}-{record['seed']}.sqz"
    images: dict[str, Any] = dict(data=DATA, data_dir=data_dir, split="train")
    images["calibration_images"] = CALIBRATION_IMAGES
    network.compress(file, target_bytes=size - RECORD, **images)
    top1 = top1_of(file, data_dir)
    source = (
        f"CIFAR-10, {top1:.2f} % top-1 on its 10,000 test images; squeeze_jax "
        f"{study['commit'][:12]}: {anywhere(study['command'])}, trial {trial.name}"
    )
    compressed = squeeze_jax.load(file).whole()
    content = container.lossless(
        dataclasses.replace(compressed, source=source), known_classes=known_classes()
    )
    if len(content) > size:
        raise SystemExit(f"{file.name}: {len(content):,} bytes with its record; raise RECORD")
    write_atomically(file, content)
    if (again := top1_of(file, data_dir)) != top1:
        raise SystemExit(f"{file.name}: {again} % with its record and {top1} % without")
    with tempfile.TemporaryDirectory() as folder:
        int8 = Path(folder) / "int8.onnx"
        network.export(int8, precision="int8", **images)
        return {
            "file": file.name,
            "params": record["params"],
            "macs": record["macs"],
            "float_top1": record["top1"],
            "sqz_bytes": len(content),
            "sqz_top1": top1,
            "int8_bytes": int8.stat().st_size,
            "int8_top1": top1_of(int8, data_dir),
            "source": source,
        }


def anywhere(command: str) -> str:
    """Returns a command without the flags that name places of one machine."""
    words = re.sub(r"(--workdir|--compilation_cache)[ =]\S+", "", command).split()
    return " ".join(word for word in words if not word.startswith("--config.data.data_dir"))


def top1_of(path: Path, data_dir: str) -> float:
    """Returns a network's top-1 on the test images, in percent."""
    return round(squeeze_jax.load(path).evaluate(DATA, data_dir, "test", 200)["top1"], 2)


def write_row(path: Path, row: dict[str, Any]) -> None:
    """Writes a row, in place of that of the same file."""
    rows = []
    if path.exists():
        with path.open(newline="") as file:
            rows = [old for old in csv.DictReader(file) if old["file"] != row["file"]]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        writer.writeheader()
        writer.writerows([*rows, row])


if __name__ == "__main__":
    main()
