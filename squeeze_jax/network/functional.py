"""Splits a Flax module into a static graph and trees of arrays; runs them by pure functions."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx
from jax import lax

from squeeze_jax import models
from squeeze_jax.models import conv_backend, layers
from squeeze_jax.network.config import ModelConfig
from squeeze_jax.network.paths import Tree


def build_model(
    model: ModelConfig | Mapping[str, Any], num_classes: int, seed: int = 0
) -> nnx.Module:
    """Returns the module that `model` describes, with weights drawn from `seed`.

    Raises:
      UserError: there is no such model or option, or the value of an option is out of range.
    """
    if not isinstance(model, ModelConfig):
        model = ModelConfig.from_mapping(model)
    rngs = nnx.Rngs(seed)
    return models.create(model.name, num_classes=num_classes, rngs=rngs, **model.options)


def abstract_model(model: ModelConfig | Mapping[str, Any], num_classes: int) -> nnx.Module:
    """Returns the module that `model` describes with shapes in place of weights.

    Raises:
      UserError: there is no such model or option, or the value of an option is out of range.
    """
    if not isinstance(model, ModelConfig):
        model = ModelConfig.from_mapping(model)
    return models.create_abstract(model.name, num_classes=num_classes, **model.options)


def split_model(model: nnx.Module) -> tuple[nnx.GraphDef, Tree, Tree]:
    """Returns the static graph, the parameters and the BatchNorm statistics, as nested dicts."""
    graphdef, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    return graphdef, nnx.to_pure_dict(params), nnx.to_pure_dict(stats)


def forward(
    graphdef: nnx.GraphDef,
    params: Tree,
    stats: Tree,
    images: jax.Array,
    *,
    train: bool = False,
    key: jax.Array | None = None,
) -> tuple[jax.Array, Tree]:
    """Computes the logits [N, classes] of images [N, H, W, 3] and the statistics after the pass."""
    # Without copy=True, nnx would write statistics into variables outside the gradient's trace.
    model = nnx.merge(graphdef, params, stats, copy=True)
    logits = model(images, train=train, key=key)
    return logits, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))


def predict(graphdef: nnx.GraphDef, params: Tree, stats: Tree, images: jax.Array) -> jax.Array:
    """Computes the logits [N, classes] of images [N, H, W, 3] in the fastest micro-batches."""
    count = num_microbatches(graphdef, params, stats, images, train=False)
    if count == 1:
        return forward(graphdef, params, stats, images)[0]
    parts = images.reshape(count, -1, *images.shape[1:])
    return lax.map(lambda part: forward(graphdef, params, stats, part)[0], parts).reshape(
        len(images), -1
    )


def num_microbatches(
    graphdef: nnx.GraphDef,
    params: Tree,
    stats: Tree,
    images: jax.Array,
    *,
    train: bool,
    unit: int = 1,
) -> int:
    """Returns `conv_backend.num_microbatches` of images [N, H, W, 3], in groups of `unit`."""
    if len(images) == unit or not conv_backend.uses_matmul():
        return 1
    seen = [1]

    def note(layer: layers.LinearLayer, x: jax.Array, compute: layers.LinearPart) -> jax.Array:
        y = compute(x, layer.kernel[...])
        seen.append(y[..., 0].size * layer.kernel[..., 0].size * x.dtype.itemsize)
        return y

    with layers.intercept_layers(note):
        jax.eval_shape(functools.partial(forward, graphdef), params, stats, images[:1])
    return conv_backend.num_microbatches(
        len(images), max(seen), tree_bytes(params), train=train, unit=unit
    )


def tree_bytes(tree: Tree) -> int:
    """Returns the total bytes of a tree's arrays."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def weight_shapes(metadata: Mapping[str, Any]) -> tuple[Tree, Tree]:
    """Returns the parameters and statistics of a net as jax.ShapeDtypeStructs; allocates nothing.

    Args:
      metadata: the net's, see `Network.metadata`.

    Raises:
      UserError: there is no such model or option.
    """
    _, params, stats = split_model(abstract_model(metadata["model"], metadata["num_classes"]))
    return params, stats
