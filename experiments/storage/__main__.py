"""Measures a study in a bucket: against a disk, after kills, and with 10,000 trials.

python -m experiments.storage sweep      the default sweep in a bucket and on a disk, in turn
python -m experiments.storage kills      killed twice, resumed in another process namespace
python -m experiments.storage large      a made-up study of 10,000 finished trials and one more,
                                         and what a trial costs besides its training

The bucket is on a server of this machine, so that no network is measured. Each part writes its
results to a file beside this one.
"""

import argparse
import csv
import io
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

from squeeze_jax import storage
from squeeze_jax.files import write_atomically
from squeeze_jax.study import Workdir, runner
from squeeze_jax.study.config_files import find_config_file, load_config_file
from squeeze_jax.study.environment import environment
from squeeze_jax.study.plan import Plan
from tests.gcs import VARIABLES, gcs_server, make_bucket

ROOT = Path(__file__).parents[2]
TRIALS, MORE = 10_000, 100
NET = {"model.num_fire": 2, "model.pool_after": ("conv1",), "model.base_e": 8, "model.incr_e": 8}
KILLS = ("--config.train.checkpoint_every=20",)
_CHILDREN = resource.RUSAGE_CHILDREN
CLOCKS = ("seconds", "images_per_second")


def launch(workdir: str, *flags: str, cache: Path, before: tuple[str, ...] = ()) -> list[str]:
    """Returns the command line of a launch of the default sweep."""
    return [
        *before,
        *(sys.executable, "launch.py", "--config", "configs/sr_sweep.py", *flags),
        *("--workdir", workdir, "--compilation_cache", str(cache)),
    ]


def seconds_of(command: list[str]) -> float:
    """Runs a command and returns the seconds that it took."""
    start = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - start


def table(workdir: str) -> list[dict[str, str]]:
    """Returns sweep.csv without what a clock says."""
    text = (storage.as_path(workdir) / "sweep.csv").read_bytes().decode()
    rows = csv.DictReader(io.StringIO(text, newline=""))
    return [{key: row[key] for key in row if key not in CLOCKS} for row in rows]


def differing(one: str, other: str) -> int:
    """Returns how many trials of two studies differ."""
    return sum(a != b for a, b in zip(table(one), table(other), strict=True))


def sweep(bucket: str, folder: Path) -> dict:
    """Times the default sweep on a disk and in the bucket: disk, bucket, bucket, disk."""
    cache = folder / "cache"
    seconds_of(launch(str(folder / "warm"), cache=cache))  # compiles every program
    seconds = {"disk": [], "bucket": []}
    for turn, where in enumerate(("disk", "bucket", "bucket", "disk")):
        workdir = f"{bucket}/{turn}" if where == "bucket" else str(folder / str(turn))
        seconds[where].append(round(seconds_of(launch(workdir, cache=cache)), 1))
    ratio = sum(seconds["bucket"]) / sum(seconds["disk"])
    return {
        "seconds": seconds,
        "bucket_over_disk": round(ratio, 3),
        "differing_trials": differing(f"{bucket}/1", str(folder / "0")),
    }


def kills(bucket: str, folder: Path) -> dict:
    """Kills a sweep twice, and resumes it where its processes cannot be seen."""
    cache, workdir = folder / "cache", f"{bucket}/killed"
    subprocess.run(launch(str(folder / "whole"), *KILLS, cache=cache), cwd=ROOT, check=True)
    for done in (3, 8):
        process = subprocess.Popen(launch(workdir, *KILLS, cache=cache), cwd=ROOT)
        begun = time.monotonic()
        while process.poll() is None and _under_way(workdir) < done:
            time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
        process.wait()
        print(f"killed after {time.monotonic() - begun:.0f} s", flush=True)
    # Another process namespace is another host to a claim.
    elsewhere = ("unshare", "--pid", "--fork", "--mount-proc")
    seconds = seconds_of(launch(workdir, *KILLS, cache=cache, before=elsewhere))
    return {
        "seconds_of_the_resumption": round(seconds, 1),
        "differing_trials": differing(workdir, str(folder / "whole")),
        "trials": len(table(workdir)),
    }


