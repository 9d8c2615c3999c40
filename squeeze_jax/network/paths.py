"""Parameter trees by path: "fire2/squeeze/kernel" is the kernel of the layer fire2/squeeze."""

import fnmatch
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import jax

from squeeze_jax.errors import UserError

# Nested dicts of arrays under the names of the module's attributes:
# params["fire2"]["squeeze"]["kernel"]
Tree = Any


def leaves_by_path(tree: Tree) -> dict[str, Any]:
    """Returns the leaves by path ("fire2/squeeze/kernel"), in the order of `jax.tree.leaves`."""
    return {_path(keys): leaf for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def nest_leaves(by_path: Mapping[str, Any]) -> Tree:
    """Returns the nested dicts of which `leaves_by_path` gives the leaves."""
    tree: Tree = {}
    for path, leaf in by_path.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def replace_leaves(tree: Tree, by_path: Mapping[str, Any]) -> Tree:
    """Returns nested dicts like `tree` whose leaves are those of `by_path`."""
    return jax.tree_util.tree_map_with_path(lambda keys, _: by_path[_path(keys)], tree)


def _path(keys: Sequence[Any]) -> str:
    return "/".join(str(key.key) for key in keys)


def is_kernel(path: str) -> bool:
    """Returns whether a path is that of a layer's kernel, and not of its bias or BatchNorm."""
    return path.endswith("/kernel")


def layer_name(path: str) -> str:
    """Returns the layer that a weight belongs to: fire2/squeeze/kernel -> fire2/squeeze."""
    return path.rpartition("/")[0]


def matches_layer(layer: str, patterns: Iterable[str]) -> bool:
    """Returns whether a pattern (fire[2-5], fire*/squeeze) matches a layer or its parents."""
    parts = layer.split("/")
    return any(
        fnmatch.fnmatchcase("/".join(parts[: i + 1]), pattern)
        for pattern in patterns
        for i in range(len(parts))
    )


def check_layer_patterns(key: str, patterns: Iterable[str], layers: Collection[str]) -> None:
    """Rejects a pattern that matches none of the layers.

    Raises:
      UserError: its message begins with the config's `key`.
    """
    if unused := [
        pattern
        for pattern in patterns
        if not any(matches_layer(layer, [pattern]) for layer in layers)
    ]:
        outer = list(dict.fromkeys(layer.partition("/")[0] for layer in layers))
        raise UserError(f"{key}: no layer is called {unused[0]!r}; there are {', '.join(outer)}")
