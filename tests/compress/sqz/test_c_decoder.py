"""Compares the decoder in C with the one in Python, on good and on hostile files.

experiments/compression/fuzz.py does so for longer.
"""

import subprocess

import numpy as np
import pytest

from experiments.compression import fuzz
from squeeze_jax.compress.sqz import container, file_format
from squeeze_jax.compress.sqz.quantized_tensor import QuantizedTensor, UniformScale

needs_compiler = pytest.mark.skipif(fuzz.compiler() is None, reason="there is no C compiler")


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return fuzz.build(tmp_path_factory.mktemp("c"), "-Wall", "-Wextra", "-Werror")


@pytest.fixture
def delta(program, tmp_path):
    """The net of a delta, and the arguments with which the program in C reads it."""
    base, coded = fuzz.small_net(0)
    (tmp_path / "old.sqz").write_bytes(container.write(base, coded))
    subprocess.run([program, tmp_path / "old.sqz", tmp_path / "base"], check=True)
    net, data = fuzz.small_delta(1, base, "arithmetic")
    (tmp_path / "delta.sqz").write_bytes(data)
    return net, [program, tmp_path / "delta.sqz", tmp_path / "weights", tmp_path / "base"]


@pytest.mark.slow
@needs_compiler
def test_c_reads_the_same_weights(program, tmp_path):
    for seed, bits in ((0, 10), (1, 16)):
        net, coded = fuzz.small_net(seed)
        (tmp_path / "net.sqz").write_bytes(container.write(net, coded, bits=bits))
        done = subprocess.run(
            [program, tmp_path / "net.sqz", tmp_path / "weights"], capture_output=True
        )
        assert (done.returncode, done.stderr) == (0, b"")
        assert (tmp_path / "weights").read_bytes() == fuzz.weights_of(net).astype("<f4").tobytes()
        assert (
            subprocess.run([program, tmp_path / "net.sqz", "-"], capture_output=True).stdout
            == (tmp_path / "weights").read_bytes()
        )


@needs_compiler
@pytest.mark.parametrize(
    "flags", [[], ["-march=native", "-ffp-contract=fast"]], ids=["as it is", "fused multiply-add"]
)
def test_c_applies_a_delta(delta, tmp_path, flags):
    """In the same bits, even where the compiler may multiply and add at once."""
    net, (program, *arguments) = delta
    if flags:
        program = tmp_path / "fused"
        compiled = subprocess.run(
            [fuzz.compiler(), "-O3", *flags, "-o", program, *fuzz.SOURCES], capture_output=True
        )
        if compiled.returncode:
            pytest.skip("the compiler has no such flags")
    done = subprocess.run([program, *arguments], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert arguments[1].read_bytes() == fuzz.weights_of(net).astype("<f4").tobytes()


@needs_compiler
@pytest.mark.parametrize("base", ["none", "other", "short", "long", "empty", "missing"])
def test_c_takes_no_other_base(delta, base):
    command = delta[1][:3] if base == "none" else delta[1]
    right = command[-1].read_bytes() if base != "none" else b""
    wrong = {
        "other": right[:-1] + b"\x3f",
        "short": right[:-4],
        "long": right + bytes(4),
        "empty": b"",
    }
    if base in wrong:
        command[-1].write_bytes(wrong[base])
    elif base == "missing":
        command[-1].unlink()
    command[2].write_bytes(b"what was there")
    done = subprocess.run(command, capture_output=True, text=True)
    assert command[2].read_bytes() == b"what was there"
    assert (
        done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    )
    assert ("No such file" if base == "missing" else "a delta") in done.stderr


@needs_compiler
def test_c_lists_the_tensors_of_a_delta(delta):
    """Without the base; what stays is one entry."""
    lines = subprocess.run(
        delta[1][:2], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    total = sum(
        int(
            np.prod(
                [
                    int(axis)
                    for axis in line.partition("base" if "added" in line else " ")[2].split()
                    if axis.isdigit()
                ]
            )
        )
        for line in lines
    )
    assert total == len(fuzz.weights_of(delta[0]))
    assert any(" kept " in line for line in lines) and any(
        " added to the base " in line for line in lines
    )


@needs_compiler
def test_c_lists_the_tensors(program, tmp_path):
    net, coded = fuzz.small_net(0)
    (tmp_path / "net.sqz").write_bytes(container.write(net, coded))
    lines = subprocess.run(
        [program, tmp_path / "net.sqz"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    shapes = {
        path: [str(axis) for axis in leaf.shape]
        for path, leaf in container.paths(net.params, net.stats).items()
    }
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
        else for (uint32_t i = 0; i < tensor.size; i++)
            printf("%s %d %a\\n", tensor.name, levels[i], step);
    }
    return 0;
}
"""


@needs_compiler
def test_c_gives_small_uniform_levels_as_bytes(delta, tmp_path):
    """But not of what is the base's, or added to it."""
    net, coded = fuzz.small_net(0)
    (tmp_path / "net.sqz").write_bytes(container.write(net, coded))
    (tmp_path / "int8.c").write_text(INT8)
    here = fuzz.SOURCES[1].parent
    subprocess.run(
        [fuzz.compiler(), "-I", here, "-o", tmp_path / "int8", tmp_path / "int8.c", here / "sqz.c"],
        check=True,
    )
    found = subprocess.run(
        [tmp_path / "int8", tmp_path / "net.sqz"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    expected = []
    for path, tensor in coded.items():
        if isinstance(tensor, QuantizedTensor) and isinstance(tensor.dequantiser, UniformScale):
            expected += [
                (path, level, tensor.dequantiser.step)
                for level in tensor.levels.reshape(-1).tolist()
            ]
    assert len(expected) > 100
    assert [
        (name, int(level), float.fromhex(step))
        for name, level, *rest in map(str.split, found)
        for step in rest
    ] == expected
    found = subprocess.run(
        [tmp_path / "int8", delta[1][1]], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    table = file_format.unpack(delta[1][1].read_bytes()).specs
    based = {path for path, item in table.items() if item.base_offset is not None}
    statuses = dict(line.split() for line in found if len(line.split()) == 2)
    assert based == {path for path, status in statuses.items() if status == "7"} and any(
        table[path].kind == "uniform" for path in based
    )


@needs_compiler
@pytest.mark.parametrize("damage", ["short", "flipped", "huffman", "empty", "missing"])
def test_c_refuses_with_one_line(program, tmp_path, damage):
    net, coded = fuzz.small_net(0)
    data = container.write(net, coded, coder="huffman" if damage == "huffman" else "arithmetic")
    path = tmp_path / "net.sqz"
    if damage != "missing":
        path.write_bytes(
            {"short": data[:-9], "flipped": data[:99] + b"\0\1" + data[101:], "empty": b""}.get(
                damage, data
            )
        )
    done = subprocess.run([program, path, tmp_path / "weights"], capture_output=True, text=True)
    assert (
        done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    )


@pytest.mark.slow
def test_a_few_hundred_damaged_files(tmp_path):
    program = fuzz.build(tmp_path, "-DSQZ_FUZZ") if fuzz.compiler() else None
    counts, failures, _ = fuzz.run(720, 1, program)
    assert not failures, failures[0][1]
    assert all(counter["refused"] > 50 for counter in counts.values()) and len(counts) == 8
    assert sum(counter["other weights"] for counter in counts.values()) > 0
