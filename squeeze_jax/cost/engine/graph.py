"""Reads a network's operators, as a device computes them, from its jaxpr.

An operator maps [H, W, C] to [H', W', C'] for one image. ReLU is part of the operator before it, a
dense layer is a convolution, and BatchNorm has been folded. Parameters are named by path and not
read, so that the graph of a design point needs no weights.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.extend import core

from squeeze_jax.cost.dataflow import nested_jaxpr
from squeeze_jax.errors import UserError
from squeeze_jax.models import conv_backend, layers
from squeeze_jax.network import Tree, leaves_by_path, split_model
from squeeze_jax.network.paths import layer_name

Padding = tuple[tuple[int, int], tuple[int, int]]  # before and after, of the height and the width
Shape = tuple[int, int, int]  # height, width, channels

_NHWC, _HWIO = (0, 3, 1, 2), (3, 2, 0, 1)  # the specs of dimensions in these orders
_SHAPES = ("reshape", "squeeze", "expand_dims", "broadcast_in_dim", "convert_element_type", "copy")


@dataclass(frozen=True)
class Operator:
    """One operator; `Graph.operators` holds it at the index by which others name it.

    Attributes:
      kind: input, conv, add, max_pool, mean, concat (of channels) or subsample.
      inputs: indices of the operators that it reads.
      shape: of its output.
      name: the layer's path, or the kind.
      relu: whether negative outputs become 0; of conv and add.
      kernel: path of the kernel; of conv.
      bias: path of the bias, or "".
      window: height and width of the kernel or the pool's window.
      stride: of the window, or of a subsample.
      padding: of the input.
      groups: of channels; of conv.
      offset: first channel of the second input that is read; of add.
      scale: index of the tensor whose quantization the output has: those that are joined, pooled
        or subsampled share it.
    """

    kind: str
    inputs: tuple[int, ...]
    shape: Shape
    name: str = ""
    relu: bool = False
    kernel: str = ""
    bias: str = ""
    window: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: Padding = ((0, 0), (0, 0))
    groups: int = 1
    offset: int = 0
    scale: int = -1

    @property
    def size(self) -> int:
        """Returns the number of values, and of bytes in int8, of the output."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Graph:
    """Holds operators in order of execution: the input first, the logits last."""

    operators: tuple[Operator, ...]

    def consumers(self) -> list[list[int]]:
        """Returns the operators that read each operator."""
        readers: list[list[int]] = [[] for _ in self.operators]
        for index, operator in enumerate(self.operators):
            for source in operator.inputs:
                readers[source].append(index)
        return readers


@dataclass(frozen=True)
class _Parameter:
    path: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class _Flat:
    """An operator's output reshaped to [1, H * W * C]."""

    source: int


@dataclass(frozen=True)
class _Sum:
    """The sum of an operator's output over its positions, [1, C]."""

    source: int


def design_graph(module: nnx.Module, input_shape: Shape) -> Graph:
    """Returns the graph of a module of this package as it is after BatchNorm is folded.

    Args:
      module: its values are not read, and may be shapes alone, as of `nnx.eval_shape`.
      input_shape: height, width and channels of one image.

    Raises:
      UserError: the engine lacks an operator of the module.
    """
    folded = nnx.clone(module)
    for _, node in nnx.iter_graph(folded):
        if isinstance(node, layers.Conv) and hasattr(node, "bn"):
            filters = node.kernel.get_value().shape[-1]
            bias: Any = nnx.Param(jax.ShapeDtypeStruct((filters,), jnp.float32))
            node.bias = bias
            del node.bn
    graphdef, params, _ = split_model(folded)
    return trace(graphdef, params, input_shape)


def trace(graphdef: nnx.GraphDef, params: Tree, input_shape: Shape) -> Graph:
    """Returns the graph of a module without BatchNorm.

    Args:
      graphdef: its static graph.
      params: nested dicts of arrays, or of their shapes and types.
      input_shape: height, width and channels of one image.

    Raises:
      UserError: the engine lacks an operator of the module.
    """
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), params)

    def forward(params: Tree, images: jax.Array) -> jax.Array:
        return nnx.merge(graphdef, params)(images)

    images = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    parameters = [_Parameter(path, leaf.shape) for path, leaf in leaves_by_path(shapes).items()]
    with conv_backend.conv_backend("native"):
        closed = jax.make_jaxpr(forward)(shapes, images)
    builder = _Builder([Operator("input", (), input_shape, "input")])
    (logits,) = builder.run(closed, [*parameters, 0])
    if logits != len(builder.operators) - 1:
        raise UserError("the C engine needs a module that makes logits [N, classes] of images")
    return _join_scales(_fuse_relu(Graph(tuple(builder.operators))))


