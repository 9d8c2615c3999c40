"""Runs the default sweep on a Ray cluster of two nodes, of which one dies; compares with local.

    python -m experiments.cluster [DIRECTORY]

The two nodes are of this machine, a core each. Once five trials have ended, one node is killed in
the middle of a trial, which has saved its state. Writes result.json beside this file. Needs
squeeze_jax[ray].
"""

import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ray.cluster_utils import Cluster

from squeeze_jax.study import Workdir

LAUNCH = (sys.executable, "-m", "squeeze_jax", "launch", "sr_sweep")
CHECKPOINTS = "--config.train.checkpoint_every=22"
TIMED = ("seconds", "images_per_second")


def main(directory: Path) -> None:
    """Runs both and writes what differs."""
    os.environ.update(RAY_worker_niceness="0")  # as in the launch that it is compared with
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    node = cluster.add_node(num_cpus=1)
    work = directory / "cluster"
    begin = time.monotonic()
    flags = ("--executor=ray", f"--address={cluster.address}", "--trial_resources=CPU=1")
    launch = subprocess.Popen([*LAUNCH, CHECKPOINTS, *flags, f"--workdir={work}"])
    while launch.poll() is None and not has_two_in_the_middle(Workdir(work)):
        time.sleep(0.05)
    cluster.remove_node(node, allow_graceful=False)
    print("killed a node", file=sys.stderr)
    code = launch.wait()
    seconds = time.monotonic() - begin
    cluster.shutdown()
    begin = time.monotonic()
    subprocess.run([*LAUNCH, CHECKPOINTS, f"--workdir={directory / 'local'}"], check=True)
    there, here = rows(work), rows(directory / "local")
    differ = [
        f"{ours['trial']}: {key} {theirs[key]} there, {ours[key]} here"
        for ours, theirs in zip(here, there, strict=True)
        for key in ours
        if key not in TIMED and ours[key] != theirs[key]
    ]
    result = {
        "exit_code": code,
        "trials": len(there),
        "cells_compared": sum(key not in TIMED for row in here for key in row),
        "cells_that_differ": differ,
        "seconds_on_the_cluster": round(seconds),
        "seconds_local": round(time.monotonic() - begin),
    }
    text = json.dumps(result, indent=1)
    (Path(__file__).parent / "result.json").write_text(text + "\n")
    print(text)


def has_two_in_the_middle(workdir: Workdir) -> bool:
    """Returns whether each node trains a trial that has saved its state, after five have ended."""
    statuses = {name: workdir.status(name) for name in workdir.trial_names()}
    running = [name for name, status in statuses.items() if status == "pending"]
    return len(statuses) - len(running) >= 5 and sum(map(workdir.has_checkpoint, running)) == 2


def rows(workdir: Path) -> list[dict[str, str]]:
    """Returns the rows of a sweep.csv."""
    with (workdir / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else Path(tempfile.mkdtemp()))
