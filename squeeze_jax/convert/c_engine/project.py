"""Writes a network of integers as a project in C: constants, steps, two test images, a Makefile."""

import io
import json
import re
import zipfile
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Any

import numpy as np

from squeeze_jax.compress import rans
from squeeze_jax.convert.c_engine import reference
from squeeze_jax.convert.c_engine.fixed_point import Factor
from squeeze_jax.convert.c_engine.integer_net import IntegerNet, Scale
from squeeze_jax.cost.engine import Operator, Plan, Step, is_padded
from squeeze_jax.network import Network

SOURCES = (
    "engine.h",
    "engine.c",
    "test.c",
    "board.h",
    "board.c",
    "sections.ld",
    "cortex-m4.ld",
    "cortex-m55.ld",
    "Makefile",
)
# Type of an array in C -> bytes of an element.
TYPES = {"int8_t": 1, "uint8_t": 1, "uint16_t": 2, "int32_t": 4}
NUMBERS_A_LINE = 16
POOLS = {"max_pool": "ENGINE_MAX_POOL", "mean": "ENGINE_MEAN"}


def write(network: Network, net: IntegerNet, plan: Plan, images: np.ndarray) -> bytes:
    """Returns the project's files in a zip archive.

    Weights are coded if the plan has room to decode them.

    Args:
      network: what `net` was made of; its metadata travel in net.json.
      net: the network in integers.
      plan: of the network's graph.
      images: the test's, int8 [N, H, W, C].
    """
    outputs = np.stack([reference.run(net, image) for image in images])
    constants = _Constants()
    writer = _Writer(net, plan, constants)
    steps = [writer.step(number) for number in range(len(plan.steps))]
    metadata = network.metadata() | {
        "engine": {
            "input": net.input_scale._asdict(),
            "output": net.output_scale._asdict(),
            "ram_bytes": plan.ram_bytes,
            "constant_bytes": constants.size,
        }
    }
    content = {
        **{name: _source(name) for name in SOURCES},
        "net.h": _net_h(network, net, plan),
        "net.c": _net_c(plan, steps),
        "weights.h": constants.header(),
        "weights.c": constants.source(),
        "images.h": _images_h(images, outputs),
        "net.json": json.dumps(metadata, indent=1),
    }
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in content.items():
            # A ZipInfo of our own has a fixed date: equal networks give equal files.
            archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)
    return file.getvalue()


def _source(name: str) -> str:
    """Returns a file of the engine's source."""
    return files("squeeze_jax.convert.c_engine").joinpath("sources", name).read_text()


class _Constants:
    """Collects the arrays of weights.c."""

    def __init__(self) -> None:
        self._arrays: dict[str, tuple[str, np.ndarray]] = {}

    def add(self, name: str, values: Any, kind: str) -> str:
        """Adds an array and returns its name.

        Args:
          name: of any characters.
          values: integers.
          kind: their type in C.
        """
        identifier = re.sub(r"\W", "_", name)
        self._arrays[identifier] = (kind, np.asarray(values).reshape(-1))
        return identifier

    @property
    def size(self) -> int:
        """Returns the bytes of the arrays."""
        return sum(TYPES[kind] * len(values) for kind, values in self._arrays.values())

    def header(self) -> str:
        """Returns weights.h."""
        lines = (
            f"extern const {kind} {name}[{len(values)}];"
            for name, (kind, values) in self._arrays.items()
        )
        return _guarded("WEIGHTS_H", "#include <stdint.h>\n\n" + "\n".join(lines))

    def source(self) -> str:
        """Returns weights.c."""
        arrays = (
            f"const {kind} {name}[{len(values)}] = {{\n{_numbers(values)}\n}};\n"
            for name, (kind, values) in self._arrays.items()
        )
        return '#include "weights.h"\n\n' + "\n".join(arrays)


