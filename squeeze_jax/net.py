"""A classifier as a value: a design point, its weights, and what its inputs and outputs mean.

Everything that reads or writes a trained net (checkpoints, importers, exporters) speaks of a `Net`; the pure functions above it
are how training and use take a Flax module apart.
"""

import fnmatch
import functools
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax import lax

from squeeze_jax import models, workers
from squeeze_jax.errors import UserError
from squeeze_jax.models import ops

Tree = Any  # nested dicts of arrays, keyed as the module's attributes are: params["fire2"]["squeeze"]["kernel"]

# A net of at most so many bytes is compiled with its weights in it: products with constants are faster, but compiling copies them.
CONSTANT_BYTES = 32 * 2**20


def build_model(model: Mapping[str, Any], num_classes: int, seed: int = 0) -> nnx.Module:
    """The module that `model` describes (its registered name and options), with freshly drawn weights."""
    options = {key: value for key, value in model.items() if key != "name"}
    return models.create(model["name"], num_classes=num_classes, rngs=nnx.Rngs(seed), **options)


def split_model(model: nnx.Module) -> tuple[nnx.GraphDef, Tree, Tree]:
    """The module as (static graph, parameters, BatchNorm statistics), the latter two as plain nested dicts."""
    graphdef, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    return graphdef, nnx.to_pure_dict(params), nnx.to_pure_dict(stats)


def forward(
    graphdef: nnx.GraphDef, params: Tree, stats: Tree, images: jax.Array, *, train: bool = False, key: jax.Array | None = None
) -> tuple[jax.Array, Tree]:
    """Logits [N, classes] of images [N, H, W, 3] and the statistics after the pass; pure."""
    # copy=True: without it nnx would write statistics into variables that live outside the gradient's trace.
    model = nnx.merge(graphdef, params, stats, copy=True)
    logits = model(images, train=train, key=key)
    return logits, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))


def predict(graphdef: nnx.GraphDef, params: Tree, stats: Tree, images: jax.Array) -> jax.Array:
    """Logits [N, classes] of images [N, H, W, 3], in as many parts as are fastest."""
    count = best_parts(graphdef, params, stats, images, train=False)
    if count == 1:
        return forward(graphdef, params, stats, images)[0]
    parts = images.reshape(count, -1, *images.shape[1:])
    return lax.map(lambda part: forward(graphdef, params, stats, part)[0], parts).reshape(len(images), -1)


def best_parts(graphdef: nnx.GraphDef, params: Tree, stats: Tree, images: jax.Array, *, train: bool) -> int:
    """`ops.best_parts` of images [N, H, W, 3] in this net."""
    seen = [1]

    def note(layer: nnx.Module, x: jax.Array, compute: Callable) -> jax.Array:
        y = compute(x, layer.kernel[...])
        seen.append(y[..., 0].size * layer.kernel[..., 0].size * x.dtype.itemsize)
        return y

    with ops.observed(note):
        jax.eval_shape(functools.partial(forward, graphdef), params, stats, images[:1])
    return ops.best_parts(len(images), max(seen), _nbytes(params), train=train)


def _nbytes(tree: Tree) -> int:
    """Of all arrays of a tree."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def leaves(tree: Tree) -> dict[str, Any]:
    """The leaves of nested dicts by path, as "fire2/squeeze/kernel", in the order of `jax.tree.leaves`."""
    return {_path(keys): leaf for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def with_leaves(tree: Tree, by_path: Mapping[str, Any]) -> Tree:
    """Nested dicts like `tree`, with the leaves that `by_path` has for its paths."""
    return jax.tree_util.tree_map_with_path(lambda keys, _: by_path[_path(keys)], tree)


def _path(keys: Sequence[Any]) -> str:
    return "/".join(str(key.key) for key in keys)


def layer_of(path: str) -> str:
    """The layer that a weight belongs to: fire2/squeeze/kernel -> fire2/squeeze."""
    return path.rpartition("/")[0]


def matches(layer: str, patterns: Iterable[str]) -> bool:
    """Whether a pattern, such as fire[2-5] or fire*/squeeze, matches a layer or one that it is part of."""
    parts = layer.split("/")
    return any(fnmatch.fnmatchcase("/".join(parts[: i + 1]), pattern) for pattern in patterns for i in range(len(parts)))


def check_patterns(key: str, patterns: Iterable[str], layers: Collection[str]) -> None:
    """Raises UserError, in the name of the config's `key`, for a pattern that matches none of the layers."""
    if unused := [pattern for pattern in patterns if not any(matches(layer, [pattern]) for layer in layers)]:
        outer = list(dict.fromkeys(layer.partition("/")[0] for layer in layers))
        raise UserError(f"{key}: no layer is called {unused[0]!r}; there are {', '.join(outer)}")


@dataclass(frozen=True)
class Preprocessing:
    """From a decoded RGB image to the net's input: resize, centre crop, channel order, (x - mean) / std."""

    image_size: int  # pixels, the crop
    resize: int  # pixels, before the crop
    resize_mode: str  # "squash" or "short", see data.transforms.resize
    channel_order: str  # "rgb" or "bgr"
    mean: tuple[float, ...]  # of 0..255, in channel order
    std: tuple[float, ...]

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Preprocessing":
        """From a config's data section, or anything else with these keys."""
        values = {field.name: record[field.name] for field in fields(cls)}
        return cls(**values | {"mean": tuple(values["mean"]), "std": tuple(values["std"])})


