"""Traces a Flax module and makes an ONNX graph of it.

The module's jaxpr is run on symbolic values. What depends on constants alone is computed, every
other equation becomes an operator (onnx_operators.py), and unused values are left out.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from jax.extend import core
from onnx import TensorProto, helper, numpy_helper

from squeeze_jax.convert.exporters.onnx_operators import Constant, Value, convert_equation
from squeeze_jax.cost.dataflow import nested_jaxpr
from squeeze_jax.errors import UserError
from squeeze_jax.models import conv_backend
from squeeze_jax.network import Tree, leaves_by_path

# Primitives that call another jaxpr once. Others that hold one (a scan, a branch) are unknown.
CALLS = ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call", "remat2", "checkpoint")
# Operator -> its name in a layer table; the names of others are lower case.
KINDS = {"MaxPool": "max_pool", "GlobalAveragePool": "mean_pool"}


def trace(
    forward: Callable[[Tree, jax.Array], jax.Array], params: Tree, input_shape: tuple[int, int, int]
) -> list[Value]:
    """Returns the operators of `forward` in order: the input first, the logits last.

    Args:
      forward: (params, images [N, H, W, 3] float32) -> logits [N, classes].
      params: nested dicts of arrays.
      input_shape: height, width, channels.

    Raises:
      UserError: `forward` computes what the export does not know, or returns no logits.
      ValueError: the image is too small for the module.
    """
    images = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    with conv_backend.conv_backend("native"):
        closed = jax.make_jaxpr(forward)(params, images)
    constants = [Constant(np.asarray(leaf), path) for path, leaf in leaves_by_path(params).items()]
    (logits,) = _run(closed, [*constants, Value("Input", (), {}, images.shape)])
    if isinstance(logits, Constant) or len(logits.shape) != 2 or logits.flattened:
        raise UserError("the ONNX export needs a module that makes logits [N, classes] of images")
    live, waiting = {logits}, [logits]
    while waiting:
        new = set(waiting.pop().children) - live
        live |= new
        waiting.extend(new)
    return sorted(live, key=lambda value: value.number)


def _run(closed: core.ClosedJaxpr, inputs: Sequence[Value | Constant]) -> list[Value | Constant]:
    """Runs a jaxpr and the calls nested in it, and returns its outputs."""
    jaxpr = closed.jaxpr
    known = dict(
        zip(
            [*jaxpr.constvars, *jaxpr.invars],
            [*(Constant(np.asarray(const)) for const in closed.consts), *inputs],
            strict=True,
        )
    )

    def read(variable: Any) -> Value | Constant:
        if not isinstance(variable, core.Literal):
            return known[variable]
        aval: Any = variable.aval  # AbstractValue does not declare a dtype
        return Constant(np.asarray(variable.val, aval.dtype))

    for eqn in jaxpr.eqns:
        operands = [read(variable) for variable in eqn.invars]
        if eqn.primitive.name in CALLS and (inner := nested_jaxpr(eqn)) is not None:
            outputs = _run(inner, operands)
        elif any(isinstance(operand, Value) for operand in operands):
            outputs = [convert_equation(eqn, operands)]
        else:
            constants = [operand for operand in operands if isinstance(operand, Constant)]
            outputs = _evaluate(eqn, constants)
        known.update(zip(eqn.outvars, outputs, strict=True))
    return [read(variable) for variable in jaxpr.outvars]


def _evaluate(eqn: Any, operands: Sequence[Constant]) -> list[Constant]:
    """Computes an equation of constants; a cast or reshaped parameter keeps its name."""
    result = eqn.primitive.bind(*(operand.array for operand in operands), **eqn.params)
    path = operands[0].path if len(operands) == 1 else ""
    return [
        Constant(np.asarray(array), path)
        for array in (result if eqn.primitive.multiple_results else [result])
    ]


def make_graph(values: Sequence[Value], batch: int | None) -> onnx.GraphProto:
    """Makes an ONNX graph from "images" [batch, 3, H, W] to "logits" [batch, classes], float32.

    A convolution has its module's name, another operator the name of the module that it follows,
    and a weight its parameter's: "fire2/squeeze", "fire2/squeeze/relu", "fire2/squeeze/kernel".

    Args:
      values: from `trace`.
      batch: images a call; None for any number.
    """
    first, *operators, last = values
    taken = {"images", "logits"}
    names, weights, nodes = {first: "images"}, {}, []
    for value in [*operators, last]:
        name = _unused(_name(value), taken)
        taken.add(name)
        names[value] = "logits" if value is last else name
        inputs = []
        for position, source in enumerate(value.inputs):
            if isinstance(source, Constant):
                weight = source.path or f"{name}/constant{position}"
                if weight not in weights or not np.array_equal(weights[weight], source.array):
                    weight = _unused(weight, taken)
                    weights[weight] = source.array
                    taken.add(weight)
                inputs.append(weight)
            else:
                inputs.append(names[source])
        nodes.append(helper.make_node(value.op, inputs, [names[value]], name, **value.attributes))
    size = batch or "N"
    _, height, width, channels = first.shape
    return helper.make_graph(
        nodes,
        "squeeze_jax",
        [
            helper.make_tensor_value_info(
                "images", TensorProto.FLOAT, [size, channels, height, width]
            )
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [size, last.shape[1]])],
        [
            numpy_helper.from_array(np.ascontiguousarray(array), name)
            for name, array in weights.items()
        ],
    )


def _name(value: Value) -> str:
    if value.op in ("Conv", "Gemm") and value.scope:
        return value.scope
    kind = KINDS.get(value.op, value.op.lower())
    return f"{value.scope}/{kind}" if value.scope else kind


def _unused(name: str, taken: set[str]) -> str:
    """Returns the name, numbered if it is taken; pools count from 1, as in a layer table."""
    candidates = (f"{name}_{number}" for number in itertools.count(2))
    if name == KINDS["MaxPool"]:
        candidates = (f"{name}{number}" for number in itertools.count(1))
    else:
        candidates = itertools.chain([name], candidates)
    return next(candidate for candidate in candidates if candidate not in taken)
