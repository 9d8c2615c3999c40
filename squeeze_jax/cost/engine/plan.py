"""Plans a network's run on a device: the steps, and where each tensor lies in one arena.

A step is a convolution with the sum, the max pool or the mean that follows it, for a block of
output channels at a time. So a pool holds as many rows of BLOCK channels as its window has, a mean
holds BLOCK sums, and coded weights are decoded for BLOCK outputs at a time. Joined tensors are
written into their slices, and a sum takes the place of the tensor that is added where nothing else
needs it.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from squeeze_jax.cost.arena import Arena, Buffer, place
from squeeze_jax.cost.engine.fusion import copy_shared_parts, push_joins_down
from squeeze_jax.cost.engine.graph import Graph, Operator

BLOCK = 4  # output channels; also in convert/c_engine/sources/engine.h
SUM_BYTES = 4


class Slice(NamedTuple):
    """Says where a tensor lies: in some channels of a buffer."""

    buffer: int  # index of `Plan.buffers`; of no buffer, -1, are the logits
    offset: int  # channels before it
    pitch: int  # channels of a pixel of the buffer


class Step(NamedTuple):
    """A few operators that run at once.

    Attributes:
      operators: indices, each reading the one before.
      reads: where the first operator's input lies.
      beside: where the tensor that is added lies, if one is.
      writes: where the output lies.
      scratch: the buffer of the weights and of the pool's rows; -1 for none.
    """

    operators: tuple[int, ...]
    reads: Slice
    beside: Slice | None
    writes: Slice
    scratch: int


class Plan(NamedTuple):
    """Holds the steps in order and the arena; the input is buffer 0."""

    graph: Graph
    steps: tuple[Step, ...]
    buffers: tuple[Buffer, ...]
    arena: Arena
    coded: bool  # whether weights are decoded into the scratch of each step

    @property
    def ram_bytes(self) -> int:
        """Returns the bytes of the arena, which holds the input, and of the logits."""
        return self.arena.size + self.graph.operators[-1].size


def make_plan(graph: Graph, coded: bool = True) -> Plan:
    """Plans a graph.

    Args:
      graph: from `graph.trace`.
      coded: whether weights are entropy-coded, and decoded into RAM.
    """
    graph = copy_shared_parts(push_joins_down(graph))
    chains = _find_chains(graph)
    number = {chain[-1]: index for index, chain in enumerate(chains)}  # step that makes a tensor
    slices = _find_slices(graph, number)
    roots = _merge_sums(graph, chains, slices)
    lifetimes: dict[int, list[int]] = {0: [0]}
    for index, chain in enumerate(chains):
        for tensor in (chain[-1], *_sources(graph, chain)):
            lifetimes.setdefault(roots[slices[tensor][0]], []).append(index)
    logits = roots[slices[len(graph.operators) - 1][0]]
    buffers, position = list[Buffer](), {logits: -1}
    for root, used in lifetimes.items():
        if root != logits:
            position[root] = len(buffers)
            buffers.append(Buffer(graph.operators[root].size, min(used), max(used)))

    def locate(tensor: int) -> Slice:
        root, offset = slices[tensor]
        return Slice(position[roots[root]], offset, graph.operators[root].shape[2])

    steps = []
    for index, chain in enumerate(chains):
        scratch = scratch_bytes([graph.operators[i] for i in chain], graph, coded)
        source, *beside = _sources(graph, chain)
        steps.append(
            Step(
                chain,
                locate(source),
                locate(beside[0]) if beside else None,
                locate(chain[-1]),
                len(buffers) if scratch else -1,
            )
        )
        if scratch:
            buffers.append(Buffer(scratch, index, index))
    return Plan(graph, tuple(steps), tuple(buffers), place(buffers), coded)


def weights_per_output(operator: Operator, graph: Graph) -> int:
    """Returns the number of weights of one output channel of a convolution."""
    depth = graph.operators[operator.inputs[0]].shape[2] // operator.groups
    return math.prod(operator.window) * depth


def scratch_bytes(chain: Sequence[Operator], graph: Graph, coded: bool) -> int:
    """Returns the bytes that a step needs besides its tensors.

    They hold the sums of the weights of each tap, if the input is padded; the decoded weights; and
    the rows of a pool.
    """
    conv = chain[0]
    if conv.kind != "conv":
        return 0
    taps = BLOCK * SUM_BYTES * math.prod(conv.window) if is_padded(conv) else 0
    weights = BLOCK * weights_per_output(conv, graph) if coded else 0
    rows = [op.window[0] * conv.shape[1] * BLOCK for op in chain if op.kind == "max_pool"]
    return taps + weights + sum(rows)


def is_padded(conv: Operator) -> bool:
    """Returns whether a window of a convolution may reach over an edge of its input."""
    return any(map(any, conv.padding))


def _find_chains(graph: Graph) -> list[tuple[int, ...]]:
    """Returns the operators of each step, in order; a join takes no step."""
    readers, taken, chains = graph.consumers(), set[int](), []
    for index, operator in enumerate(graph.operators):
        if operator.kind in ("input", "concat") or index in taken:
            continue
        chain = [index]
        while operator.kind == "conv" and len(readers[chain[-1]]) == 1:
            (reader,) = readers[chain[-1]]
            follower = graph.operators[reader]
            kinds = [graph.operators[i].kind for i in chain]
            if follower.kind == "add" and kinds == ["conv"]:
                other = next(iter(i for i in follower.inputs if i != index), index)
                swapped = follower.inputs[0] != index and follower.offset
                if other >= index or swapped:
                    break
            elif follower.kind not in ("max_pool", "mean") or {"max_pool", "mean"} & {*kinds}:
                break
            chain.append(reader)
        taken.update(chain)
        chains.append(tuple(chain))
    return chains


def _sources(graph: Graph, chain: Sequence[int]) -> list[int]:
    """Returns the tensors that a step reads: its first operator's, then the one that is added."""
    found = list(graph.operators[chain[0]].inputs)
    for before, index in zip(chain, chain[1:], strict=False):
        found += [i for i in graph.operators[index].inputs if i != before]
    return found


