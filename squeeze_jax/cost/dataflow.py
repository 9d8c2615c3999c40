"""The operators of a module as an inference engine runs them, with the tensors between them.

They are read from the jaxpr, as the layers are. What LiteRT's converter fuses is fused: a bias,
BatchNorm and a ReLU into the convolution before them, a ReLU through a concatenation.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from jax.extend import core

COPIES = ("copy", "copy_p", "convert_element_type", "stop_gradient")
LINEAR = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
FUSES_RELU = (*LINEAR, "ADD", "MUL", "SUB")
NAMES = {
    "concatenate": "CONCATENATION",
    "reduce_window_max": "MAX_POOL_2D",
    "reduce_window": "MAX_POOL_2D",
    "slice": "STRIDED_SLICE",
    "squeeze": "RESHAPE",
    "expand_dims": "RESHAPE",
    "broadcast_in_dim": "RESHAPE",
}


@dataclass(frozen=True, eq=False)
class Tensor:
    """A computed tensor; each is itself only."""

    shape: tuple[int, ...]  # for a batch of one

    @property
    def size(self) -> int:
        """Returns the number of values."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Operator:
    """An operator under LiteRT's name, such as CONV_2D.

    Attributes:
      name: its name; one that LiteRT lacks is a JAX primitive's in capitals.
      inputs: the tensors that it reads and that are computed.
      output: what it computes.
      weights: number of values of its kernel.
      filters: output channels of the kernel, each with a bias.
    """

    name: str
    inputs: tuple[Tensor, ...]
    output: Tensor
    weights: int = 0
    filters: int = 0


@dataclass(frozen=True)
class Dataflow:
    """The operators in the order they run."""

    image: Tensor
    operators: tuple[Operator, ...]

    @property
    def output(self) -> Tensor:
        """Returns what the last operator computes."""
        return self.operators[-1].output if self.operators else self.image


@dataclass(frozen=True)
class _Equation:
    """A primitive whose inputs are values by number; None stands for a constant."""

    name: str
    params: dict[str, Any]
    inputs: tuple[int | None, ...]
    input_shapes: tuple[tuple[int, ...], ...]
    output: int
    shape: tuple[int, ...]


def trace_operators(jaxpr: core.Jaxpr) -> Dataflow:
    """Returns the operators of a traced forward pass.

    Args:
      jaxpr: its last input is the image [1, H, W, C], the others are parameters; its first output
        is the result.
    """
    image: Any = jaxpr.invars[-1].aval
    equations: list[_Equation] = []
    (output, *_) = _flatten(jaxpr, [None] * (len(jaxpr.invars) - 1) + [0], equations, [1])
    live, needed = [], {output}
    for equation in reversed(equations):
        if equation.output in needed:
            live.append(equation)
            needed.update(number for number in equation.inputs if number is not None)
    live.reverse()
    uses = Counter(number for equation in live for number in equation.inputs if number is not None)
    builder = _Builder(uses, {0: Tensor(image.shape)})
    for equation in live:
        builder.add(equation)
    return Dataflow(builder.tensors[0], tuple(builder.operators))


def nested_jaxpr(eqn: core.JaxprEqn) -> core.ClosedJaxpr | None:
    """Returns the jaxpr that an equation calls, with its constants; None where it calls none."""
    keys = ("jaxpr", "call_jaxpr", "fun_jaxpr")
    inner = next((eqn.params[key] for key in keys if key in eqn.params), None)
    if inner is None or isinstance(inner, core.ClosedJaxpr):
        return inner
    return core.ClosedJaxpr(inner, ())