class Classifier(NamedTuple):
    """What it takes to classify an image, whoever computes it: Flax, or another engine from an exported file."""

    preprocessing: Preprocessing
    class_names: Sequence[str]  # by label
    run: Callable[[np.ndarray], np.ndarray]  # preprocessed images float32 [N, H, W, 3] -> logits float32 [N, classes]

    @classmethod
    def from_record(cls, record: Mapping[str, Any], run: Callable[[np.ndarray], np.ndarray]) -> "Classifier":
        """From `Net.record()`, as exports carry it.

        Raises:
          UserError: the record lacks something.
        """
        try:
            return cls(Preprocessing.from_record(record["data"]), tuple(record["class_names"]), run)
        except (KeyError, TypeError) as e:
            raise UserError(f"not the record of a net: {e}") from e


@dataclass(frozen=True, eq=False)
class Net:
    """A classifier ready to use."""

    model: Mapping[str, Any]  # name and options, as `build_model` takes them
    class_names: Sequence[str]  # by label
    preprocessing: Preprocessing
    params: Tree
    stats: Tree
    source: str = ""  # where the weights came from, in words

    @classmethod
    def from_record(cls, record: Mapping[str, Any], params: Tree, stats: Tree) -> "Net":
        """From `record()`, or a trial's config.json, and the weights.

        Raises:
          UserError: the record lacks something.
        """
        try:
            preprocessing = Preprocessing.from_record(record["data"])
            return cls(dict(record["model"]), tuple(record["class_names"]), preprocessing, params, stats, record.get("source", ""))
        except (KeyError, TypeError) as e:
            raise UserError(f"not the record of a net: {e}") from e

    def record(self) -> dict[str, Any]:
        """Everything but the weights, as JSON can hold it; the keys are those of a trial's config.json."""
        return {
            "model": {key: value for key, value in self.model.items() if value is not None},
            "data": {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self.preprocessing).items()},
            "num_classes": len(self.class_names),
            "class_names": list(self.class_names),
            "source": self.source,
        }

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of one preprocessed image."""
        return (self.preprocessing.image_size, self.preprocessing.image_size, 3)

    def module(self) -> nnx.Module:
        """The Flax module with these weights."""
        graphdef, _, _ = split_model(nnx.eval_shape(lambda: build_model(self.model, len(self.class_names))))
        return nnx.merge(graphdef, self.params, self.stats)

    def classifier(self) -> Classifier:
        """The net computed by Flax on the default device, compiled once for each number of images. `workers.pin`s XLA's threads."""
        workers.pin()
        graphdef, *weights = split_model(self.module())
        if _nbytes(weights) <= CONSTANT_BYTES:
            run = jax.jit(functools.partial(predict, graphdef, *weights))
        else:
            run = functools.partial(jax.jit(functools.partial(predict, graphdef)), *jax.device_put(weights))
        return Classifier(self.preprocessing, self.class_names, lambda images: np.asarray(run(images)))


def weight_shapes(record: Mapping[str, Any]) -> tuple[Tree, Tree]:
    """(params, stats) of the net that a record describes, as jax.ShapeDtypeStruct leaves; nothing is allocated.

    Raises:
      UserError: no such model or option.
    """
    _, params, stats = split_model(nnx.eval_shape(lambda: build_model(record["model"], record["num_classes"])))
    return params, stats


def check_record(record: Any, shapes: Sequence[tuple[int, ...]]) -> None:
    """Whether a record out of a file from outside is of the right types and in proportion to the file's arrays.

    Building even the outline of a net takes time for each layer and memory for each channel, so this comes first.

    Args:
      record: what stands where `Net.record()` should.
      shapes: of the file's arrays.

    Raises:
      ValueError, KeyError, TypeError or AttributeError: it is not.
    """
    model, data, classes = record["model"], Preprocessing.from_record(record["data"]), record["class_names"]
    widest = max([4096, *(axis for shape in shapes for axis in shape)])
    values = [item for value in model.values() for item in (value if isinstance(value, list) else [value])]
    numbers = [value for value in values if isinstance(value, int | float)]
    sizes = (data.image_size, data.resize)
    sound = {
        "options": all(isinstance(value, bool | int | float | str) for value in values) and all(abs(value) <= widest for value in numbers),
        "fractions": all(abs(value) <= 64 for value in numbers if isinstance(value, float)),
        "layers": all(n <= len(shapes) for n in (model.get("num_fire", 0), *(model.get("blocks") or ()))),
        "classes": isinstance(classes, list) and all(isinstance(name, str) for name in classes),
        "number of classes": len(classes) == record["num_classes"] > 0,
        "image size": all(isinstance(n, int) and 0 < n <= widest for n in sizes) and data.image_size <= data.resize,
        "image mode": data.resize_mode in ("squash", "short") and data.channel_order in ("rgb", "bgr"),
        "mean and deviation": all(len(v) == 3 and all(math.isfinite(x) for x in v) for v in (data.mean, data.std)) and all(data.std),
        "source": isinstance(record.get("source", ""), str),
    }
    if wrong := [name for name, good in sound.items() if not good]:
        raise ValueError(f"its {', '.join(wrong)}")