def _find_slices(graph: Graph, made: dict[int, int]) -> dict[int, tuple[int, int]]:
    """Returns the buffer, named by its tensor, and the first channel of each tensor."""
    slices = {0: (0, 0)} | {index: (index, 0) for index in made}
    for index, operator in enumerate(graph.operators):
        if operator.kind == "concat":
            slices[index], offset = (index, 0), 0
            for source in operator.inputs:
                slices[source] = (index, offset)
                offset += graph.operators[source].shape[2]
    return slices


def _merge_sums(
    graph: Graph, chains: Sequence[tuple[int, ...]], slices: dict[int, tuple[int, int]]
) -> dict[int, int]:
    """Returns the buffer that takes the place of each: a sum's, that of what is added."""
    roots = {root: root for root, _ in slices.values()}
    last = slices[len(graph.operators) - 1][0]
    written: dict[int, list[int]] = {}  # buffer -> steps that write it
    for number, chain in enumerate(chains):
        written.setdefault(slices[chain[-1]][0], []).append(number)
    for root, numbers in written.items():
        if root == last or any(graph.operators[chains[n][-1]].kind != "add" for n in numbers):
            continue
        others = {_added(graph, chains[n]) for n in numbers}
        if len(others) > 1 or (other := others.pop()) is None or other == 0:
            continue
        base, first = slices[other]
        fits = (
            first == 0
            and graph.operators[base].shape == graph.operators[root].shape
            and graph.operators[other].shape == graph.operators[root].shape
            and all(
                graph.operators[chains[n][-1]].offset == slices[chains[n][-1]][1] for n in numbers
            )
        )
        reads = [
            (n, tensor)
            for n, chain in enumerate(chains)
            for place, tensor in enumerate(_sources(graph, chain))
            if slices[tensor][0] == base and not (n in numbers and place == 1)
        ]
        if fits and all(n < min(numbers) for n, _ in reads):
            roots[root] = roots[base]
    return {root: _follow(roots, root) for root in roots}


def _added(graph: Graph, chain: Sequence[int]) -> int | None:
    """Returns the tensor that a step adds."""
    sources = _sources(graph, chain)
    return sources[1] if len(sources) == 2 else None


def _follow(roots: dict[int, int], root: int) -> int:
    while roots[root] != root:
        root = roots[root]
    return root
