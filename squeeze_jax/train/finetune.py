"""Transfer learning: a config filled in from a checkpoint, and the weights to start from."""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flax import nnx
from ml_collections import ConfigDict

from squeeze_jax.data import Data
from squeeze_jax.errors import UserError
from squeeze_jax.models import layers
from squeeze_jax.network import (
    ModelConfig,
    Network,
    Preprocessing,
    Tree,
    leaves_by_path,
    matches_layer,
    replace_leaves,
    weight_shapes,
)
from squeeze_jax.train.config import TrialConfig
from squeeze_jax.train.weights import open_weights


def fill_from_checkpoint(config: ConfigDict) -> ConfigDict:
    """Returns the config with what is None taken from the network `train.init_from`.

    That may be the model, and keys of the preprocessing.

    Raises:
      UserError: there is no such network, or the config needs one and names none.
    """
    given: dict[str, Any] = config.to_dict()
    needs_model = given["model"]["name"] is None
    open_keys = [key for key in Preprocessing.__dataclass_fields__ if given["data"][key] is None]
    if not needs_model and not open_keys:
        return config
    if not given["train"]["init_from"]:
        raise UserError(
            "which network? Give --config.train.init_from=CHECKPOINT, "
            "a trial's folder, a .sqz file or a file that `squeeze-jax import` reads"
        )
    network = _load(given["train"]["init_from"], given["model"])
    filled = config.copy_and_resolve_references()
    if needs_model:
        filled.model = ConfigDict(dict(network.model))
    filled.update({"data": {key: getattr(network.preprocessing, key) for key in open_keys}})
    return filled


def starting_weights(config: TrialConfig, data: Data) -> Callable[[Tree, Tree], tuple[Tree, Tree]]:
    """Returns a function of (params, stats), freshly drawn, to those that training starts from.

    These are those of `train.init_from` where it names a network. The classifier keeps the fresh
    weights, unless that network's classes are the data's.

    Raises:
      UserError: it names no network, or one of another design point.
    """
    if not config.train.init_from:
        return lambda params, stats: (params, stats)
    network = _load(config.train.init_from, config.model.to_mapping())
    same_classes = tuple(network.class_names) == tuple(data.class_names)
    fresh = set() if same_classes else _classifier(config.model.to_mapping(), data.num_classes)
    known = leaves_by_path(network.params) | leaves_by_path(network.stats)
    wanted = {
        path: leaf
        for path, leaf in _shapes(config.model.to_mapping(), data.num_classes).items()
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


def freeze_statistics(model: nnx.Module, patterns: Sequence[str]) -> None:
    """Makes the BatchNorm of frozen layers use and keep its running statistics in training, too."""
    for path, node in nnx.iter_graph(model):
        if isinstance(node, layers.BatchNorm) and matches_layer("/".join(map(str, path)), patterns):
            node.frozen = True


def _shapes(model: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Returns the shapes of all weights and statistics, by path."""
    params, stats = weight_shapes({"model": model, "num_classes": num_classes})
    return leaves_by_path(params) | leaves_by_path(stats)


def _classifier(model: Mapping[str, Any], num_classes: int) -> set[str]:
    """Returns the paths of parameters whose shape depends on the number of classes."""
    some, more = (_shapes(model, count) for count in (num_classes, num_classes + 1))
    return {path for path in some if some[path].shape != more[path].shape}


def _load(path: str, model: Mapping[str, Any]) -> Network:
    """Opens a network; `model` is what it is if the path does not tell, and may lack a name."""
    try:
        return _load_once(path)
    except UserError:
        if model.get("name") is None or not Path(path).expanduser().is_file():
            raise
    return _load_once(path, json.dumps(ModelConfig.from_mapping(model).to_mapping()))


# A study starts all its trials from the same one.
@functools.lru_cache(maxsize=1)
def _load_once(path: str, model: str | None = None) -> Network:
    return open_weights(Path(path).expanduser(), None if model is None else json.loads(model))
