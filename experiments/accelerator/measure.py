"""Times the steps and the sweep, each in processes of their own: the caller has no device."""

import concurrent.futures
import contextlib
import functools
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from experiments.benchmarks import interleaved, training

ROOT = Path(__file__).parents[2]
ROUNDS = 5

# By device kind: peak FLOP/s in bfloat16 (dense) and bytes/s of its memory, from the makers' pages.
PEAKS = {
    "NVIDIA A100-SXM4-80GB": (312e12, 2.039e12),
    "NVIDIA H100 80GB HBM3": (989e12, 3.35e12),
    "NVIDIA H200": (989e12, 4.8e12),
    "TPU v5 lite": (197e12, 819e9),
    "TPU v6 lite": (918e12, 1.64e12),
}


def in_new_process(function: Callable, *arguments: Any, **options: Any) -> Any:
    """Returns a function's result from a process of its own."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
        return pool.submit(function, *arguments, **options).result()


def device() -> tuple[str, str]:
    """Returns the platform, such as "gpu", and the kind of JAX's first device."""
    return jax.default_backend(), jax.devices()[0].device_kind


def speed(
    title: str, steps: int, torch_device: str | None, recipe: dict[str, Any]
) -> list[interleaved.Row]:
    """Times the step of a setting.

    Args:
      title: of the setting.
      steps: a round.
      torch_device: PyTorch's; None or "": without PyTorch.
      recipe: the batch size and the type.

    Returns:
      A row for squeeze_jax, then for PyTorch; seconds are those of one step.
    """
    calls: dict[str, tuple] = {"squeeze_jax": (training.own_step, title, steps)}
    if torch_device:
        for name, compiled in (("", False), (", compiled", True)):
            call = (training.torch_step, title, compiled, steps, torch_device)
            calls[f"PyTorch, channels-last{name}"] = call
    with contextlib.ExitStack() as stack:
        runs = {
            name: stack.enter_context(
                interleaved.in_process(functools.partial(make, **recipe), *call)
            )
            for name, (make, *call) in calls.items()
        }
        setting = f"{title.partition(',')[0]}, batch {recipe['batch_size']}, {recipe['dtype']}"
        images = steps * recipe["batch_size"]
        rows = interleaved.compare(setting, runs, ROUNDS, images=images, warm_up=2)
    for row in rows:
        row["seconds_quartiles"] = [round(s / steps, 6) for s in row["seconds_quartiles"]]
    return rows


def share_of_roofline(
    title: str, row: interleaved.Row, kind: str, recipe: dict[str, Any]
) -> dict[str, float]:
    """Returns a step's FLOPs and bytes, and `of_roofline` on a device whose peaks are known."""
    flops, moved = in_new_process(training.own_cost, title, **recipe)
    found = {"gflops": round(flops / 1e9, 1), "gbytes": round(moved / 1e9, 2)}
    if kind in PEAKS:
        peak_flops, peak_bytes = PEAKS[kind]
        least = max(flops / peak_flops, moved / peak_bytes)
        found["of_roofline"] = round(least / row["seconds_quartiles"][1], 3)
    return found


def sweep(jobs: int, data_dir: str, length: str) -> dict[str, float | int]:
    """Times the SR sweep on CIFAR-10, one seed; says why where it fails.

    Args:
      jobs: how many trials at a time.
      data_dir: TFDS's folder; "": its default.
      length: of a trial, a flag of `launch.py`.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, str(ROOT / "launch.py"), "--config=configs/sr_sweep.py:cifar10"),
            *(f"--config.data.data_dir={data_dir}", f"--workdir={folder}/runs", f"--jobs={jobs}"),
            *(length, "--config.seeds=1", f"--compilation_cache={folder}/cache"),
        ]
        start = time.monotonic()
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        seconds = round(time.monotonic() - start, 1)
    if run.returncode:
        last = (run.stderr.strip() or "no message").splitlines()[-1]
        print(f"SR sweep with --jobs {jobs} is left out: {last}", flush=True)
        return {"jobs": jobs}
    print(f"SR sweep with --jobs {jobs}: {seconds} s", flush=True)
    return {"jobs": jobs, "seconds": seconds}
