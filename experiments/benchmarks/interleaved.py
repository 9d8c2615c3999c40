"""Times alternatives in turn, so that a busy machine slows all of them alike."""

import contextlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from squeeze_jax.files import write_atomically
from squeeze_jax.report.tables import markdown

# Seconds of rest before each run: the threads of PyTorch and onnxruntime spin for a while after
# a call.
REST = 0.3

Row = dict[str, Any]


def run_in_turn(
    runs: dict[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    warm_up: int = 1,
) -> dict[str, list[float]]:
    """Calls each function once a round, in an order drawn anew each round.

    Args:
      runs: name -> function.
      rounds: the number of rounds that count.
      clock: returns seconds.
      warm_up: the number of rounds before them that do not count.

    Returns:
      Name -> seconds in each round.
    """
    random, seconds = np.random.default_rng(0), {name: [] for name in runs}
    for round_ in range(warm_up + rounds):
        for name in random.permutation(list(runs)):
            time.sleep(REST)
            start = clock()
            runs[name]()
            if round_ >= warm_up:
                seconds[name].append(clock() - start)
    return seconds


@contextlib.contextmanager
def in_process(make: Callable[..., Callable[[], None]], *arguments: Any) -> Iterator[Callable]:
    """Yields what calls `make(*arguments)()` in a process of its own, which starts as a user's.

    Args:
      make: a function of a module, called once.
      arguments: of it; they are pickled.
    """
    context = multiprocessing.get_context("spawn")
    own, other = context.Pipe()
    process = context.Process(target=_serve, args=(other, make, *arguments), daemon=True)
    process.start()
    other.close()

    def call() -> None:
        own.send(True)
        own.recv()  # EOFError where the process has failed; its traceback is printed

    try:
        yield call
    finally:
        own.close()
        process.join()


def _serve(connection: Connection, make: Callable[..., Callable[[], None]], *arguments) -> None:
    run = make(*arguments)
    with contextlib.suppress(EOFError):
        while connection.recv():
            run()
            connection.send(True)


def compare(
    setting: str,
    runs: dict[str, Callable[[], object]],
    rounds: int,
    images: int = 0,
    **options: Any,
) -> list[Row]:
    """Times functions in turn and returns a row for each.

    Args:
      setting: what is measured.
      runs: name -> function; the first is that of squeeze_jax. Ratios to it are taken within a
        round.
      rounds: the number of calls of each function that count.
      images: the number of images that a call works on; 0 leaves out images a second.
      options: of `run_in_turn`.
    """
    seconds, rows = run_in_turn(runs, rounds, **options), []
    ours = next(iter(seconds))
    for who, times in seconds.items():
        row = {
            "setting": setting,
            "who": who,
            "rounds": rounds,
            "seconds_quartiles": quartiles(times),
        }
        if images:
            row["images_per_second"] = round(images / float(np.median(times)), 1)
        if who != ours:
            row["ours_over_it_quartiles"] = quartiles(np.divide(seconds[ours], times))
        rows.append(row)
    return rows


def quartiles(values: Sequence[float] | np.ndarray) -> list[float]:
    """Returns the first quartile, the median and the third quartile."""
    return [round(float(q), 4) for q in np.quantile(values, (0.25, 0.5, 0.75))]


def table(rows: Sequence[Row]) -> str:
    """Formats rows as a markdown table."""

    def cell(values: list[float] | None, scale: float, digits: int) -> str:
        if values is None:
            return ""
        first, median, third = (f"{value * scale:,.{digits}f}" for value in values)
        return f"{median} ({first} to {third})"

    head = ["setting", "who", "ms: median (quartiles)", "images/s", "ours / it: median (quartiles)"]
    lines = [
        [
            row["setting"],
            row["who"],
            cell(row["seconds_quartiles"], 1000, 1),
            f"{row['images_per_second']:,.0f}" if "images_per_second" in row else "",
            cell(row.get("ours_over_it_quartiles"), 1, 2),
        ]
        for row in rows
    ]
    return markdown([head, *lines])


def write_result(
    name: str, rows: Sequence[Row], begun: dict[str, Any], packages: Sequence[str]
) -> None:
    """Writes rows to NAME.json beside this file.

    Args:
      name: of the benchmark.
      rows: what was measured.
      begun: the `environment` at the start.
      packages: more packages whose versions are written.
    """
    result = begun | {"load_average": round(os.getloadavg()[0], 1)}
    result["versions"] |= {package: version(package) for package in packages}
    write_atomically(
        Path(__file__).with_name(f"{name}.json"),
        json.dumps(result | {"results": list(rows)}, indent=1) + "\n",
    )
