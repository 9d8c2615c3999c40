"""The coders of a .sqz payload. To add one, write its file and add its line to `CODERS`."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from squeeze_jax.compress.sqz import arithmetic, huffman
from squeeze_jax.compress.sqz.quantized_tensor import Tensor, TensorSpec


class Coder(NamedTuple):
    """One way to turn tensors into bytes and back."""

    flag: (
        int  # marks the coder in the file's flags: 0, or bits that no other coder and no delta use
    )
    # (tensors, log2 of the contexts) -> (specs that `decode` needs, payload)
    encode: Callable[[Sequence[Tensor], int], tuple[list[TensorSpec], bytes]]
    # (payload, specs, log2 of the contexts) -> tensors; raises UserError for a damaged payload
    decode: Callable[[bytes, Sequence[TensorSpec], int], list[Tensor]]
    has_contexts: bool = False  # whether the header holds log2 of the contexts, or 0


CODERS: dict[str, Coder] = {
    "arithmetic": Coder(0, arithmetic.encode, arithmetic.decode, has_contexts=True),
    "huffman": Coder(
        1,
        lambda tensors, _: huffman.encode(tensors),
        lambda payload, specs, _: huffman.decode(payload, specs),
    ),
}
