"""Converts the equations of a jaxpr to ONNX operators (https://onnx.ai/onnx/operators).

Four-dimensional values are [N, H, W, C] in the jaxpr and [N, C, H, W] in ONNX. Constants are stored
in the order that this needs, so that no value is transposed. Where several equations are one
operator (a convolution and its bias, a sum over positions and a division, a comparison and a
choice), the last of them makes it from the inputs of the first.
"""

import math
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
from onnx import helper

from squeeze_jax.errors import UserError

NCHW = (0, 3, 1, 2)  # the axes of an NHWC array in ONNX's order
OIHW = (3, 2, 0, 1)  # those of an HWIO kernel

UNARY = {
    "abs": "Abs",
    "erf": "Erf",
    "exp": "Exp",
    "log": "Log",
    "logistic": "Sigmoid",
    "neg": "Neg",
    "sqrt": "Sqrt",
    "tanh": "Tanh",
}
BINARY = {
    "add": "Add",
    "add_any": "Add",
    "div": "Div",
    "ge": "GreaterOrEqual",
    "gt": "Greater",
    "max": "Max",
    "min": "Min",
    "mul": "Mul",
    "pow": "Pow",
    "sub": "Sub",
}


@dataclass(frozen=True, eq=False)
class Constant:
    """A known array, in the jaxpr's layout while tracing and in ONNX's as an operator's input."""

    array: np.ndarray
    path: str = ""  # of the parameter it was, "fire2/squeeze/kernel"

    @property
    def scope(self) -> str:
        """The path of the module that owns the parameter."""
        return self.path.rpartition("/")[0]


@dataclass(frozen=True, eq=False)
class Value:
    """An operator and its one output."""

    op: str  # its ONNX name, or "Input"
    inputs: tuple["Value | Constant", ...]
    attributes: dict[str, Any]
    shape: tuple[int, ...]  # in the jaxpr's layout, for a batch of one
    scope: str = ""  # path of the module that it belongs to
    # (H, W, C) if the second axis holds C, H, W where the jaxpr's holds H, W, C.
    flattened: tuple[int, int, int] | None = None
    number: int = field(default_factory=count().__next__)  # in order of creation

    @property
    def children(self) -> list["Value"]:
        """The inputs that are computed."""
        return [value for value in self.inputs if isinstance(value, Value)]


def convert_equation(eqn: Any, operands: list[Value | Constant]) -> Value:
    """Returns the ONNX operator of one equation.

    Raises:
      UserError: the export does not know the primitive, or not in this use.
    """
    name, params, shape = eqn.primitive.name, eqn.params, eqn.outvars[0].aval.shape
    x, others = operands[0], operands[1:]
    match name:
        case "conv_general_dilated" if isinstance(x, Value) and isinstance(others[0], Constant):
            found = _convolution(x, others[0], params, shape)
        case "dot_general" if isinstance(x, Value) and isinstance(others[0], Constant):
            found = _product(x, others[0], params, shape)
        case "reduce_window_max" if isinstance(x, Value) and len(x.shape) == 4:
            found = _max_pool(x, params, shape)
        case "reduce_sum" if isinstance(x, Value) and tuple(params["axes"]) == (1, 2):
            axes = _integers([2, 3])
            found = (
                _make("ReduceSum", x, axes, shape=shape, keepdims=0) if len(x.shape) == 4 else None
            )
        case "concatenate":
            found = _concatenation(operands, params["dimension"], shape)
        case "slice" if isinstance(x, Value):
            found = _slice(x, params, shape)
        case "pad" if isinstance(x, Value) and isinstance(others[0], Constant):
            found = _pad(x, others[0], params["padding_config"], shape)
        case "reshape" | "squeeze" | "expand_dims" | "broadcast_in_dim" if (
            isinstance(x, Value) and not others
        ):
            found = _reshaped(x, shape)
        case "convert_element_type":
            found = _make(
                "Cast",
                x,
                shape=shape,
                to=helper.np_dtype_to_tensor_dtype(np.dtype(params["new_dtype"])),
            )
        case "select_n" if len(operands) == 3:
            which, no, yes = operands
            found = _choice(which, no, yes, shape)
        case "square":
            found = _make("Mul", x, x, shape=shape)
        case "integer_pow":
            found = _make(
                "Pow", x, Constant(np.asarray(params["y"], eqn.invars[0].aval.dtype)), shape=shape
            )
        case "rsqrt":
            found = _make("Reciprocal", _make("Sqrt", x, shape=shape), shape=shape)
        case "copy" | "copy_p" if isinstance(x, Value):
            found = x
        case _ if name in UNARY:
            found = _make(UNARY[name], x, shape=shape)
        case _ if name in BINARY:
            found = _binary(BINARY[name], x, others[0], shape)
        case _:
            found = None
    if found is None:
        raise UserError(
            f"the ONNX export does not know the primitive {name} as it is used here: {eqn}"
        )
    return found


