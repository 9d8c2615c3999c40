"""Rewrites a graph so that each convolution can finish its channels by itself.

What follows a join of channels is done in each part: a pool of a join is a join of pools, and a sum
with a join is a join of sums. Each number stays what it was.
"""

from dataclasses import replace

from squeeze_jax.cost.engine.graph import Graph, Operator

_BY_CHANNEL = ("max_pool", "mean", "add")


def push_joins_down(graph: Graph) -> Graph:
    """Returns the graph with joins after the pools, means and sums that follow them.

    A join is moved where convolutions alone are joined, and nothing else reads them or the join.
    """
    while (index := _find_join(graph)) is not None:
        graph = _exchange(graph, index)
    return graph


def copy_shared_parts(graph: Graph) -> Graph:
    """Returns the graph with a copy, a subsample of stride 1, of joined tensors read elsewhere.

    Every part of a join then belongs to the join alone, and can be written into its slice.
    """
    readers, operators, position = graph.consumers(), list[Operator](), list[int]()
    for operator in graph.operators:
        inputs = []
        for source in operator.inputs:
            inputs.append(position[source])
            before = graph.operators[source]
            if operator.kind == "concat" and (
                before.kind in ("input", "concat") or len(readers[source]) > 1
            ):
                operators.append(
                    Operator(
                        "subsample", (position[source],), before.shape, "copy", scale=before.scale
                    )
                )
                inputs[-1] = len(operators) - 1
        position.append(len(operators))
        operators.append(replace(operator, inputs=tuple(inputs)))
    return Graph(tuple(operators))


def _find_join(graph: Graph) -> int | None:
    """Returns a reader of a join that can be exchanged with it."""
    readers = graph.consumers()
    for index, operator in enumerate(graph.operators):
        if operator.kind not in _BY_CHANNEL:
            continue
        join = next((i for i in operator.inputs if graph.operators[i].kind == "concat"), None)
        if (
            join is not None
            and len(readers[join]) == 1
            and operator.inputs.count(join) == 1
            and all(
                graph.operators[i].kind in ("conv", "add", "max_pool") and len(readers[i]) == 1
                for i in graph.operators[join].inputs
            )
        ):
            return index
    return None


def _exchange(graph: Graph, index: int) -> Graph:
    """Returns the graph with one reader of a join done in each of its parts.

    The join's place is taken by the first part, the reader's by the other parts and the join.
    """
    reader = graph.operators[index]
    join = next(i for i in reader.inputs if graph.operators[i].kind == "concat")
    parts = graph.operators[join].inputs
    beside = tuple(i for i in reader.inputs if i != join)
    operators, position = list[Operator](), list[int]()
    for number, operator in enumerate(graph.operators):
        if number == join:
            position.append(-1)
            continue
        if number == index:
            made, offset = [], reader.offset
            for part in parts:
                depth = graph.operators[part].shape[2]
                inputs = tuple(position[i] for i in (part, *beside))
                made.append(len(operators))
                operators.append(
                    replace(
                        reader,
                        inputs=inputs,
                        shape=(*reader.shape[:2], depth),
                        offset=offset if beside else 0,
                    )
                )
                offset += depth
            position.append(len(operators))
            operators.append(
                Operator("concat", tuple(made), reader.shape, "concat", scale=reader.scale)
            )
            continue
        position.append(len(operators))
        operators.append(replace(operator, inputs=tuple(position[i] for i in operator.inputs)))
    return Graph(tuple(operators))
