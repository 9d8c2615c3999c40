"""Registers the coders of a .sqz payload.

To add one, write a module with `encode` and `decode`, and add a `Coder` to `CODERS`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from squeeze_jax.compress.sqz import arithmetic, huffman
from squeeze_jax.compress.sqz.quantized_tensor import Tensor, TensorSpec


class Coder(NamedTuple):
    """Turns tensors into bytes and back.

    Attributes:
      flag: marks the coder in the file's flags: 0, or bits that no other coder and no delta use.
      encode: (tensors, log2 of the contexts) -> (specs that `decode` needs, payload).
      decode: (payload, specs, log2 of the contexts) -> tensors; raises UserError for a damaged
        payload.
      has_contexts: whether the file's head holds log2 of the contexts; it holds 0 otherwise.
    """

    flag: int
    encode: Callable[[Sequence[Tensor], int], tuple[list[TensorSpec], bytes]]
    decode: Callable[[bytes, Sequence[TensorSpec], int], list[Tensor]]
    has_contexts: bool = False


CODERS: dict[str, Coder] = {
    "arithmetic": Coder(0, arithmetic.encode, arithmetic.decode, has_contexts=True),
    "huffman": Coder(
        1,
        lambda tensors, _: huffman.encode(tensors),
        lambda payload, specs, _: huffman.decode(payload, specs),
    ),
}