def _flatten(
    jaxpr: core.Jaxpr,
    arguments: Sequence[int | None],
    equations: list[_Equation],
    counter: list[int],
) -> list[int | None]:
    """Appends the equations of a jaxpr and of its nested calls that depend on the image.

    Args:
      jaxpr: a jaxpr.
      arguments: the numbers of its inputs; None for constants.
      equations: what is appended to.
      counter: its only item is the next free number.

    Returns:
      the numbers of its outputs.
    """
    known: dict[Any, int | None] = dict(zip(jaxpr.invars, arguments, strict=True))

    def read(variable: Any) -> int | None:
        return None if isinstance(variable, core.Literal) else known.get(variable)

    for eqn in jaxpr.eqns:
        numbers = [read(variable) for variable in eqn.invars]
        inner = nested_jaxpr(eqn)
        if inner is not None and len(inner.jaxpr.invars) == len(numbers):
            outputs = _flatten(inner.jaxpr, numbers, equations, counter)
        elif eqn.primitive.name in COPIES or all(number is None for number in numbers):
            outputs = numbers[:1] * len(eqn.outvars)
        else:
            outputs = list(range(counter[0], counter[0] + len(eqn.outvars)))
            counter[0] += len(outputs)
            shapes = tuple(_shape(variable) for variable in eqn.invars)
            equations += [
                _Equation(
                    eqn.primitive.name, eqn.params, tuple(numbers), shapes, number,
                    _shape(variable),
                )
                for number, variable in zip(outputs, eqn.outvars, strict=True)
            ]  # fmt: skip
        known.update(zip(eqn.outvars, outputs, strict=True))
    return [read(variable) for variable in jaxpr.outvars]


def _shape(variable: Any) -> tuple[int, ...]:
    return getattr(variable.aval, "shape", ())


