"""Transfer learning: a config filled in from a checkpoint, and the weights to start from."""

import copy
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from squeeze_jax.data import Data
from squeeze_jax.errors import UserError, list_names
from squeeze_jax.models.batch_norm import BatchNorm
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
from squeeze_jax.network.labels import LabelMap, match_labels
from squeeze_jax.network.preprocessing import in_grey
from squeeze_jax.storage import as_path
from squeeze_jax.train.config import TrialConfig
from squeeze_jax.train.weights import open_once

# Muon's peak learning rates. With BatchNorm a rate says how fast kernels turn; without it, how far
# they move (experiments/finetune).
BATCH_NORM_RATE, PLAIN_RATE = 0.01, 0.001


def fill_from_checkpoint(config: ConfigDict) -> ConfigDict:
    """Returns the config with what is None taken from the network `train.init_from`.

    That may be the model but for options that are set, keys of the preprocessing, and the learning
    rate of Muon.

    Raises:
      UserError: there is no such network, or the config needs one and names none; or it leaves open
        the learning rate of another optimizer.
    """
    given: dict[str, Any] = config.to_dict()
    needs_model = given["model"]["name"] is None
    open_keys = [key for key in Preprocessing.__dataclass_fields__ if given["data"][key] is None]
    needs_rate = given["train"]["learning_rate"] is None
    if not (needs_model or open_keys or needs_rate):
        return config
    if not given["train"]["init_from"]:
        raise UserError(
            "which network? Give --config.train.init_from=CHECKPOINT, "
            "a trial's folder, a bundled net (cifar10-48k), a .sqz file, or a file that "
            "`squeeze-jax import` reads"
        )
    if needs_rate and given["train"]["optimizer"] != "muon":
        raise UserError(
            f"which learning rate for {given['train']['optimizer']}? Give "
            "--config.train.learning_rate; without it there is one for muon alone"
        )
    network = _load(given["train"]["init_from"], given["model"])
    filled = copy.deepcopy(config)
    if needs_model:
        own = {key: value for key, value in given["model"].items() if value is not None}
        filled.model = ConfigDict({**network.model, **own})
    preprocessing = network.preprocessing
    if given["data"]["channel_order"] == "grey":
        preprocessing = in_grey(preprocessing)
    filled.update({"data": {key: getattr(preprocessing, key) for key in open_keys}})
    if needs_rate:
        rate = BATCH_NORM_RATE if network.stats else PLAIN_RATE
        filled.update({"train": {"learning_rate": rate}})
    return filled


def starting_weights(config: TrialConfig, data: Data) -> Callable[[Tree, Tree], tuple[Tree, Tree]]:
    """Returns a function of (params, stats), freshly drawn, to those that training starts from.

    These are those of `train.init_from` where it names a network. The classifier keeps the fresh
    weights, unless that network's classes are the data's; see `match_classes`. A network of colour
    images starts on grey ones with its first kernel summed over the colours.

    Raises:
      UserError: it names no network, or one of another design point or order of the channels.
    """
    if not config.train.init_from:
        return lambda params, stats: (params, stats)
    network = _load(config.train.init_from, config.model.to_mapping())
    orders = (network.preprocessing.channel_order, config.data.channel_order)
    if orders[0] != orders[1] and "grey" not in orders:
        raise UserError(
            f"{config.train.init_from} sees {orders[0].upper()} images, and data.channel_order is "
            f"{orders[1]}; set --config.data.channel_order={orders[0]}"
        )
    known = leaves_by_path(network.params) | leaves_by_path(network.stats)
    shapes = _shapes(config.model.to_mapping(), data.num_classes)
    axes = _class_axes(config.model.to_mapping(), data.num_classes)
    known |= _sum_colours(known, shapes, network.preprocessing.std, config.data.std)
    classes = match_classes(network, data)
    wanted = {path: leaf for path, leaf in shapes.items() if classes or path not in axes}
    if wrong := [
        path
        for path, leaf in wanted.items()
        if path not in known or known[path].shape != leaf.shape
    ]:
        names = wrong[0] + (f" and {len(wrong) - 1} more do" if len(wrong) > 1 else " does")
        raise UserError(f"{config.train.init_from} is of another design point: {names} not fit")
    if classes:
        order = list(classes.labels)
        known |= {path: known[path].take(order, axis) for path, axis in axes.items()}

    def start(params: Tree, stats: Tree) -> tuple[Tree, Tree]:
        weights = {
            path: known[path] if path in wanted else leaf
            for path, leaf in (leaves_by_path(params) | leaves_by_path(stats)).items()
        }
        return replace_leaves(params, weights), replace_leaves(stats, weights)

    return start


