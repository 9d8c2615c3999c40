"""Lists the layers of any Flax module, from the jaxpr of its forward pass; allocates no weight.

The module is traced under the native conv backend, where a layer is one primitive. So the costs
are those of what the module computes, and no model lists its layers a second time.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend import core

from squeeze_jax import models
from squeeze_jax.cost.dataflow import Dataflow, nested_jaxpr, trace_operators
from squeeze_jax.errors import UserError
from squeeze_jax.models import conv_backend
from squeeze_jax.network.preprocessing import format_size


@dataclass(frozen=True)
class Layer:
    """Describes a convolution, matrix product or pooling.

    Shapes are NHWC or [N, C], for a batch of one. `parameters` counts the kernel and the other
    parameters of its module: the bias, or the scale and shift of BatchNorm.
    """

    name: str  # path of the kernel's module ("fire2/squeeze"); "max_pool1", ... for pools
    kind: str  # "conv", "dense", "max_pool" or "mean_pool"
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    groups: int
    parameters: int
    macs: int  # multiply-accumulates an image


def parameter_count(model: nnx.Module) -> int:
    """Returns the number of trainable values in a module, abstract or not."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


@dataclass(frozen=True)
class Trace:
    """Holds a module's forward pass for one image.

    Attributes:
      layers: in the order they are computed.
      operators: what an engine runs, see `dataflow`.
      params: number of trainable values.
      module: the module, without values.
      input_shape: height, width, channels of the image.
    """

    layers: tuple[Layer, ...]
    operators: Dataflow
    params: int
    module: nnx.Module
    input_shape: tuple[int, int, int]


def trace_model(name: str, options: Mapping[str, Any], input_shape: tuple[int, int, int]) -> Trace:
    """Traces a registered model for images of a height, width and channels.

    Raises:
      UserError: no such model or option, or the images are too small for it.
    """
    try:
        return trace_module(models.create_abstract(name, **options), input_shape)
    except ValueError as e:
        raise UserError(f"{name} at {format_size(input_shape[:2])}: {e}") from e


def trace_layers(
    build: nnx.Module | Callable[[], nnx.Module], input_shape: tuple[int, int, int]
) -> list[Layer]:
    """Returns the layers of a module; see `trace_module`."""
    return list(trace_module(build, input_shape).layers)


def trace_module(
    build: nnx.Module | Callable[[], nnx.Module], input_shape: tuple[int, int, int]
) -> Trace:
    """Traces a module.

    Args:
      build: a module with shapes in place of weights, as of `models.create_abstract`; or a
        function that makes one, called under `nnx.eval_shape`, so that initialisers draw nothing.
      input_shape: height, width, channels of one image.

    Raises:
      ValueError: the image is too small for the module.
    """
    model = build if isinstance(build, nnx.Module) else nnx.eval_shape(build)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    params, rest = nnx.to_pure_dict(params), nnx.to_pure_dict(rest)
    paths = [
        "/".join(str(key.key) for key in path)
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
    ]
    sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves(params)]

    def forward(params, rest, image):
        return nnx.merge(graphdef, params, rest)(image)

    with conv_backend.conv_backend("native"):
        jaxpr = jax.make_jaxpr(forward)(
            params, rest, jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
        ).jaxpr
    owner = dict(zip(jaxpr.invars, paths, strict=False))  # the image and statistics follow
    of_module: dict[str, int] = {}
    for path, size in zip(paths, sizes, strict=True):
        # "conv1/bn/scale" belongs to conv1, whose kernel sits at "conv1/kernel".
        module = path.rpartition("/")[0]
        while module and f"{module}/kernel" not in paths:
            module = module.rpartition("/")[0]
        of_module[module] = of_module.get(module, 0) + size
    return Trace(
        tuple(_layers(jaxpr, owner, of_module)),
        trace_operators(jaxpr),
        parameter_count(model),
        model,
        input_shape,
    )


def _layers(jaxpr: core.Jaxpr, owner: dict[Any, str], of_module: dict[str, int]) -> Iterator[Layer]:
    pools = 0
    for eqn, owners in _flat_equations(jaxpr, owner):
        shapes: list[tuple[int, ...]] = [getattr(v.aval, "shape", ()) for v in eqn.invars]
        out, params = eqn.outvars[0].aval.shape, eqn.params
        match eqn.primitive.name:
            case "conv_general_dilated":
                name = _module_name(owners[1])
                kernel = shapes[1]
                yield Layer(
                    name,
                    "conv",
                    shapes[0],
                    out,
                    kernel[:2],
                    params["window_strides"],
                    params["padding"],
                    params["feature_group_count"],
                    of_module.get(name, 0),
                    math.prod(out) * math.prod(kernel[:-1]),
                )
            case "dot_general":
                name = _module_name(owners[1] or owners[0])
                contracted = math.prod(
                    shapes[0][axis] for axis in params["dimension_numbers"][0][0]
                )
                yield Layer(
                    name,
                    "dense",
                    shapes[0],
                    out,
                    (1, 1),
                    (1, 1),
                    (),
                    1,
                    of_module.get(name, 0),
                    math.prod(out) * contracted,
                )
            case "reduce_window_max" | "reduce_window":
                pools += 1
                yield Layer(
                    f"max_pool{pools}",
                    "max_pool",
                    shapes[0],
                    out,
                    params["window_dimensions"][1:3],
                    params["window_strides"][1:3],
                    params["padding"][1:3],
                    1,
                    0,
                    0,
                )
            case "reduce_sum" if tuple(params["axes"]) == (1, 2) and len(shapes[0]) == 4:
                yield Layer(
                    "mean_pool", "mean_pool", shapes[0], out, shapes[0][1:3], (1, 1), (), 1, 0, 0
                )


def _module_name(path: str | None) -> str:
    return path.rpartition("/")[0] if path else ""


def _flat_equations(
    jaxpr: core.Jaxpr, owner: dict[Any, str]
) -> Iterator[tuple[Any, list[str | None]]]:
    """Yields the equations of a jaxpr and of its nested calls, and the parameters they read.

    Each equation comes with the path of the parameter behind each input, or None.
    """
    owner = dict(owner)
    for eqn in jaxpr.eqns:
        owners = [None if isinstance(v, core.Literal) else owner.get(v) for v in eqn.invars]
        if (closed := nested_jaxpr(eqn)) is not None:
            inner = closed.jaxpr
            yield from _flat_equations(
                inner, {v: name for v, name in zip(inner.invars, owners, strict=False) if name}
            )
        else:
            yield eqn, owners
        # A cast, reshape or transposition of a parameter is still that parameter.
        if sum(name is not None for name in owners) == 1 and len(eqn.invars) == 1:
            owner[eqn.outvars[0]] = next(filter(None, owners))
