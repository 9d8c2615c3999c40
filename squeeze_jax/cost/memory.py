"""Computes what a network's int8 file takes on a microcontroller before anything is trained.

RAM is the arena of TensorFlow Lite for Microcontrollers (TFLM): a plan of buffers that tensors
share by lifetime, in front of what its interpreter keeps of each tensor and operator. The planner
is its GreedyMemoryPlanner, step by step; the sizes of its structs are those of a 64-bit host, where
its Python package reports them. On a 32-bit device the structs take about half.
"""

from collections.abc import Sequence

from squeeze_jax.cost.arena import Buffer, place_in_order
from squeeze_jax.cost.dataflow import Dataflow, Operator, Tensor, with_float_operators

ALIGNMENT = 16  # bytes, of every buffer
# Operators that ai-edge-quantizer writes in int8; others run in float32.
INT8_OPERATORS = (
    "ADD", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "LOGISTIC",
    "MAX_POOL_2D", "MEAN", "MUL", "PAD", "PADV2", "RELU", "RESHAPE", "STRIDED_SLICE", "SUB",
)  # fmt: skip
# Bytes that TFLM keeps: of the interpreter, a tensor, an operator, and an operator of a kind.
INTERPRETER, TENSOR, OPERATOR = 690, 24, 64
KERNEL = {
    "ADD": 64 + 16,
    "CONCATENATION": 48 + 16,
    "CONV_2D": 80 + 32,
    "DEPTHWISE_CONV_2D": 80 + 32,
    "FULLY_CONNECTED": 64 + 32,
    "MAX_POOL_2D": 32 + 48,
    "MEAN": 64 + 16,
    "PAD": 64,
}
OTHER_KERNEL = 64
# Tensors that hold constants: kernel and bias, axes, paddings, bounds of a slice.
CONSTANTS = {
    "CONV_2D": 2, "DEPTHWISE_CONV_2D": 2, "FULLY_CONNECTED": 2, "MEAN": 1, "PAD": 1, "PADV2": 2,
    "RESHAPE": 1, "STRIDED_SLICE": 3,
}  # fmt: skip
# Bytes of a .tflite file: of each filter a 32-bit bias, and scale and zero point of kernel and
# bias. The records of a constant, and of an operator with its output, are fitted to files
# (experiments/ram).
FILE, FILTER_BYTES, CONSTANT_BYTES, OPERATOR_BYTES = 1950, 4 + 2 * (4 + 8), 190, 150


def tflm_arena_bytes(flow: Dataflow) -> int:
    """Returns the bytes of TFLM's arena for a network's int8 file with int8 images and logits."""
    operators = list(with_float_operators(flow, INT8_OPERATORS))
    buffers = _tensor_buffers(flow, operators)
    kept, handles = INTERPRETER, 0
    for index, (op, _) in enumerate(operators, start=1):
        kept += OPERATOR + TENSOR * (1 + CONSTANTS.get(op.name, 0))
        kept += KERNEL.get(op.name, OTHER_KERNEL) + 2 * _align(4 * op.filters)
        if op.name == "MEAN":  # its sums, an index and the axes
            sizes = (4 * op.output.size, 4 * len(op.inputs[0].shape), 4 * 2)
            buffers += [Buffer(_align(size), index, index) for size in sizes]
            handles += len(sizes)
    return plan_bytes(buffers) + kept + 8 * handles + TENSOR


def tflite_bytes(flow: Dataflow) -> int:
    """Returns about how many bytes a network's int8 .tflite file takes, without class names."""
    return FILE + sum(
        op.weights
        + FILTER_BYTES * op.filters
        + CONSTANT_BYTES * CONSTANTS.get(op.name, 0)
        + OPERATOR_BYTES
        for op in flow.operators
    )


def _tensor_buffers(flow: Dataflow, operators: Sequence[tuple[Operator, int]]) -> list[Buffer]:
    """Returns the buffers of the computed tensors, in the order in which they are made.

    The image is there from before the first operator, and the result until after the last.
    """
    made: dict[Tensor, tuple[int, int]] = {flow.image: (0, flow.image.size)}
    last = {flow.image: 0}
    for index, (op, value_bytes) in enumerate(operators, start=1):
        made[op.output] = (index, value_bytes * op.output.size)
        last.update(dict.fromkeys((*op.inputs, op.output), index))
    last[flow.output] = len(operators)
    return [Buffer(_align(size), first, last[t]) for t, (first, size) in made.items()]


def _align(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def plan_bytes(buffers: Sequence[Buffer]) -> int:
    """Returns the bytes of TFLM's greedy plan: the largest buffer first, of equal ones the last."""
    order = sorted(range(len(buffers)), key=lambda index: (-buffers[index].size, -index))
    return place_in_order(buffers, order).size