@dataclass
class _Builder:
    """Collects operators; an equation that is fused changes an earlier one."""

    uses: Counter[int]  # of a value, by number
    tensors: dict[int, Tensor]  # by the value's number
    operators: list[Operator] = field(default_factory=list)

    def add(self, eqn: _Equation) -> None:
        """Adds an equation's operators, or fuses it with what computes its input."""
        inputs = tuple(self.tensors[number] for number in eqn.inputs if number is not None)
        first = inputs[0]
        maker = next((op for op in self.operators if op.output is first), None)
        is_only_use = self.uses[next(n for n in eqn.inputs if n is not None)] == 1
        unary = len(inputs) == 1 and len(eqn.inputs) == 2  # an array and a constant
        match eqn.name:
            case "conv_general_dilated":
                self._convolution(eqn, first)
            case "dot_general":
                contracted = math.prod(eqn.input_shapes[0]) // math.prod(eqn.shape[:-1])
                weights = contracted * eqn.shape[-1]
                self._operator("FULLY_CONNECTED", inputs, eqn, weights, eqn.shape[-1])
            case "reduce_sum" if tuple(eqn.params["axes"]) == (1, 2):
                self._operator("MEAN", inputs, eqn)
            case "reduce_window_max" | "reduce_window":
                self._max_pool(eqn, first)
            case "add" | "sub" | "mul" | "div" if (
                unary and maker and maker.name in (*LINEAR, "MEAN") and is_only_use
            ):
                self.tensors[eqn.output] = first  # a bias, BatchNorm, or the mean's count
            case "max" | "min" if unary and maker and is_only_use and self._takes_relu(maker):
                self.tensors[eqn.output] = first
            case "max" | "min" if unary:
                self._operator("RELU", inputs, eqn)
            case "select_n" if len(eqn.inputs) == 3:
                self._choice(eqn, inputs)
            case _ if eqn.name in NAMES or eqn.name == "reshape":
                self._operator(NAMES.get(eqn.name, "RESHAPE"), inputs, eqn)
            case _:
                self._operator(eqn.name.upper(), tuple(dict.fromkeys(inputs)), eqn)

    def _operator(
        self,
        name: str,
        inputs: tuple[Tensor, ...],
        eqn: _Equation,
        weights: int = 0,
        filters: int = 0,
    ) -> None:
        output = self.tensors[eqn.output] = Tensor(eqn.shape)
        self.operators.append(Operator(name, inputs, output, weights, filters))

    def _max_pool(self, eqn: _Equation, image: Tensor) -> None:
        window, strides, padding = (
            eqn.params[name][1:3] for name in ("window_dimensions", "window_strides", "padding")
        )
        axes = list(zip(padding, image.shape[1:3], window, strides, strict=True))
        is_valid = [tuple(pair) == (0, 0) for pair, *_ in axes]
        is_same = [tuple(pair) == _same(*sizes) for pair, *sizes in axes]
        one_by_one = all(map(max, is_valid, is_same)) and not all(is_valid) and not all(is_same)
        if one_by_one:  # as the exporter does where one axis is padded and the other is not
            rows = Tensor((image.shape[0], eqn.shape[1], *image.shape[2:]))
            self.operators.append(Operator("MAX_POOL_2D", (image,), rows))
            source = rows
        else:
            source = self._padded(image, window, strides, padding, "PADV2")
        self._operator("MAX_POOL_2D", (source,), eqn)

    def _convolution(self, eqn: _Equation, image: Tensor) -> None:
        kernel, params = eqn.input_shapes[1], eqn.params
        source = self._padded(image, kernel[:2], params["window_strides"], params["padding"], "PAD")
        groups = params["feature_group_count"]
        name = "DEPTHWISE_CONV_2D" if groups == image.shape[-1] else "CONV_2D"
        self._operator(name, (source,), eqn, math.prod(kernel), kernel[-1])

    def _padded(
        self,
        image: Tensor,
        window: Sequence[int],
        strides: Sequence[int],
        padding: Sequence[tuple[int, int]],
        name: str,
    ) -> Tensor:
        """Returns the image, behind an operator of its own where padding is not TensorFlow's."""
        sizes = image.shape[1:3]
        if all(tuple(pair) == (0, 0) for pair in padding) or all(
            tuple(pair) == _same(size, k, s)
            for pair, size, k, s in zip(padding, sizes, window, strides, strict=True)
        ):
            return image
        height, width = (size + sum(pair) for size, pair in zip(sizes, padding, strict=True))
        padded = Tensor((image.shape[0], height, width, *image.shape[3:]))
        self.operators.append(Operator(name, (image,), padded))
        return padded

    def _takes_relu(self, maker: Operator) -> bool:
        """Whether a ReLU of an operator's output costs nothing."""
        if maker.name != "CONCATENATION":
            return maker.name in FUSES_RELU
        makers = {op.output: op for op in self.operators}
        reads = Counter(tensor for op in self.operators for tensor in op.inputs)
        return all(
            part in makers and makers[part].name == "CONV_2D" and reads[part] == 1
            for part in maker.inputs
        )

    def _choice(self, eqn: _Equation, inputs: tuple[Tensor, ...]) -> None:
        """Adds a leaky ReLU for x where x >= 0, else a * x; a SELECT_V2 for other choices."""
        makers = {op.output: op for op in self.operators}
        parts = [makers[tensor] for tensor in inputs[:2] if tensor in makers]
        if (
            len(inputs) == 3
            and [op.name for op in parts] in (["GE", "MUL"], ["GT", "MUL"])
            and all(op.inputs == inputs[2:] for op in parts)
        ):
            self.operators = [op for op in self.operators if op not in parts]
            self._operator("LEAKY_RELU", inputs[2:], eqn)
        else:
            self._operator("SELECT_V2", inputs, eqn)


def _same(size: int, window: int, stride: int) -> tuple[int, int]:
    """Returns the zeros before and after that TensorFlow's padding "SAME" means."""
    total = max((-(-size // stride) - 1) * stride + window - size, 0)
    return total // 2, total - total // 2


def with_float_operators(flow: Dataflow, known: Sequence[str]) -> Iterator[tuple[Operator, int]]:
    """Yields operators with the bytes of a value of their output.

    An operator that has no int8 form runs in float32, between conversions.

    Args:
      flow: the operators.
      known: names of those with an int8 form.
    """
    floats: dict[Tensor, Tensor] = {}
    for op in flow.operators:
        if op.name in known:
            yield op, 1
            continue
        for tensor in op.inputs:
            if tensor not in floats:
                floats[tensor] = Tensor(tensor.shape)
                yield Operator("DEQUANTIZE", (tensor,), floats[tensor]), 4
        result = floats[op.output] = Tensor(op.output.shape)
        yield replace(op, inputs=tuple(floats[t] for t in op.inputs), output=result), 4
        yield Operator("QUANTIZE", (result,), op.output), 1