class _Writer:
    """Writes the steps of a plan, and the constants that they name."""

    def __init__(self, net: IntegerNet, plan: Plan, constants: _Constants):
        self._net, self._plan, self._constants = net, plan, constants
        self._tables, self._choice = dict[str, rans.Table](), dict[str, str]()
        if plan.coded:
            weights = [conv.weights for conv in net.convolutions.values()]
            tables, choice = rans.make_tables(weights)
            for number, table in enumerate(tables):
                self._tables[constants.add(f"table{number}", table.starts, "uint16_t")] = table
            names = list(self._tables)
            for kernel, number in zip(net.convolutions, choice, strict=True):
                self._choice[kernel] = names[number]

    def step(self, number: int) -> tuple[str, str]:
        """Returns the definitions and the call of a step."""
        step = self._plan.steps[number]
        operators = [self._plan.graph.operators[index] for index in step.operators]
        first = operators[0]
        match first.kind:
            case "conv":
                return self._convolution(number, step, operators)
            case "add":
                sources = [self._plan.graph.operators[index] for index in first.inputs]
                name = f"sum{number}"
                second = self._at(step.beside)
                call = (
                    f"engine_run_sum(&{name}, {self._at(step.reads)}, {step.reads.pitch}, "
                    f"{second} + {first.offset}, {self._at(step.writes)}, {step.writes.pitch}, "
                    f"{first.shape[0] * first.shape[1]}, {first.shape[2]});"
                )
                return self._sum(name, first, sources, step), call
            case "subsample":
                source = self._source(first)
                numbers = ", ".join(
                    map(str, (*first.shape[:2], step.writes.pitch, first.shape[2], *first.stride))
                )
                call = (
                    f"engine_run_subsample({self._at(step.reads)}, {source.shape[1]}, "
                    f"{step.reads.pitch}, {self._at(step.writes)}, {numbers});"
                )
                return "", call
            case _:
                source, name = self._source(first), f"pool{number}"
                call = (
                    f"engine_run_pool(&{name}, {self._at(step.reads)}, {source.shape[0]}, "
                    f"{source.shape[1]}, {step.reads.pitch}, {self._at(step.writes)}, "
                    f"{step.writes.pitch}, {first.shape[2]});"
                )
                return self._pool(name, first), call

    def _convolution(
        self, number: int, step: Step, operators: Sequence[Operator]
    ) -> tuple[str, str]:
        conv, source = operators[0], self._source(operators[0])
        numbers, before = self._net.convolutions[conv.kernel], self._net.scale(source)
        definitions, pointers = "", {"sum": "0", "pool": "0"}
        for operator in operators[1:]:
            if operator.kind == "add":
                sources = [self._plan.graph.operators[i] for i in operator.inputs]
                if operator.inputs[0] != step.operators[0]:
                    sources.reverse()
                definitions += self._sum(f"sum{number}", operator, sources, step)
                pointers["sum"] = f"&sum{number}"
            else:
                definitions += self._pool(f"pool{number}", operator)
                pointers["pool"] = f"&pool{number}"
        coding = {"weights": "0", "code": "0"}
        if self._plan.coded:
            definitions += self._code(f"code{number}", conv, numbers.weights)
            coding["code"] = f"&code{number}"
        else:
            coding["weights"] = self._constants.add(
                f"{conv.name}_weights", numbers.weights, "int8_t"
            )
        bias = numbers.bias - before.zero * numbers.weights.sum(axis=(1, 2, 3), dtype=np.int64)
        add, name = self._constants.add, f"conv{number}"
        after = self._net.scale(conv)
        fields = {
            **coding,
            "bias": add(f"{conv.name}_bias", bias, "int32_t"),
            "multiplier": add(f"{conv.name}_multiplier", numbers.factor.multiplier, "int32_t"),
            "shift": add(f"{conv.name}_shift", numbers.factor.shift, "int8_t"),
            **pointers,
            "in_rows": source.shape[0],
            "in_columns": source.shape[1],
            "in_pitch": step.reads.pitch,
            "rows": conv.shape[0],
            "columns": conv.shape[1],
            "outputs": conv.shape[2],
            "out_pitch": step.writes.pitch,
            "depth": source.shape[2] // conv.groups,
            "groups": conv.groups,
            **_window(conv),
            "padded": int(is_padded(conv)),
            "in_zero": before.zero,
            "zero": after.zero,
            "least": _least(conv, after),
        }
        beside = "0"
        if step.beside is not None:
            offset = next(op.offset for op in operators if op.kind == "add")
            beside = f"{self._at(step.beside)} + {offset}"
        scratch = "0" if step.scratch < 0 else f"arena + {self._plan.arena.offsets[step.scratch]}"
        call = (
            f"engine_run_conv(&{name}, {self._at(step.reads)}, {self._at(step.writes)}, "
            f"{beside}, {scratch}); /* {', '.join(op.name for op in operators)} */"
        )
        return definitions + _struct("engine_conv", name, fields), call

    def _code(self, name: str, conv: Operator, weights: np.ndarray) -> str:
        table_name = self._choice[conv.kernel]
        table = self._tables[table_name]
        code = np.frombuffer(rans.encode(weights, table), np.uint8)
        fields = {
            "code": self._constants.add(f"{conv.name}_code", code, "uint8_t"),
            "bytes": len(code),
            "table": table_name,
            "symbols": len(table.starts) - 1,
            "first": table.first,
        }
        return _struct("engine_code", name, fields)

    def _sum(self, name: str, operator: Operator, sources: Sequence[Operator], step: Step) -> str:
        factors, (first, second) = self._net.sum(sources[0], sources[1], operator), sources
        after = self._net.scale(operator)
        assert step.beside is not None
        return _struct(
            "engine_sum",
            name,
            {
                "first": _factor(factors.first),
                "second": _factor(factors.second),
                "result": _factor(factors.result),
                "first_zero": self._net.scale(first).zero,
                "second_zero": self._net.scale(second).zero,
                "zero": after.zero,
                "least": _least(operator, after),
                "pitch": step.beside.pitch,
            },
        )

    def _pool(self, name: str, operator: Operator) -> str:
        source, after = self._source(operator), self._net.scale(operator)
        fields: dict[str, Any] = {"kind": POOLS[operator.kind]}
        if operator.kind == "max_pool":
            fields |= {**_window(operator), "rows": operator.shape[0], "columns": operator.shape[1]}
        else:
            fields |= {
                "source_zero": self._net.scale(source).zero,
                "zero": after.zero,
                "least": -128,
                "factor": _factor(self._net.mean(source, operator)),
            }
        return _struct("engine_pool", name, fields)

    def _source(self, operator: Operator) -> Operator:
        return self._plan.graph.operators[operator.inputs[0]]

    def _at(self, where: Any) -> str:
        """Returns a pointer to a slice's first pixel."""
        if where.buffer == -1:
            return f"out + {where.offset}" if where.offset else "out"
        if where.buffer == 0:
            return "in"
        return f"arena + {self._plan.arena.offsets[where.buffer] + where.offset}"