class _Builder:
    """Runs a jaxpr on symbolic values: an operator's index, a parameter, or a known array."""

    def __init__(self, operators: list[Operator]):
        self.operators = operators

    def run(self, closed: core.ClosedJaxpr, inputs: Sequence[Any]) -> list[Any]:
        """Adds the operators of a jaxpr and returns its outputs."""
        jaxpr = closed.jaxpr
        known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*closed.consts, *inputs], strict=True))

        def read(variable: Any) -> Any:
            return variable.val if isinstance(variable, core.Literal) else known[variable]

        for eqn in jaxpr.eqns:
            operands = [read(variable) for variable in eqn.invars]
            if (inner := nested_jaxpr(eqn)) is not None:
                outputs = self.run(inner, operands)
            else:
                outputs = [self._convert(eqn, operands)]
            known.update(zip(eqn.outvars, outputs, strict=True))
        return [read(variable) for variable in jaxpr.outvars]

    def _convert(self, eqn: Any, operands: list[Any]) -> Any:
        """Returns the value of one equation.

        Raises:
          UserError: the engine lacks it.
        """
        name, params, shape = eqn.primitive.name, eqn.params, eqn.outvars[0].aval.shape
        found: Any = None
        x: Any = operands[0] if operands else None
        if name == "add_any":
            name = "add"
        match name, operands:
            case "conv_general_dilated", [int(), _Parameter()]:
                found = self._convolution(x, operands[1], params, shape)
            case "dot_general", [int() | _Flat(), _Parameter()]:
                found = self._product(x, operands[1], params, shape)
            case "reduce_window_max", [int()]:
                found = self._max_pool(x, params, shape)
            case "reduce_sum", [int()] if tuple(params["axes"]) == (1, 2):
                found = _Sum(x)
            case "div", [_Sum(source), y] if _is(y, math.prod(self.operators[source].shape[:2])):
                found = self._add("mean", (source,), (1, 1, shape[-1]))
            case "mul", [_Sum(source), y] if _is(
                y, np.float32(1 / math.prod(self.operators[source].shape[:2]))
            ):
                found = self._add("mean", (source,), (1, 1, shape[-1]))
            case "concatenate", _ if params["dimension"] == 3 and _all_operators(operands):
                found = self._add("concat", tuple(operands), shape[1:])
            case "slice", [int()]:
                found = self._subsample(x, params, shape)
            case ("add", [int(), _Parameter()]) | ("add", [_Parameter(), int()]):
                source, bias = sorted(operands, key=lambda each: isinstance(each, _Parameter))
                found = self._biased(source, bias.path)
            case "add", [int(), int()] if len({self.operators[i].shape for i in operands}) == 1:
                found = self._add("add", tuple(operands), self.operators[x].shape)
            case ("max", [int(), y]) | ("max", [y, int()]) if _is(y, 0):
                source = next(each for each in operands if isinstance(each, int))
                found = self._add("relu", (source,), self.operators[source].shape)
            case _ if name in _SHAPES:
                found = self._reshaped(x, shape)
            case _ if not any(isinstance(each, int | _Flat | _Sum) for each in operands):
                found = eqn.primitive.bind(*operands, **params)
        if found is None:
            raise UserError(f"the C engine has no {name} as this model uses it")
        return found

    def _add(self, kind: str, inputs: tuple[int, ...], shape: Sequence[int], **more: Any) -> int:
        height, width, channels = shape
        self.operators.append(
            Operator(kind, inputs, (height, width, channels), more.pop("name", kind), **more)
        )
        return len(self.operators) - 1

    def _convolution(
        self, x: int, kernel: _Parameter, params: Any, shape: Sequence[int]
    ) -> int | None:
        numbers = params["dimension_numbers"]
        if (numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec) != (_NHWC, _HWIO, _NHWC):
            return None
        if params["batch_group_count"] > 1 or {
            *params["lhs_dilation"],
            *params["rhs_dilation"],
        } != {1}:
            return None
        return self._add(
            "conv",
            (x,),
            shape[1:],
            name=layer_name(kernel.path),
            kernel=kernel.path,
            window=kernel.shape[:2],
            stride=tuple(params["window_strides"]),
            padding=tuple(map(tuple, params["padding"])),
            groups=params["feature_group_count"],
        )

    def _product(
        self, x: "int | _Flat", kernel: _Parameter, params: Any, shape: Sequence[int]
    ) -> int | None:
        """Adds a dense layer: a convolution whose window is all of its input."""
        source = x.source if isinstance(x, _Flat) else x
        height, width, channels = self.operators[source].shape
        window = (height, width) if isinstance(x, _Flat) else (1, 1)
        if (
            params["dimension_numbers"][0] != ((len(shape) - 1,), (0,))
            or kernel.shape[0] != math.prod(window) * channels
        ):
            return None
        made = (1, 1) if isinstance(x, _Flat) else (height, width)
        return self._add(
            "conv",
            (source,),
            (*made, shape[-1]),
            name=layer_name(kernel.path),
            kernel=kernel.path,
            window=window,
        )

    def _max_pool(self, x: int, params: Any, shape: Sequence[int]) -> int | None:
        window, stride, padding = (
            params[key] for key in ("window_dimensions", "window_strides", "padding")
        )
        if len(shape) != 4 or {
            window[0],
            window[3],
            stride[0],
            stride[3],
            *params["base_dilation"],
            *params["window_dilation"],
        } != {1}:
            return None
        return self._add(
            "max_pool",
            (x,),
            shape[1:],
            window=tuple(window[1:3]),
            stride=tuple(stride[1:3]),
            padding=tuple(map(tuple, padding[1:3])),
        )

    def _subsample(self, x: int, params: Any, shape: Sequence[int]) -> int | None:
        strides = params["strides"] or (1,) * len(shape)
        if (
            len(shape) != 4
            or any(params["start_indices"])
            or strides[0] != 1
            or strides[3] != 1
            or shape[3] != self.operators[x].shape[2]
        ):
            return None
        return self._add("subsample", (x,), shape[1:], stride=tuple(strides[1:3]))

    def _biased(self, source: int, bias: str) -> int | None:
        """Adds a bias to the convolution before it, in place."""
        conv = self.operators[source]
        if conv.kind != "conv" or conv.bias or source != len(self.operators) - 1:
            return None
        self.operators[source] = replace(conv, bias=bias)
        return source

    def _reshaped(self, x: Any, shape: Sequence[int]) -> Any:
        if isinstance(x, _Parameter):
            return x
        if isinstance(x, _Sum | _Flat):
            return x if len(shape) == 2 else None
        if not isinstance(x, int):
            return np.broadcast_to(x, shape) if np.ndim(x) == 0 else np.reshape(x, shape)
        before = self.operators[x].shape
        if tuple(shape[1:]) == before or before[:2] == (1, 1) and shape[-1] == before[2]:
            return x
        return _Flat(x) if tuple(shape) == (1, math.prod(before)) else None


