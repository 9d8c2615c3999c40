"""Transfer learning: a config completed from a checkpoint, weights to start from, and layers that stay as they are."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flax import nnx
from ml_collections import ConfigDict

from squeeze_jax.data import Data
from squeeze_jax.errors import UserError
from squeeze_jax.models import layers
from squeeze_jax.network import (
    Network,
    Preprocessing,
    Tree,
    check_layer_patterns,
    layer_name,
    leaves_by_path,
    matches_layer,
    replace_leaves,
    weight_shapes,
)
from squeeze_jax.train.checkpoint import load_network


def fill_from_checkpoint(config: ConfigDict) -> ConfigDict:
    """The config with what it leaves_by_path open (None) taken from the checkpoint `train.init_from`: the model, and the preprocessing.

    Raises:
      UserError: there is no such checkpoint, or the config needs one and names none.
    """
    open_keys = [key for key in Preprocessing.__dataclass_fields__ if config.data[key] is None]
    if config.model.name is not None and not open_keys:
        return config
    if not config.train.init_from:
        raise UserError(
            "which net? Give --config.train.init_from=CHECKPOINT, a trial's folder or what `squeeze-jax import` wrote"
        )
    net = _net(config.train.init_from)
    config = config.copy_and_resolve_references()
    if config.model.name is None:
        config.model = ConfigDict(dict(net.model))
    for key in open_keys:
        config.data[key] = getattr(net.preprocessing, key)
    return config


def starting_weights(config: ConfigDict, data: Data) -> Callable[[Tree, Tree], tuple[Tree, Tree]]:
    """(params, stats) freshly drawn -> those that training starts from: the checkpoint's `train.init_from`, where it names one.

    The classifier keeps the fresh weights, unless the checkpoint's classes are the data's.

    Raises:
      UserError: the checkpoint is none, or of another design point.
    """
    if not config.train.init_from:
        return lambda params, stats: (params, stats)
    net = _net(config.train.init_from)
    same_classes = tuple(net.class_names) == tuple(data.class_names)
    fresh = set() if same_classes else _classifier(config.model, data.num_classes)
    known = leaves_by_path(net.params) | leaves_by_path(net.stats)
    wanted = {
        path: leaf
        for path, leaf in _shapes(config.model, data.num_classes).items()
        if path not in fresh
    }
    if wrong := [
        path
        for path, leaf in wanted.items()
        if path not in known or known[path].shape != leaf.shape
    ]:
        names = wrong[0] + (f" and {len(wrong) - 1} more do" if len(wrong) > 1 else " does")
        raise UserError(f"{config.train.init_from} is of another design point: {names} not fit")

    def start(params: Tree, stats: Tree) -> tuple[Tree, Tree]:
        weights = {
            path: known[path] if path in wanted else leaf
            for path, leaf in (leaves_by_path(params) | leaves_by_path(stats)).items()
        }
        return replace_leaves(params, weights), replace_leaves(stats, weights)

    return start


def frozen_labels(params: Tree, patterns: Sequence[str]) -> Tree:
    """ "frozen" or "trained" for each parameter: frozen are the layers whose name, such as fire2 or fire2/squeeze, a pattern matches_layer.

    Raises:
      UserError: a pattern matches_layer no layer, or nothing is left to train.
    """
    names = {path: layer_name(path) for path in leaves_by_path(params)}
    check_layer_patterns("train.freeze", patterns, list(names.values()))
    if all(matches_layer(name, patterns) for name in names.values()):
        raise UserError("train.freeze leaves_by_path nothing to train")
    return replace_leaves(
        params,
        {
            path: "frozen" if matches_layer(name, patterns) else "trained"
            for path, name in names.items()
        },
    )


def freeze_statistics(model: nnx.Module, patterns: Sequence[str]) -> None:
    """Makes the BatchNorm of frozen layers use and keep its running statistics in training too."""
    for path, node in nnx.iter_graph(model):
        if isinstance(node, layers.BatchNorm) and matches_layer("/".join(map(str, path)), patterns):
            node.frozen = True


def _shapes(model: ConfigDict, num_classes: int) -> dict[str, Any]:
    """Every weight and statistic by path, as shapes."""
    params, stats = weight_shapes({"model": model, "num_classes": num_classes})
    return leaves_by_path(params) | leaves_by_path(stats)


def _classifier(model: ConfigDict, num_classes: int) -> set[str]:
    """The parameters whose shape depends on the number of classes."""
    some, more = (_shapes(model, count) for count in (num_classes, num_classes + 1))
    return {path for path in some if some[path].shape != more[path].shape}


@functools.lru_cache(maxsize=1)  # one study starts every trial from the same one
def _net(path: str) -> Network:
    return load_network(Path(path).expanduser())
