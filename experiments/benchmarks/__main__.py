"""Compares the speed of squeeze_jax with that of its alternatives.

    python -m experiments.benchmarks [NAME ...]

Prints a table for each benchmark and writes NAME.json beside this file. A ratio below 1 means that
squeeze_jax is faster. All benchmarks take about half an hour on two cores. They need
`pip install -e '.[test]'`, and a C++ compiler for torch.compile.
"""

import argparse
import importlib

from experiments.benchmarks import interleaved
from squeeze_jax.study.environment import environment

NAMES = ("training", "teacher", "inference", "onnx_files", "input_pipeline", "first_step", "sweep")


def main() -> None:
    """Runs the benchmarks that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"{', '.join(NAMES)}; all by default"
    )
    names = parser.parse_args().names or NAMES
    if unknown := set(names) - set(NAMES):
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}")
    commit = environment("")["commit"]  # before the first result changes the tree
    for name in names:
        benchmark = importlib.import_module(f"experiments.benchmarks.{name}")
        begun = environment(f"python -m experiments.benchmarks {name}") | {"commit": commit}
        rows = benchmark.rows()
        interleaved.write_result(name, rows, begun, benchmark.PACKAGES)
        print(
            f"{name}: {benchmark.__doc__.partition(chr(10))[0]}\n\n{interleaved.table(rows)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
