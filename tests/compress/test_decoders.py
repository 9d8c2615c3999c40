"""The decoder in C against the one in Python, on good files and on hostile ones. The long run is experiments/compression/fuzz.py."""

import subprocess

import numpy as np
import pytest

from experiments.compression import fuzz
from squeeze_jax.compress import container
from squeeze_jax.compress.levels import Levels, Uniform

needs_compiler = pytest.mark.skipif(fuzz.compiler() is None, reason="there is no C compiler")


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return fuzz.build(tmp_path_factory.mktemp("c"), "-Wall", "-Wextra", "-Werror")


def weights(net):
    return np.concatenate([leaf.reshape(-1) for leaf in container.paths(net.params, net.stats).values()])


@needs_compiler
def test_c_reads_the_same_weights(program, tmp_path):
    for seed, bits in ((0, 10), (1, 16)):
        net, coded = fuzz.small_net(seed)
        (tmp_path / "net.sqz").write_bytes(container.write(net, coded, bits=bits))
        done = subprocess.run([program, tmp_path / "net.sqz", tmp_path / "weights"], capture_output=True)
        assert (done.returncode, done.stderr) == (0, b"")
        assert (tmp_path / "weights").read_bytes() == weights(net).astype("<f4").tobytes()
        assert subprocess.run([program, tmp_path / "net.sqz", "-"], capture_output=True).stdout == (tmp_path / "weights").read_bytes()


@needs_compiler
def test_c_lists_the_tensors(program, tmp_path):
    net, coded = fuzz.small_net(0)
    (tmp_path / "net.sqz").write_bytes(container.write(net, coded))
    lines = subprocess.run([program, tmp_path / "net.sqz"], capture_output=True, text=True, check=True).stdout.splitlines()
    shapes = {path: [str(axis) for axis in leaf.shape] for path, leaf in container.paths(net.params, net.stats).items()}
    assert {line.split()[0]: line.split()[2:] for line in lines} == shapes


INT8 = """
#include <stdio.h>
#include <stdlib.h>
#include "sqz.h"

int main(int argc, char **argv) {
    static uint8_t data[1 << 20];
    static int8_t levels[1 << 20];
    sqz_file file;
    sqz_tensor tensor;
    float step;
    FILE *in = fopen(argv[argc - 1], "rb");
    if (!in || sqz_open(&file, data, fread(data, 1, sizeof data, in))) return 1;
    if (sqz_start(&file, malloc(sqz_memory(&file)), sqz_memory(&file))) return 2;
    while (sqz_next(&file, &tensor) == SQZ_OK) {
        int status = sqz_int8(&tensor, levels, &step);
        if (status) printf("%s %d\\n", tensor.name, status);
        else for (uint32_t i = 0; i < tensor.size; i++) printf("%s %d %a\\n", tensor.name, levels[i], step);
    }
    return 0;
}
"""


@needs_compiler
def test_c_gives_small_uniform_levels_as_bytes(tmp_path):
    net, coded = fuzz.small_net(0)
    (tmp_path / "net.sqz").write_bytes(container.write(net, coded))
    (tmp_path / "int8.c").write_text(INT8)
    here = fuzz.SOURCES[1].parent
    subprocess.run([fuzz.compiler(), "-I", here, "-o", tmp_path / "int8", tmp_path / "int8.c", here / "sqz.c"], check=True)
    found = subprocess.run([tmp_path / "int8", tmp_path / "net.sqz"], capture_output=True, text=True, check=True).stdout.splitlines()
    expected = []
    for path, tensor in coded.items():
        if isinstance(tensor, Levels) and isinstance(tensor.dequantiser, Uniform):
            expected += [(path, level, tensor.dequantiser.step) for level in tensor.levels.reshape(-1).tolist()]
    assert len(expected) > 100
    assert [(name, int(level), float.fromhex(step)) for name, level, *rest in map(str.split, found) for step in rest] == expected


@needs_compiler
@pytest.mark.parametrize("damage", ["short", "flipped", "huffman", "empty", "missing"])
def test_c_refuses_with_one_line(program, tmp_path, damage):
    net, coded = fuzz.small_net(0)
    data = container.write(net, coded, coder="huffman" if damage == "huffman" else "arithmetic")
    path = tmp_path / "net.sqz"
    if damage != "missing":
        path.write_bytes({"short": data[:-9], "flipped": data[:99] + b"\0\1" + data[101:], "empty": b""}.get(damage, data))
    done = subprocess.run([program, path, tmp_path / "weights"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_a_few_hundred_damaged_files(tmp_path):
    program = fuzz.build(tmp_path, "-DSQZ_FUZZ") if fuzz.compiler() else None
    counts, failures, _ = fuzz.run(360, 1, program)
    assert not failures, failures[0][1]
    assert all(counter["refused"] > 50 for counter in counts.values()) and len(counts) == 4
    assert sum(counter["other weights"] for counter in counts.values()) > 0