def _window(operator: Operator) -> dict[str, int]:
    return {
        "height": operator.window[0],
        "width": operator.window[1],
        "stride_y": operator.stride[0],
        "stride_x": operator.stride[1],
        "top": operator.padding[0][0],
        "left": operator.padding[1][0],
    }


def _least(operator: Operator, after: Scale) -> int:
    return after.zero if operator.relu else -128


def _factor(factor: Factor) -> str:
    return f"{{{int(factor.multiplier)}, {int(factor.shift)}}}"


def _struct(kind: str, name: str, fields: dict[str, Any]) -> str:
    lines = ",\n".join(f"    .{field} = {value}" for field, value in fields.items())
    return f"static const {kind} {name} = {{\n{lines},\n}};\n\n"


def _numbers(values: np.ndarray) -> str:
    """Returns numbers separated by commas, some to a line."""
    texts = list(map(str, values.tolist()))
    return ",\n".join(
        "    " + ", ".join(texts[start : start + NUMBERS_A_LINE])
        for start in range(0, len(texts), NUMBERS_A_LINE)
    )


def _guarded(name: str, content: str) -> str:
    return f"#ifndef {name}\n#define {name}\n\n{content}\n\n#endif\n"


def _net_h(network: Network, net: IntegerNet, plan: Plan) -> str:
    height, width, channels = plan.graph.operators[0].shape
    preprocessing = network.preprocessing
    source, result = net.input_scale, net.output_scale
    return _guarded(
        "NET_H",
        f"""/* {network.model["name"]}: {len(network.class_names)} classes, written by squeeze_jax.
 *
 * The input is [{height}][{width}][{channels}] of int8, channels {preprocessing.channel_order}:
 * round((pixel - mean) / std / {source.step:.9g}) {source.zero:+d}, between -128 and 127, with
 * pixel in 0..255, mean {list(preprocessing.mean)} and std {list(preprocessing.std)}.
 * An output stands for the logit (output {-result.zero:+d}) * {result.step:.9g}. */
#include <stdint.h>

#define NET_HEIGHT {height}
#define NET_WIDTH {width}
#define NET_CHANNELS {channels}
#define NET_INPUT_BYTES {height * width * channels}
#define NET_CLASSES {plan.graph.operators[-1].size}
#define NET_ARENA_BYTES {plan.arena.size}

/* Returns the place in the arena where an input may be written without a buffer of its own. */
int8_t *net_input(void);

/* Classifies an image, which may lie at net_input(): then it is overwritten. Returns 0. */
int net_run(const int8_t *in, int8_t *out);""",
    )


def _net_c(plan: Plan, steps: Iterable[tuple[str, str]]) -> str:
    definitions, calls = zip(*steps, strict=True)
    body = "\n".join(f"    {call}" for call in calls)
    return f"""#include "net.h"

#include "engine.h"
#include "weights.h"

static union {{
    int8_t bytes[NET_ARENA_BYTES];
    int32_t aligned;
}} memory;
#define arena memory.bytes

{"".join(definitions)}int8_t *net_input(void)
{{
    return arena + {plan.arena.offsets[0]};
}}

int net_run(const int8_t *in, int8_t *out)
{{
{body}
    return 0;
}}
"""


def _images_h(images: np.ndarray, outputs: np.ndarray) -> str:
    def rows(values: np.ndarray) -> str:
        return ",\n".join("{\n" + _numbers(each.reshape(-1)) + "\n}" for each in values)

    return _guarded(
        "IMAGES_H",
        f"""#include <stdint.h>

#include "net.h"

#define NET_IMAGES {len(images)}

static const int8_t net_images[NET_IMAGES][NET_INPUT_BYTES] = {{
{rows(images)}
}};
static const int8_t net_outputs[NET_IMAGES][NET_CLASSES] = {{
{rows(outputs)}
}};""",
    )