def _make(
    op: str,
    *inputs: Value | Constant,
    shape: Sequence[int],
    scope: str | None = None,
    **attributes: Any,
) -> Value:
    """Makes an operator that keeps its inputs' order of axes.

    Its scope, unless given, is the innermost module that its inputs have in common.
    """
    values = [value for value in inputs if isinstance(value, Value)]
    if scope is None:
        newest = max(values, key=lambda value: value.number).scope
        scope = posixpath.commonpath([value.scope for value in values]) or newest
    return Value(op, inputs, attributes, tuple(shape), scope, values[0].flattened)


def _integers(values: Sequence[int]) -> Constant:
    return Constant(np.asarray(values, np.int64))


def _is(constant: Value | Constant, number: float) -> bool:
    return isinstance(constant, Constant) and bool(
        np.all(constant.array == np.asarray(number, constant.array.dtype))
    )


# ---------------------------------------------------------------- layers


def _convolution(
    x: Value, kernel: Constant, params: dict[str, Any], shape: tuple[int, ...]
) -> Value | None:
    numbers = params["dimension_numbers"]
    if (numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec) != (NCHW, OIHW, NCHW) or params[
        "batch_group_count"
    ] > 1:
        return None
    if set(params["lhs_dilation"]) != {1}:
        return None
    padding = params["padding"]
    if kernel.array.shape[:2] == (1, 1) and any(map(any, padding)):
        # OpenCV 5.0.0's new engine computes a padded 1x1 convolution wrongly.
        (top, bottom), (left, right) = padding
        count, height, width, channels = x.shape
        padded = (count, top + height + bottom, left + width + right, channels)
        zero = Constant(np.zeros((), kernel.array.dtype))
        x = _make("Pad", x, _integers((0, 0, top, left, 0, 0, bottom, right)), zero, shape=padded)
        padding = ((0, 0), (0, 0))
    return _make(
        "Conv",
        x,
        Constant(kernel.array.transpose(OIHW), kernel.path),
        shape=shape,
        scope=kernel.scope,
        kernel_shape=kernel.array.shape[:2],
        strides=params["window_strides"],
        pads=_pads(padding),
        dilations=params["rhs_dilation"],
        group=params["feature_group_count"],
    )


