"""Writes a network to a .sqz file and reads it back; `c/sqz.c` reads it on a device."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from squeeze_jax.compress.sqz import arithmetic, delta, file_format, header
from squeeze_jax.compress.sqz.coders import CODERS
from squeeze_jax.compress.sqz.quantized_tensor import (
    QuantizedTensor,
    Tensor,
    TensorSpec,
    estimate_bits,
    find_codebook,
    find_uniform_scale,
)
from squeeze_jax.errors import UserError
from squeeze_jax.network import Network, Tree, leaves_by_path, replace_leaves, weight_shapes


def write(
    network: Network,
    coded: Mapping[str, Tensor],
    *,
    coder: str = "arithmetic",
    bits: int = arithmetic.BITS,
    known_classes: header.KnownClasses | None = None,
    base: Network | None = None,
    added: Collection[str] = (),
) -> bytes:
    """Returns a network as a .sqz file.

    Args:
      network: the network whose metadata the file carries.
      coded: every weight and statistic by its path in `paths`: quantized, float32 or float16.
      coder: a key of `coders.CODERS`.
      bits: log2 of the contexts in each table, 10 to 18; the arithmetic decoder takes 52 * 2^bits
        bytes of memory.
      known_classes: lists of class names that readers have too, by name; such a list takes a few
        bytes.
      base: another network, which readers must have too; the file is a delta from it.
      added: paths of the tensors in `coded` that are added to the base's weights of the same path.
        A tensor whose levels are all 0 leaves the base's weights as they are and takes no space.

    Raises:
      UserError: `coded` does not hold exactly the network's arrays, a file cannot hold them, the
        coder is unknown, or the base lacks weights to add to.
    """
    if coder not in CODERS:
        raise UserError(f"unknown coder {coder!r}; choose one of {', '.join(CODERS)}")
    arithmetic.check_context_bits(bits)
    shapes = {path: np.shape(leaf) for path, leaf in paths(network.params, network.stats).items()}
    _check_shapes(coded, shapes)
    num_weights = sum(int(np.prod(shape)) for shape in shapes.values())
    file_format.check_num_weights(num_weights)
    weights = _find_base_weights(base)
    _check_added(coded, added, weights)

    chosen = CODERS[coder]
    stored = {path: coded[path] for path in shapes if path not in added or _is_nonzero(coded[path])}
    specs, payload = chosen.encode(list(stored.values()), bits)
    return file_format.pack(
        file_format.Content(
            flags=chosen.flag | (0 if base is None else file_format.DELTA),
            context_bits=bits if chosen.has_contexts else 0,
            base_crc=0 if base is None else weights.crc,
            num_weights=num_weights,
            header=header.pack(network.stored_metadata(), known_classes or {}),
            specs=delta.make_entries(shapes, dict(zip(stored, specs, strict=True)), weights, added),
            payload=payload,
        )
    )


def lossless(
    network: Network,
    *,
    coder: str = "arithmetic",
    bits: int = arithmetic.BITS,
    known_classes: header.KnownClasses | None = None,
    base: Network | None = None,
) -> bytes:
    """Returns a network as a .sqz file that gives it back bit for bit.

    Arrays of few distinct values, as after clustering, are stored as levels of a codebook.
    Multiples of one step, as in a network from a lossy file, are stored as levels of that step.
    Other arrays are stored as float16 where that is exact, and as float32 elsewhere. A delta stores
    an array as its difference from the base where that has few distinct values and is smaller.

    Args:
      network: the network.
      coder: as in `write`.
      bits: as in `write`.
      known_classes: as in `write`.
      base: as in `write`.

    Raises:
      UserError: a file cannot hold the network.
    """
    weights = _find_base_weights(base)
    coded: dict[str, Tensor] = {}
    added = set()
    for path, leaf in paths(network.params, network.stats).items():
        array = np.asarray(leaf, np.float32)
        coded[path] = _choose_exact_form(array)
        before = weights.find(path, array.shape)
        difference = None if before is None else delta.find_difference(before, array)
        if difference and estimate_bits(difference) <= estimate_bits(coded[path]):
            coded[path] = difference
            added.add(path)
    return write(
        network, coded, coder=coder, bits=bits, known_classes=known_classes, base=base, added=added
    )


def read(
    data: bytes, known_classes: header.KnownClasses | None = None, base: Network | None = None
) -> Network:
    """Returns the network in a .sqz file.

    Args:
      data: content of the file.
      known_classes: lists of class names by name, as the writer had them.
      base: the network that a delta was made from; ignored for other files.

    Raises:
      UserError: the bytes are not a .sqz file, are damaged, describe no network of this package, or
        are a delta from another network than the base.
    """
    with _name_damage():
        content = file_format.unpack(data)
    if not content.flags & file_format.DELTA:
        base = None
    elif base is None:
        raise UserError(
            "it is a delta, which needs the network that it was made from: "
            "decompress it with --base first"
        )
    weights = _find_base_weights(base)
    if base is not None and weights.crc != content.base_crc:
        raise UserError("it is a delta from another network than the given base")
    with _name_damage():
        return _decode(content, known_classes or {}, weights)


def paths(params: Tree, stats: Tree) -> dict[str, Any]:
    """Returns the leaves of both trees, in order, by paths such as params/fire2/squeeze/kernel."""
    return leaves_by_path({"params": params, "stats": stats})


def _check_shapes(coded: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    found = {
        path: tensor.levels.shape if isinstance(tensor, QuantizedTensor) else tensor.shape
        for path, tensor in coded.items()
    }
    wrong = sorted(
        path for path in shapes.keys() | found.keys() if shapes.get(path) != found.get(path)
    )
    if wrong:
        raise UserError(
            f"{len(wrong)} arrays are missing, unknown, or of another shape than the network's: "
            f"{', '.join(wrong[:3])}"
        )


def _check_added(
    coded: Mapping[str, Tensor], added: Collection[str], base: delta.BaseWeights
) -> None:
    for path in added:
        tensor = coded.get(path)
        if not isinstance(tensor, QuantizedTensor) or base.find(path, tensor.levels.shape) is None:
            raise UserError(
                f"{path} cannot be added to the base: it is not quantized, or the base lacks it"
            )


def _is_nonzero(tensor: Tensor) -> bool:
    return bool((tensor.levels if isinstance(tensor, QuantizedTensor) else tensor).any())


def _choose_exact_form(array: np.ndarray) -> Tensor:
    """Returns a float32 array in the smallest form that gives it back bit for bit."""
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    forms: list[Tensor] = [array]
    if half.astype(np.float32).tobytes() == array.tobytes():
        forms.append(half)
    forms += filter(None, (find_codebook(array), find_uniform_scale(array)))
    return min(forms, key=estimate_bits)


@contextmanager
def _name_damage() -> Iterator[None]:
    try:
        yield
    except UserError as e:
        raise UserError(f"not a .sqz file, or a damaged one: {e}") from e


def _decode(
    content: file_format.Content, known_classes: header.KnownClasses, base: delta.BaseWeights
) -> Network:
    stored = {path: spec for path, spec in content.specs.items() if spec.kind != "kept"}
    metadata = header.unpack(content.header, known_classes, {**base.specs, **stored})
    params, stats = _weight_shapes(metadata)
    shapes = {path: leaf.shape for path, leaf in paths(params, stats).items()}
    specs = delta.resolve(shapes, content.specs, base)
    decoded = content.coder.decode(content.payload, list(stored.values()), content.context_bits)
    tensors = dict(zip(stored, decoded, strict=True))
    arrays = {path: _restore_weights(spec, tensors.get(path), base) for path, spec in specs.items()}
    return Network.from_metadata(
        metadata, **replace_leaves({"params": params, "stats": stats}, arrays)
    )


def _restore_weights(
    spec: TensorSpec, tensor: Tensor | None, base: delta.BaseWeights
) -> np.ndarray:
    """Returns a tensor's weights, float32, from the file and the base."""
    if tensor is None:
        return base.values(spec).copy()
    if not isinstance(tensor, QuantizedTensor):
        return tensor.astype(np.float32)
    if spec.base_offset is None:
        return tensor.values()
    return delta.add(base.values(spec), tensor)


def _find_base_weights(network: Network | None) -> delta.BaseWeights:
    """Returns the weights of a base; without a base there are none."""
    base = delta.BaseWeights.of({} if network is None else paths(network.params, network.stats))
    file_format.check_num_weights(len(base.weights))
    return base


def _weight_shapes(metadata: Mapping[str, Any]) -> tuple[Tree, Tree]:
    """Calls `weight_shapes`; raises UserError for every error that damaged metadata causes."""
    try:
        return weight_shapes(metadata)
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        ArithmeticError,
        IndexError,
        AssertionError,
    ) as e:
        raise UserError(f"its header describes no network: {str(e)[:80]!r}") from e