def _under_way(workdir: str) -> int:
    """Returns the number of trials that have saved a state."""
    found = Workdir(workdir)
    return sum(found.has_checkpoint(name) for name in found.trial_names())


def large(bucket: str, folder: Path) -> dict:
    """Measures a study of many trials, of which one is pending, on a disk and in the bucket."""
    return {
        where: _large(workdir)
        for where, workdir in (("disk", str(folder / "large")), ("bucket", f"{bucket}/large"))
    }


def _large(workdir: str) -> dict:
    module = load_config_file(find_config_file("squeezenet"))
    config = module.get_config()
    config.seeds = TRIALS
    config.train.steps = 4
    config.update_from_flattened_dict(NET)
    found, seconds = Workdir(workdir), {}

    def timed(what: str, function) -> object:
        start, begun = time.perf_counter(), _cpu_seconds()
        result = function()
        wall, cpu = time.perf_counter() - start, _cpu_seconds() - begun
        seconds[what] = {"wall": round(wall, 2), "cpu": round(cpu, 2)}
        print(where, what, seconds[what], flush=True)
        return result

    def plan() -> Plan:
        return Plan.of(module, config, (), found.path, command="measured")

    where = "bucket" if storage.is_remote(found.path) else "disk"
    # One real trial, whose files the others copy.
    first = config.copy_and_resolve_references()
    first.seeds = 1
    runner.run(Plan.of(module, first, (), found.path, command="measured"))
    result, curve = found.read_result("seed=0"), found.trial_directory("seed=0") / "metrics.jsonl"
    lines = curve.read_bytes()
    for begin in range(1, TRIALS - 1, 500):
        seeds = [f"seed={seed}" for seed in range(begin, min(begin + 500, TRIALS - 1))]
        folders = [found.trial_directory(name) for name in seeds]
        _write_all(
            {folder / "result.json": json.dumps(result).encode() for folder in folders}
            | {folder / "metrics.jsonl": lines for folder in folders}
        )
    planned = timed("plan", plan)
    timed("relaunch_with_one_trial", lambda: runner.run(planned))
    timed("relaunch_with_none", lambda: runner.run(planned))
    timed(
        "report",
        lambda: subprocess.run(
            (sys.executable, "-m", "squeeze_jax", "report", workdir), check=True, cwd=ROOT
        ),
    )
    config.seeds = TRIALS + MORE
    planned = plan()
    with mock.patch.object(runner, "train", return_value=result):
        timed(f"relaunch_with_{MORE}_that_are_not_trained", lambda: runner.run(planned))
    return {"trials": TRIALS, "seconds": seconds}


def _cpu_seconds() -> float:
    """Returns the CPU time of this process and those that it ran, without the server's."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, _CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def _write_all(contents: Mapping[Path, bytes]) -> None:
    """Writes many files, at once in object storage."""
    first = next(iter(contents))
    if storage.is_remote(first):
        file_system = storage._file_system(first)
        file_system.pipe({str(path): content for path, content in contents.items()})
        return
    for path, content in contents.items():
        write_atomically(path, content)


def main() -> None:
    """Runs one part and writes its results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parts = {"sweep": sweep, "kills": kills, "large": large}
    parser.add_argument("part", choices=parts)
    part = parser.parse_args().part
    begun = environment(f"python -m experiments.storage {part}")
    with tempfile.TemporaryDirectory() as folder, gcs_server() as url:
        os.environ.update(dict.fromkeys(VARIABLES, url))
        found = parts[part](make_bucket(url), Path(folder))
    content = {**begun, "load_average": round(os.getloadavg()[0], 1), "results": found}
    Path(__file__).with_name(f"{part}.json").write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
