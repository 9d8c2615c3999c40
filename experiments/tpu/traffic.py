"""Tells by operation which bytes a compiled program moves through a chip's memory (HBM)."""

import collections
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
# The result's type may be a tuple; the opcode is the first word with a parenthesis after a space.
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\((.*)$")
_ARRAY = re.compile(r"\b(pred|[subf]\w*?\d+\w*)\[([\d,]*)\](\{[^}]*\})?")
_CALLS = re.compile(r"calls=%?([\w.-]+)")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
# They move nothing, or what their -start counts.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"}
_COPIES = {"copy", "transpose", "slice", *_FREE}
# What a fusion does, by the first of these opcodes in it.
_KINDS = {
    "convolution": "convolution",
    "select-and-scatter": "pooling",
    "reduce-window": "pooling",
    "gather": "gather",
    "reduce": "sums",
    "all-reduce": "all-reduce",
}


class Instruction(NamedTuple):
    """One line of optimized HLO; `called` is the computation of a fusion."""

    name: str
    type: str
    opcode: str
    operands: list[str]
    op_name: str
    called: str


class Movement(NamedTuple):
    """What one instruction of the entry computation moves.

    Attributes:
      name: of the instruction.
      part: "forward", "backward", or "rest": the images, the update, the averages.
      kind: convolution, pooling, sums, copy or elementwise.
      positions: height times width of the largest array, as "55x55"; "" of a flat one.
      bytes: read from HBM and written there.
    """

    name: str
    part: str
    kind: str
    positions: str
    bytes: int


def movements(text: str) -> list[Movement]:
    """Returns what each instruction of an optimized HLO module moves, most first.

    An instruction reads its operands and writes its result once each, whole. Arrays in on-chip
    memory, whose layout says S(1), do not count. What loops do inside does not, either.
    """
    computations = _computations(text)
    entry = computations[""]
    types = {instruction.name: instruction.type for instruction in entry}
    found = []
    for instruction in entry:
        if instruction.opcode in _FREE or instruction.opcode.endswith("-done"):
            continue
        arrays = [instruction.type, *(types.get(name, "") for name in instruction.operands)]
        if instruction.opcode.endswith("-start"):
            arrays = [instruction.type]  # holds the operand, too
        body = computations[instruction.called] if instruction.called else [instruction]
        opcodes = {inner.opcode.removesuffix("-start") for inner in body}
        kind = next((name for opcode, name in _KINDS.items() if opcode in opcodes), "")
        if not kind:
            kind = "copy" if opcodes <= _COPIES else "elementwise"
        found.append(
            Movement(
                instruction.name,
                _part(instruction.op_name),
                kind,
                _positions(" ".join(arrays)),
                sum(map(hbm_bytes, arrays)),
            )
        )
    return sorted(found, key=lambda movement: -movement.bytes)


def by_operation(found: list[Movement]) -> dict[tuple[str, str, str], int]:
    """Returns (part, kind, positions) -> bytes, most first."""
    total = collections.Counter()
    for movement in found:
        total[movement[1:4]] += movement.bytes
    return dict(total.most_common())


def hbm_bytes(type_: str) -> int:
    """Returns the bytes of the arrays of an HLO type that lie in HBM."""
    return sum(
        math.prod(shape) * _bits(name) // 8
        for name, shape, layout in _arrays(type_)
        if "S(" not in layout
    )


def _computations(text: str) -> dict[str, list[Instruction]]:
    """Returns the instructions of each computation by its name, those of the entry by ""."""
    computations, current = {}, []
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            current = computations["" if match[1] else match[2]] = []
        elif match := _INSTRUCTION.match(line):
            name, type_, opcode, rest = match.groups()
            op_name, called = _OP_NAME.search(rest), _CALLS.search(rest)
            current.append(
                Instruction(
                    name,
                    type_,
                    opcode,
                    re.findall(r"%([\w.-]+)", rest.partition(")")[0]),
                    op_name[1] if op_name else "",
                    called[1] if called else "",
                )
            )
    return computations


def _arrays(type_: str) -> Iterator[tuple[str, list[int], str]]:
    """Yields the element type, the shape and the layout of each array of an HLO type."""
    for name, shape, layout in _ARRAY.findall(type_):
        yield name, [int(size) for size in shape.split(",") if size], layout


def _bits(name: str) -> int:
    """Returns the bits of an element type such as bf16."""
    return 8 if name == "pred" else int(re.findall(r"\d+", name)[0])


def _part(op_name: str) -> str:
    """Returns which part of a step an operation belongs to."""
    if "transpose(" in op_name:
        return "backward"
    return "forward" if "jvp(" in op_name else "rest"


def _positions(types: str) -> str:
    """Returns "55x55" of the largest array, of the shape [N, H, W, C]; "" of a flat one."""
    largest = max((shape for _, shape, _ in _arrays(types)), key=math.prod, default=[])
    return "x".join(map(str, largest[1:3])) if len(largest) == 4 else ""
