import csv
import json
from pathlib import Path

import pytest

SR = "model.squeeze_ratio"
DESIGNS = tuple({SR: value} for value in (0.125, 0.5, 1.0))


@pytest.fixture
def sweep(tmp_path):
    """Writes a workdir: `results` maps (design index, seed) to (status, top1).

    One that is not there has no row.

    `coded` maps the same to bytes_arithmetic, where the study has it.
    """

    def write(
        results, designs=DESIGNS, seeds=3, curves=True, size=lambda i: 1.0 + i, coded=None, **report
    ) -> Path:
        overrides = [
            (i, seed, {**design, "seed": seed})
            for i, design in enumerate(designs)
            for seed in range(seeds)
        ]
        names = [
            ",".join(f"{key.rpartition('.')[2]}={value}" for key, value in override.items())
            for _, _, override in overrides
        ]
        study = {
            "study": "sr_sweep",
            "preset": "digits",
            "command": "python launch.py --config configs/sr_sweep.py",
            "commit": "abc123",
            "versions": {"jax": "0.10.2"},
            "device": "2 x cpu",
            "started": "2026-11-22T22:03:00Z",
            "config": {"seed": 0, "model": {"squeeze_ratio": 0.125, "bypass": "none"}},
            "swept": list(designs[0]),
            "report": {"x": SR, "label": "Squeeze ratio (SR)", "metric": "top1", "paper": {}}
            | report,
            "trials": [
                {"name": name, "overrides": override}
                for name, (_, _, override) in zip(names, overrides, strict=True)
            ],
        }
        (tmp_path / "study.json").write_text(json.dumps(study))
        head = [key.rpartition(".")[2] for key in designs[0]]
        with (tmp_path / "sweep.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            more = ["bytes_arithmetic"] if coded else []
            measured = [
                "params",
                "model_mb",
                "top1",
                "top5",
                "loss",
                "seconds",
                "latency_ms",
                *more,
            ]
            rows.writerow(["trial", *head, "seed", "status", *measured, "reason"])
            for name, (i, seed, _) in zip(names, overrides, strict=True):
                if (i, seed) not in results:
                    continue
                status, top1 = results[i, seed]
                none = top1 is None
                measures = (
                    ["", "", "", "", ""]
                    if none
                    else [top1, top1 + 1, "nan" if status == "diverged" else 0.5, 10 + seed, 7]
                )
                reason = (
                    "ValueError: <script>alert('x')</script>, \"a | b\"\nsecond line"
                    if status == "failed"
                    else ""
                )
                measures += [coded.get((i, seed), "")] if coded else []
                rows.writerow(
                    [
                        name,
                        *designs[i].values(),
                        seed,
                        status,
                        1000 * (i + 1),
                        size(i),
                        *measures,
                        reason,
                    ]
                )
                if curves and not none:
                    folder = tmp_path / "trials" / name
                    folder.mkdir(parents=True, exist_ok=True)
                    lines = [
                        {"step": 5, "epoch": 1.0, "loss": 2.0},
                        {"step": 5, "epoch": 1.0, "eval_loss": 2.0, "top1": top1 / 2},
                    ]
                    lines += [
                        {"step": 10, "epoch": 2.0, "loss": 1.0},
                        {"step": 10, "epoch": 2.0, "eval_loss": 1.0, "top1": top1},
                    ]
                    (folder / "metrics.jsonl").write_text(
                        "".join(json.dumps(line) + "\n" for line in lines)
                    )
        return tmp_path

    return write


@pytest.fixture
def finished():
    """Nine trials that all learned."""
    return {
        (i, seed): ("ok", top1 + seed)
        for i, top1 in enumerate((79.0, 94.0, 96.0))
        for seed in range(3)
    }


@pytest.fixture
def troubled(finished):
    """The same with a trial of every fate; the last design has learned nothing."""
    fates = {(0, 1): ("chance", 10.0), (1, 0): ("diverged", 9.0), (1, 2): ("failed", None)}
    fates |= {(2, 0): ("chance", 10.0), (2, 1): ("chance", 10.0)}
    return {key: value for key, value in (finished | fates).items() if key != (2, 2)}


@pytest.fixture
def stages(sweep, finished):
    """Nets of one design in three stages, coded in ever fewer bytes.

    The last seed of the last one could not be coded.
    """
    designs = tuple({"stage": stage} for stage in ("dense", "pruned", "shared"))
    coded = {
        (i, seed): size + 10 * seed
        for i, size in enumerate((9000, 3000, 1000))
        for seed in range(3)
        if (i, seed) != (2, 2)
    }
    return sweep(
        finished, designs=designs, size=lambda i: 4.7, coded=coded, x="stage", label="stage"
    )
