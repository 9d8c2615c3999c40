"""Runs a network one layer at a time on more images than fit into one batch.

The network is traced with a mark in place of each layer. What it computes between two marks becomes
one compiled program, which runs on one batch after the other, so that no array holds all images.
"""

import functools
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend import core

from squeeze_jax.compress.calibrate import find_layers
from squeeze_jax.models import conv_backend
from squeeze_jax.models.layers import LinearLayer, intercept_layers
from squeeze_jax.network import split_model

ComputeLayer = Callable[[str, LinearLayer, list[jax.Array]], Sequence[jax.Array]]

# Stands for the linear part of a layer, and cannot be computed: programs run between marks.
_mark = core.Primitive("layer")
_mark.def_abstract_eval(lambda x, *, shape: x.update(shape=shape))


def run_layerwise(
    model: nnx.Module, batches: Sequence[jax.Array], compute: ComputeLayer
) -> list[jax.Array]:
    """Runs a model on batches, each layer on all of them before the next layer.

    Args:
      model: a classifier.
      batches: float32 [N, H, W, C] each.
      compute: called with a layer's path, the layer and its input in each batch; returns the output
        of the layer's linear part (see `layers.intercept_layers`) in each batch.

    Returns:
      The model's output for each batch.
    """
    graphdef, params, stats = split_model(model)
    leaves, treedef = jax.tree.flatten((params, stats))
    shapes = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
    programs = [
        _compile(graphdef, treedef, shapes, batch.shape, conv_backend.uses_matmul())
        for batch in batches
    ]
    runs = [_run(program, leaves, batch) for program, batch in zip(programs, batches, strict=True)]
    modules = find_layers(model)
    values = [next(run) for run in runs]
    for path in programs[0].paths:
        # A batch's input and output are freed before the next batch goes on.
        outputs = list(compute(path, modules[path], values))[::-1]
        values.clear()
        values = [run.send(outputs.pop()) for run in runs]
    return values


class _Segment(NamedTuple):
    """Describes what a network computes up to a layer's input, or up to its own output.

    Attributes:
      run: a compiled function of the values of `reads`; returns those of `writes`.
      reads: variables.
      writes: variables that are read later.
      input: the variable that is the layer's input.
      output: the variable that is the layer's output, or None after the last layer.
      kept: variables that are read after the layer.
    """

    run: Callable[..., list[jax.Array]]
    reads: list[core.Var]
    writes: list[core.Var]
    input: core.Var
    output: core.Var | None
    kept: set[core.Var]


class _Program(NamedTuple):
    """Holds what a network computes between its layers.

    Attributes:
      constants: arrays that the network itself has, by variable.
      inputs: variables: the parameters, the statistics and the images.
      segments: one more than there are layers.
      paths: of the layers, in the order in which they run.
    """

    constants: dict[core.Var, jax.Array]
    inputs: list[core.Var]
    segments: list[_Segment]
    paths: list[str]


def _run(
    program: _Program, leaves: Sequence[jax.Array], images: jax.Array
) -> Generator[jax.Array, jax.Array, None]:
    """Yields each layer's input, and is sent its output; yields the model's output at the end."""
    known: dict[Any, jax.Array] = program.constants | dict(
        zip(program.inputs, [*leaves, images], strict=True)
    )
    del images
    for segment in program.segments:
        known |= zip(
            segment.writes,
            segment.run(*(known[variable] for variable in segment.reads)),
            strict=True,
        )
        value = known[segment.input]
        known = {variable: known[variable] for variable in segment.kept}
        output = yield value
        known[segment.output] = output
        del value, output


@functools.lru_cache(maxsize=8)
def _compile(
    graphdef: nnx.GraphDef,
    treedef: Any,
    shapes: tuple[jax.ShapeDtypeStruct, ...],
    batch: tuple[int, ...],
    uses_matmul: bool,
) -> _Program:
    """Traces a model and splits it at its layers. Models of one design share the programs.

    Args:
      graphdef: of the model.
      treedef: of (params, stats).
      shapes: of their leaves.
      batch: shape of the images.
      uses_matmul: the backend that is traced, see `conv_backend`.
    """
    del uses_matmul  # a key of the cache
    paths: list[str] = []

    def forward(leaves: Sequence[jax.Array], images: jax.Array) -> jax.Array:
        model = nnx.merge(graphdef, *jax.tree.unflatten(treedef, leaves))
        names = {id(layer): path for path, layer in find_layers(model).items()}

        def mark(layer, x, compute):
            paths.append(names[id(layer)])
            return _mark.bind(x, shape=jax.eval_shape(compute, x, layer.kernel[...]).shape)

        with intercept_layers(mark):
            return model(images)

    closed = jax.make_jaxpr(forward)(shapes, jax.ShapeDtypeStruct(batch, "float32"))
    jaxpr = closed.jaxpr
    groups: list[list[core.JaxprEqn]] = [[]]
    ends: list[tuple[core.Var, core.Var | None]] = []  # each group's last value, and its layer's
    for eqn in jaxpr.eqns:
        if eqn.primitive is _mark:
            ends.append((eqn.invars[0], eqn.outvars[0]))
            groups.append([])
        else:
            groups[-1].append(eqn)
    ends.append((jaxpr.outvars[0], None))
    nameless = jaxpr.debug_info.with_unknown_names()
    segments: list[_Segment] = []
    needed: set[core.Var] = set()
    for group, (value, output) in zip(reversed(groups), reversed(ends), strict=True):
        kept = needed - {output}
        made = [variable for eqn in group for variable in eqn.outvars]
        read = [each for eqn in group for each in eqn.invars if isinstance(each, core.Var)]
        reads = [each for each in dict.fromkeys(read) if each not in made]
        writes = [each for each in made if each in kept or each is value]
        part = core.Jaxpr((), reads, writes, group, debug_info=nameless)
        run = jax.jit(core.jaxpr_as_fun(core.ClosedJaxpr(part, ())))
        segments.append(_Segment(run, reads, writes, value, output, kept))
        needed = {*kept, value, *reads} - set(made)
    constants = dict(zip(jaxpr.constvars, map(jnp.asarray, closed.consts), strict=True))
    return _Program(constants, jaxpr.invars, segments[::-1], paths)
