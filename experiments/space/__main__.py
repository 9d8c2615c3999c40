"""Measures what early stopping saves and loses, and sets two design spaces side by side.

python -m experiments.space digits     64 designs trained to their end, and ASHA on their curves
python -m experiments.space cifar10    SqueezeNet's and SqueezeNext's, within 12.5 M MACs, by ASHA

Other flags, such as --config.data.data_dir=DIR or --jobs=2, go to each launch. Run again after an
interruption, it continues. Each part writes its results to files beside this one.
"""

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from squeeze_jax.study import Workdir
from squeeze_jax.study.config_files import load_config_file
from squeeze_jax.study.environment import environment
from squeeze_jax.study.plan import Plan
from squeeze_jax.study.scheduler import SCHEDULERS, Schedule, StoppingConfig
from squeeze_jax.study.trials import design_key

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
# Of the 220 steps of a trial on the digits: a twentieth and a quarter; later ones; one alone.
DIGITS_RUNGS, EVERY = ((11, 55), (33, 99), (55,)), 11
REPETITIONS = 10
CIFAR10 = (
    "--config.search.designs=32",
    "--config.train.epochs=1.5",
    "--config.train.ema_decay=0.98",
    "--config.stopping.scheduler=asha",
    "--config.stopping.rungs=(195,)",  # half an epoch, of 585 steps
)


