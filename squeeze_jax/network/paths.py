"""Parameter trees by path: "fire2/squeeze/kernel" is the kernel of the layer fire2/squeeze."""

import fnmatch
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import jax

from squeeze_jax.errors import UserError

Tree = Any  # nested dicts of arrays, keyed as the module's attributes are: params["fire2"]["squeeze"]["kernel"]


def leaves_by_path(tree: Tree) -> dict[str, Any]:
    """The leaves of nested dicts by path, as "fire2/squeeze/kernel", in the order of `jax.tree.leaves`."""
    return {_path(keys): leaf for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def replace_leaves(tree: Tree, by_path: Mapping[str, Any]) -> Tree:
    """Nested dicts like `tree`, with the leaves that `by_path` has for its paths."""
    return jax.tree_util.tree_map_with_path(lambda keys, _: by_path[_path(keys)], tree)


def _path(keys: Sequence[Any]) -> str:
    return "/".join(str(key.key) for key in keys)


def layer_name(path: str) -> str:
    """The layer that a weight belongs to: fire2/squeeze/kernel -> fire2/squeeze."""
    return path.rpartition("/")[0]


def matches_layer(layer: str, patterns: Iterable[str]) -> bool:
    """Whether a pattern, such as fire[2-5] or fire*/squeeze, matches a layer or one that it is part of."""
    parts = layer.split("/")
    return any(
        fnmatch.fnmatchcase("/".join(parts[: i + 1]), pattern)
        for pattern in patterns
        for i in range(len(parts))
    )


def check_layer_patterns(key: str, patterns: Iterable[str], layers: Collection[str]) -> None:
    """Raises UserError, in the name of the config's `key`, for a pattern that matches none of the layers."""
    if unused := [
        pattern
        for pattern in patterns
        if not any(matches_layer(layer, [pattern]) for layer in layers)
    ]:
        outer = list(dict.fromkeys(layer.partition("/")[0] for layer in layers))
        raise UserError(f"{key}: no layer is called {unused[0]!r}; there are {', '.join(outer)}")