def match_classes(network: Network, data: Data) -> LabelMap | None:
    """Returns a network's label for each class of the data; None where its classes are others."""
    if len(network.class_names) != data.num_classes:
        return None
    try:
        return match_labels(
            data.train_source.name, data.class_names, network.class_names, network.has_class_names
        )
    except UserError:
        return None


def describe_start(config: TrialConfig, data: Data) -> str:
    """Returns what to tell the user about the weights that training starts from; "" if nothing.

    How classes were matched, if not by name, and which layers of the checkpoint the net lacks.

    Raises:
      UserError: the checkpoint is none.
    """
    path = config.train.init_from
    if not path:
        return ""
    network = _load(path, config.model.to_mapping())
    own = _layers(_shapes(config.model.to_mapping(), data.num_classes))
    notes = []
    if classes := match_classes(network, data):
        notes.append(classes.note)
    if unused := [name for name in _layers(leaves_by_path(network.params)) if name not in own]:
        notes.append(f"{path}: without its {list_names(unused)}, which this design point lacks")
    return "\n".join(filter(None, notes))


def freeze_statistics(model: nnx.Module, patterns: Sequence[str]) -> None:
    """Makes the BatchNorm of frozen layers use and keep its running statistics in training, too."""
    for path, node in nnx.iter_graph(model):
        if isinstance(node, BatchNorm) and matches_layer("/".join(map(str, path)), patterns):
            node.frozen = True


def _sum_colours(
    known: Mapping[str, np.ndarray],
    shapes: Mapping[str, Any],
    colours: Sequence[float],
    grey: Sequence[float],
) -> dict[str, np.ndarray]:
    """Returns the kernels of three input channels that should have one.

    They map a grey image to what the known kernels map it to in colour, but for a constant where
    the means differ.

    Args:
      known: kernels [kh, kw, 3, Cout] and other arrays, by path.
      shapes: those wanted, by path.
      colours: deviations that the known network divides by.
      grey: the one that images are divided by.
    """
    scale = (np.array(grey) / np.array(colours)).astype(np.float32)[:, None]
    return {
        path: (array * scale).sum(axis=2, keepdims=True)
        for path, array in known.items()
        if path in shapes and array.ndim == 4 and (array.shape[2], shapes[path].shape[2]) == (3, 1)
    }


def _shapes(model: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Returns the shapes of all weights and statistics, by path."""
    params, stats = weight_shapes({"model": model, "num_classes": num_classes})
    return leaves_by_path(params) | leaves_by_path(stats)


def _layers(paths: Iterable[str]) -> list[str]:
    """Returns the names of the layers of weights, in order, from the weights' paths."""
    return list(dict.fromkeys(path.partition("/")[0] for path in paths))


def _class_axes(model: Mapping[str, Any], num_classes: int) -> dict[str, int]:
    """Returns the axis of the classes of each weight that has one, by path."""
    some, more = (_shapes(model, count) for count in (num_classes, num_classes + 1))
    return {
        path: next(i for i, size in enumerate(leaf.shape) if size != more[path].shape[i])
        for path, leaf in some.items()
        if leaf.shape != more[path].shape
    }


def _load(path: str, model: Mapping[str, Any]) -> Network:
    """Opens a network; `model` is what it is if the path does not tell, and may lack a name."""
    try:
        return open_once(path)
    except UserError:
        if model.get("name") is None or not as_path(path).expanduser().is_file():
            raise
    return open_once(path, json.dumps(ModelConfig.from_mapping(model).to_mapping()))