def _pads(padding: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """Reorders ((top, bottom), (left, right)) to (top, left, bottom, right)."""
    return (*(before for before, _ in padding), *(after for _, after in padding))


def _product(
    x: Value, kernel: Constant, params: dict[str, Any], shape: tuple[int, ...]
) -> Value | None:
    """Converts [N, Cin] @ [Cin, Cout]; over an image's channels, to a 1x1 convolution."""
    if (
        params["dimension_numbers"] != (((len(x.shape) - 1,), (0,)), ((), ()))
        or kernel.array.ndim != 2
    ):
        return None
    if len(x.shape) == 4:
        weight = Constant(kernel.array.T[:, :, None, None], kernel.path)
        ones = dict(
            kernel_shape=(1, 1), strides=(1, 1), pads=(0, 0, 0, 0), dilations=(1, 1), group=1
        )
        return _make("Conv", x, weight, shape=shape, scope=kernel.scope, **ones)
    rows = _channels_first(kernel.array, x.flattened)
    return Value("Gemm", (x, Constant(rows, kernel.path)), {}, shape, kernel.scope)


def _channels_first(array: np.ndarray, flattened: tuple[int, int, int] | None) -> np.ndarray:
    """Reorders rows from (H, W, C) to (C, H, W)."""
    return (
        array[np.arange(len(array)).reshape(flattened).transpose(2, 0, 1).reshape(-1)]
        if flattened
        else array
    )


def _max_pool(x: Value, params: dict[str, Any], shape: tuple[int, ...]) -> Value | None:
    dimensions, strides, padding = (
        params["window_dimensions"],
        params["window_strides"],
        params["padding"],
    )
    if {dimensions[0], dimensions[3], *params["base_dilation"], *params["window_dilation"]} != {
        1
    } or padding[0] != padding[3]:
        return None
    kernel, stride, padding = dimensions[1:3], strides[1:3], padding[1:3]
    # A last window that hangs over the edge becomes ceil_mode, which engines handle better than
    # one-sided padding.
    ceil = any(after for _, after in padding) and all(
        before == 0 and -(-(size - k) // s) + 1 == out and (out - 1) * s < size
        for (before, _), size, k, s, out in zip(
            padding, x.shape[1:3], kernel, stride, shape[1:3], strict=True
        )
    )
    pads = (0, 0, 0, 0) if ceil else _pads(padding)
    return _make(
        "MaxPool",
        x,
        shape=shape,
        scope="",
        kernel_shape=kernel,
        strides=stride,
        pads=pads,
        ceil_mode=int(ceil),
    )


# ---------------------------------------------------------------- elementwise


def _binary(
    op: str, x: Value | Constant, y: Value | Constant, shape: tuple[int, ...]
) -> Value | None:
    if isinstance(x, Constant) and op in ("Add", "Mul", "Max", "Min"):
        x, y = y, x
    match op, x, y:
        case "Add", Value(), Constant() if _is(y, 0) and x.shape == shape:
            return x
        case "Add", Value(), Constant() if biased := _with_bias(x, y):
            return biased
        case "Max", Value(), Constant() if _is(y, 0):
            return _relu(x)
        case "Div", Value(op="ReduceSum", inputs=(Value() as image, _)), Constant() if _is(
            y, math.prod(image.shape[1:3])
        ):
            pooled = _make("GlobalAveragePool", image, shape=(1, 1, 1, image.shape[3]), scope="")
            return _make("Flatten", pooled, shape=shape, axis=1)
        case "Mul", Value(), Value() if normalised := _local_response_norm(x, y):
            return normalised
    return _elementwise(op, x, y, shape=shape)


def _elementwise(op: str, *operands: Value | Constant, shape: tuple[int, ...]) -> Value | None:
    """Makes an operator of broadcast operands; constants take the order of the values."""
    orders = {value.flattened for value in operands if isinstance(value, Value)}
    if len(orders) > 1:
        return None
    (order,) = orders
    return _make(
        op, *(_in_order(x, order) if isinstance(x, Constant) else x for x in operands), shape=shape
    )


def _in_order(constant: Constant, flattened: tuple[int, int, int] | None) -> Constant:
    array = _compact(constant.array)
    if array.ndim == 4:
        array = array.transpose(NCHW)
    elif array.ndim == 2 and array.shape[1] > 1:
        array = _channels_first(array.T, flattened).T
    return Constant(array, constant.path)


def _compact(array: np.ndarray) -> np.ndarray:
    """Reduces axes along which nothing changes, as broadcasting makes them, to size 1."""
    for axis in range(array.ndim):
        first = array.take([0], axis)
        array = first if np.array_equal(np.broadcast_to(first, array.shape), array) else array
    return array


def _with_bias(x: Value, bias: Constant) -> Value | None:
    """Returns a copy of a convolution or product that adds the bias too, one number a channel."""
    if x.op not in ("Conv", "Gemm") or len(x.inputs) > 2:
        return None
    array = _compact(bias.array)
    if array.size not in (1, x.shape[-1]) or array.ndim and array.shape[-1] != array.size:
        return None
    array = np.broadcast_to(array.reshape(-1), x.shape[-1:])
    return Value(
        x.op,
        (*x.inputs, Constant(array, bias.path or f"{x.scope}/bias")),
        x.attributes,
        x.shape,
        x.scope,
    )


def _relu(x: Value) -> Value:
    """Makes max(x, 0).

    ReLU of a concatenation of convolutions becomes a concatenation of their ReLUs, because engines
    fuse a ReLU into a convolution.
    """
    if (
        x.op == "Concat"
        and all(value.op == "Conv" for value in x.children)
        and len(x.children) == len(x.inputs)
    ):
        return _make(
            "Concat", *(_relu(value) for value in x.children), shape=x.shape, **x.attributes
        )
    return _make("Relu", x, shape=x.shape)


def _choice(
    which: Value | Constant, no: Value | Constant, yes: Value | Constant, shape: tuple[int, ...]
) -> Value | None:
    """Converts `yes` where `which`, else `no`; x where x >= 0, else a * x, is a leaky ReLU."""
    match which, no:
        case Value(op="GreaterOrEqual" | "Greater", inputs=(x, zero)), Value(
            op="Mul", inputs=(y, Constant(array=slope))
        ):
            if x is y is yes and _is(zero, 0) and slope.size == 1:
                return _make("LeakyRelu", x, shape=shape, alpha=float(slope.item()))
    return _elementwise("Where", which, yes, no, shape=shape)


def _local_response_norm(x: Value, factor: Value) -> Value | None:
    """Recognises x * (k + s * sum of neighbouring channels' squares) ** -beta.

    That is how `models.functional.local_response_norm` writes it (AlexNet, section 3.3).
    """
    match factor:
        case Value(
            op="Pow",
            inputs=(
                Value(
                    op="Add",
                    inputs=(
                        Value(op="Mul", inputs=(Value() as total, Constant(array=scale))),
                        Constant(array=bias),
                    ),
                ),
                Constant(array=power),
            ),
        ) if scale.size == bias.size == power.size == 1:
            terms: list[Value | Constant] = [total]
            while isinstance(first := terms[0], Value) and first.op == "Add":
                terms[:1] = first.inputs
        case _:
            return None
    for offset, term in enumerate(terms):
        match term:
            case Value(
                op="Slice",
                inputs=(
                    Value(
                        op="Pad",
                        inputs=(Value(op="Mul", inputs=(a, b)), Constant(array=widths), filler),
                    ),
                    Constant(array=starts),
                    _,
                    Constant(array=axes),
                    _,
                ),
            ):
                channels = list(axes) == [1] and list(starts) == [offset]
                reach = len(terms) // 2
                if not (
                    channels
                    and a is b is x
                    and _is(filler, 0)
                    and list(widths) == [0, reach, 0, 0] * 2
                ):
                    return None
            case _:
                return None
    if len(terms) % 2 == 0:
        return None
    return _make(
        "LRN",
        x,
        shape=x.shape,
        size=len(terms),
        alpha=float(scale.item()) * len(terms),
        beta=-float(power.item()),
        bias=float(bias.item()),
    )


# ---------------------------------------------------------------- shapes


def _concatenation(
    operands: list[Value | Constant], axis: int, shape: tuple[int, ...]
) -> Value | None:
    if (
        axis == 0
        or len(shape) not in (2, 4)
        or any(isinstance(x, Constant) or x.flattened for x in operands)
    ):
        return None
    return _make(
        "Concat", *operands, shape=shape, axis=NCHW.index(axis) if len(shape) == 4 else axis
    )


def _slice(x: Value, params: dict[str, Any], shape: tuple[int, ...]) -> Value | None:
    starts, ends = params["start_indices"], params["limit_indices"]
    steps = params["strides"] or (1,) * len(shape)
    if len(shape) not in (2, 4) or x.flattened:
        return None
    cut = [axis for axis in range(1, len(shape)) if shape[axis] != x.shape[axis]]
    axes = [NCHW.index(axis) if len(shape) == 4 else axis for axis in cut]
    numbers = [[of[axis] for axis in cut] for of in (starts, ends)] + [
        axes,
        [steps[axis] for axis in cut],
    ]
    return _make("Slice", x, *map(_integers, numbers), shape=shape)


def _pad(
    x: Value, filler: Constant, config: Sequence[tuple[int, int, int]], shape: tuple[int, ...]
) -> Value | None:
    if len(shape) != 4 or config[0] != (0, 0, 0) or any(interior for _, _, interior in config):
        return None
    return _make(
        "Pad", x, _integers(_pads([config[axis][:2] for axis in NCHW])), filler, shape=shape
    )


def _reshaped(x: Value, shape: tuple[int, ...]) -> Value | None:
    """Converts reshapes that keep the batch: to [N, features], [N, C] to [N, 1, 1, C]."""
    if shape == x.shape:
        return x
    if len(x.shape) == 4 and shape == (1, math.prod(x.shape)):
        order = x.shape[1:] if x.shape[3] > 1 and math.prod(x.shape[1:3]) > 1 else None
        return Value("Flatten", (x,), {"axis": 1}, shape, x.scope, order)
    if len(x.shape) == 2 and shape == (1, 1, 1, x.shape[1]) and not x.flattened:
        return _make("Reshape", x, _integers([0, -1, 1, 1]), shape=shape)
    return None
