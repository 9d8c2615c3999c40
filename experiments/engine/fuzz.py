"""Feeds damaged and hostile codes of weights to the engine's decoder.

Run from the repository's root:

    python -m experiments.engine.fuzz --count 10000

The decoder is built with the address and undefined-behaviour sanitizers; the code, the table and
the weights lie in blocks of exactly their size. Every code gives weights of its table, the same in
C and in Python, and an undamaged one gives the right weights. Tables are part of the program, but
some of these are damaged too: then C may give anything within its buffers.
"""

import argparse
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.damage import cut_out, flipped, inserted, truncated
from squeeze_jax.compress import rans
from squeeze_jax.convert.c_engine.host import find_compiler

FOLDER = Path(__file__).parents[2] / "squeeze_jax/convert/c_engine/sources"
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
HEAD = struct.Struct("<IIhh")  # bytes of the code, weights, symbols, first
MAIN = r"""
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine.h"

static void *read_block(size_t bytes)
{
    void *block = malloc(bytes);
    if (bytes && fread(block, 1, bytes, stdin) != bytes) exit(2);
    return block;
}

int main(void)
{
    struct { uint32_t bytes, count; int16_t symbols, first; } head;
    while (fread(&head, sizeof head, 1, stdin) == 1) {
        uint8_t *code = read_block(head.bytes);
        uint16_t *table = read_block(2 * (head.symbols + 1u));
        int8_t *weights = malloc(head.count);
        engine_code coded = {code, head.bytes, table, head.symbols, head.first};
        engine_decoder decoder;
        uint32_t half = head.count / 2;
        engine_decode_start(&decoder, &coded);
        engine_decode(&decoder, weights, half);
        engine_decode(&decoder, weights + half, head.count - half);
        fwrite(weights, 1, head.count, stdout);
        free(code), free(table), free(weights);
    }
    return 0;
}
"""


class Case(NamedTuple):
    """A code and what it should give."""

    code: bytes
    table: rans.Table
    count: int
    expected: np.ndarray | None  # None where the table is damaged


def build(folder: Path) -> Path:
    """Compiles the decoder's test program, with the sanitizers if the compiler has them."""
    (folder / "decode.c").write_text(MAIN)
    program = folder / "decode"
    command = [
        str(find_compiler()), "-std=c99", "-O1", "-g", f"-I{FOLDER}", "-o", str(program),
        str(folder / "decode.c"), str(FOLDER / "engine.c"),
    ]  # fmt: skip
    if subprocess.run([*command, *SANITIZERS], capture_output=True).returncode:
        subprocess.run(command, check=True)
    return program


def cases(count: int, seed: int) -> Iterator[Case]:
    """Yields codes: whole, truncated, flipped, cut, extended, noise, none, with damaged tables."""
    random = np.random.default_rng(seed)
    damages = (truncated, flipped, cut_out, inserted)
    for number in range(count):
        size, spread = int(random.integers(1, 400)), random.choice([0.3, 2, 20, 60])
        weights = np.clip(np.round(random.normal(0, spread, size)), -127, 127).astype(np.int8)
        (table,), _ = rans.make_tables([weights])
        code, kind = rans.encode(weights, table), number % 8
        if kind < len(damages):
            code = damages[kind](code, random)
        elif kind == 4:
            code = random.bytes(random.integers(0, 200))
        elif kind == 5:
            code, size = b"", size + 50
        elif kind == 6:
            starts = random.integers(0, 1 << 16, len(table.starts)).astype(np.uint16)
            yield Case(code, rans.Table(int(random.integers(-128, 128)), starts), size, None)
            continue
        yield Case(code, table, size, weights if kind == 7 else rans.decode(code, table, size))


def run(program: Path, tried: list[Case]) -> list[str]:
    """Returns what went wrong."""
    blocks = (
        HEAD.pack(len(case.code), case.count, len(case.table.starts) - 1, case.table.first)
        + case.code
        + case.table.starts.astype("<u2").tobytes()
        for case in tried
    )
    done = subprocess.run([str(program)], input=b"".join(blocks), capture_output=True)
    if done.returncode:
        return [f"the decoder died: {done.stderr.decode()[:2000]}"]
    found, failures = np.frombuffer(done.stdout, np.int8), []
    for number, case in enumerate(tried):
        weights, found = found[: case.count], found[case.count :]
        if case.expected is not None and not np.array_equal(weights, case.expected):
            failures.append(f"case {number}: other weights than Python's")
    return failures


def main() -> int:
    """Runs the fuzzer and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    tried = list(cases(args.count, args.seed))
    with tempfile.TemporaryDirectory() as folder:
        failures = run(build(Path(folder)), tried)
    print(f"{len(tried):,} codes, {len(failures)} failures")
    for failure in failures[:20]:
        print(failure, file=sys.stderr)
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