def _is(value: Any, number: Any) -> bool:
    return not isinstance(value, _Parameter | _Flat | _Sum) and bool(np.all(value == number))


def _all_operators(values: Iterable[Any]) -> bool:
    return all(isinstance(value, int) for value in values)


def _fuse_relu(graph: Graph) -> Graph:
    """Makes each ReLU part of the convolutions and sums that it follows.

    A ReLU passes through pools and joins, with the same result.

    Raises:
      UserError: it follows something else, or what it follows has another reader.
    """
    operators, readers = list(graph.operators), graph.consumers()

    def fuse(index: int) -> None:
        operator = operators[index]
        if len(readers[index]) > 1 or operator.kind not in ("conv", "add", "max_pool", "concat"):
            raise UserError(f"the C engine has no ReLU after {operator.name} as this model uses it")
        if operator.kind in ("conv", "add"):
            operators[index] = replace(operator, relu=True)
        else:
            for source in operator.inputs:
                fuse(source)

    for operator in graph.operators:
        if operator.kind == "relu":
            fuse(operator.inputs[0])
    kept: list[Operator] = []
    position: list[int] = []
    for operator in operators:
        if operator.kind == "relu":
            position.append(position[operator.inputs[0]])
        else:
            position.append(len(kept))
            kept.append(replace(operator, inputs=tuple(position[i] for i in operator.inputs)))
    return Graph(tuple(kept))


def _join_scales(graph: Graph) -> Graph:
    """Names for each operator the tensor whose quantization its output shares."""
    scale = list(range(len(graph.operators)))

    def find(index: int) -> int:
        while scale[index] != index:
            index = scale[index]
        return index

    for index, operator in enumerate(graph.operators):
        if operator.kind in ("max_pool", "concat", "subsample"):
            for source in operator.inputs:
                first, second = sorted((find(source), find(index)))
                scale[second] = first
    return Graph(
        tuple(replace(operator, scale=find(i)) for i, operator in enumerate(graph.operators))
    )
