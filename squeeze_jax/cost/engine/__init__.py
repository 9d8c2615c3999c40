"""The C engine's plan of a network, and so the RAM that it takes, before anything is trained."""

from flax import nnx

from squeeze_jax.cost.engine.graph import Graph, Operator, Shape, design_graph, trace
from squeeze_jax.cost.engine.plan import Plan, Step, is_padded, make_plan

__all__ = [
    "Graph",
    "Operator",
    "Plan",
    "Step",
    "design_graph",
    "is_padded",
    "make_plan",
    "ram_bytes",
    "trace",
]


def ram_bytes(module: nnx.Module, input_shape: Shape, coded: bool = True) -> int:
    """Returns the bytes that the C engine needs for a design point, besides its stack.

    Args:
      module: its values are not read, and may be shapes alone, as of `nnx.eval_shape`.
      input_shape: height, width and channels of one image.
      coded: whether weights are entropy-coded, and decoded into RAM.

    Raises:
      UserError: the engine lacks an operator of the module.
    """
    return make_plan(design_graph(module, input_shape), coded).ram_bytes