def main() -> None:
    """Runs the part that the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("part", choices=("digits", "cifar10"))
    parser.add_argument("--workdir", type=Path, default=Path("runs/space"))
    arguments, flags = parser.parse_known_args()
    {"digits": digits, "cifar10": cifar10}[arguments.part](arguments.workdir, flags)


def digits(folder: Path, flags: Sequence[str]) -> None:
    """Trains 64 designs with three seeds to their end, and replays schedulers on their curves."""
    workdir = folder / "digits"
    launch(
        "squeezenet_space",
        workdir,
        "--config.seeds=3",
        f"--config.train.eval_every={EVERY}",
        *flags,
    )
    shutil.copyfile(workdir / "sweep.csv", HERE / "digits.csv")
    found = list(replayed(workdir))
    with (HERE / "digits_asha.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(found[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
    way = itemgetter("scheduler", "rungs", "seeds")
    for each in dict.fromkeys(map(way, found)):
        own = [record for record in found if way(record) == each]
        share, regret = (
            fmean(record[key] for record in own) for key in ("share_of_steps", "regret")
        )
        print(*each, f"{100 * share:.0f} % of the steps, regret {regret:.2f} points")


def replayed(folder: Path) -> list[dict[str, Any]]:
    """Returns what schedulers would have found, with the designs in another order each time.

    Designs with a trial that has not ended are left out.

    The regret of a repetition is the top-1 of the best design, a mean over its seeds at their end,
    less that of the design that the scheduler trained to the end and found best.
    """
    workdir = Workdir(folder)
    trials = {trial.name: trial for trial in planned(workdir)}
    ended = workdir.read_results(trials)
    pending = {design_key(trials[name].overrides) for name, each in ended.items() if each is None}
    trials = {
        name: trial for name, trial in trials.items() if design_key(trial.overrides) not in pending
    }
    results = {name: result for name, result in ended.items() if result and name in trials}
    curves = {
        name: {each["step"]: each["top1"] for each in curve if "top1" in each}
        for name, curve in workdir.read_curves(list(trials)).items()
    }
    found: list[dict[str, Any]] = []
    total = {name: result["steps"] for name, result in results.items()}
    top1 = {name: result["top1"] or 0.0 for name, result in results.items()}
    seeds_of: dict[str, list[Any]] = {}
    for trial in trials.values():
        seeds_of.setdefault(design_key(trial.overrides), []).append(trial)
    worth = {key: fmean(top1[trial.name] for trial in own) for key, own in seeds_of.items()}
    ways = [(name, rungs) for name in SCHEDULERS for rungs in DIGITS_RUNGS]
    for scheduler, rungs in [*ways, ("random", ())]:
        for seeds in (1, 3):
            for repetition in range(REPETITIONS):
                random = np.random.default_rng(repetition)
                chosen = [(repetition + i) % 3 for i in range(seeds)]
                order = [
                    trial
                    for key in random.permutation(sorted(seeds_of))
                    for trial in seeds_of[key]
                    if trial.overrides["seed"] in chosen
                ]
                steps_of = {trial.name: total[trial.name] for trial in order}
                if scheduler == "random":  # as many designs as a quarter of the steps pay for
                    order = order[: len(order) // 4]
                    whole = {trial.name: curves[trial.name] for trial in order}
                    taken = sum(steps_of[name] for name in whole)
                else:
                    settings = StoppingConfig(scheduler, rungs)
                    schedule = Schedule.of(settings, order, steps_of, "top1")
                    assert schedule is not None
                    whole, taken = replay(schedule, curves, total)
                score: dict[str, list[float]] = {}
                for name in whole:
                    score.setdefault(design_key(trials[name].overrides), []).append(top1[name])
                best = max(score, key=lambda key: fmean(score[key]))
                found.append(
                    {
                        "scheduler": scheduler,
                        "rungs": " ".join(map(str, rungs)),
                        "seeds": seeds,
                        "repetition": repetition,
                        "share_of_steps": round(taken / sum(steps_of.values()), 4),
                        "top1": round(worth[best], 3),
                        "regret": round(max(worth.values()) - worth[best], 3),
                        "rank": 1 + sum(value > worth[best] for value in worth.values()),
                    }
                )
    return found


def replay(
    schedule: Schedule, curves: Mapping[str, Mapping[int, float]], total: Mapping[str, int]
) -> tuple[list[str], int]:
    """Returns the trials that a schedule trains to their end, and the steps that all take."""
    results: dict[str, Any] = dict.fromkeys(schedule.rungs)
    taken = 0
    while due := schedule.due(results):
        trial, stop_after = due[0]
        before = results[trial.name] or {"steps": 0, "rungs": []}
        step = stop_after or total[trial.name]
        taken += step - before["steps"]
        top1 = curves[trial.name].get(step, 0.0)  # one that diverged has no more
        rungs = [*before["rungs"], *([[step, top1]] if stop_after else [])]
        status = "stopped" if stop_after else "ok"
        results[trial.name] = {"status": status, "top1": top1, "steps": step, "rungs": rungs}
    return [name for name, result in results.items() if result["status"] == "ok"], taken


def planned(workdir: Workdir) -> list[Any]:
    """Returns the trials of the digits' study."""
    module = load_config_file(ROOT / "configs/squeezenet_space.py")
    config = module.get_config("digits")
    config.update(seeds=3)
    config.train.eval_every = EVERY
    return list(Plan.of(module, config, (), workdir.path, command="replay").trials)


def cifar10(folder: Path, flags: Sequence[str]) -> None:
    """Trains the designs of both spaces, and compares them."""
    names = ("squeezenet_space", "squeezenext_space")
    for name in names:
        launch(f"{name}:cifar10_modern", folder / name, *CIFAR10, *flags)
        shutil.copyfile(folder / name / "sweep.csv", HERE / f"{name}.csv")
    command = [sys.executable, "-m", "squeeze_jax", "compare", *names, "--steps=195"]
    figure = f"--figure={HERE / 'edf.png'}"
    text = subprocess.run(
        # In the folder, so that the figure names the studies without a path.
        [*command, figure, "--format=json"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found = environment("python -m experiments.space cifar10") | {"comparison": json.loads(text)}
    (HERE / "cifar10.json").write_text(json.dumps(found, indent=1) + "\n")


def launch(study: str, workdir: Path, *flags: str) -> None:
    """Launches a study; ends this program where it fails."""
    command = [
        sys.executable,
        str(ROOT / "launch.py"),
        "--config",
        study,
        f"--workdir={workdir}",
        *flags,
    ]
    if code := subprocess.run(command, check=False).returncode:
        sys.exit(code)


if __name__ == "__main__":
    main()
