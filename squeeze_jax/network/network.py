"""A classifier as a value: a design point, its weights, and what its inputs and outputs mean."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from squeeze_jax import cpu_affinity
from squeeze_jax.errors import UserError
from squeeze_jax.network.functional import build_model, predict, split_model, tree_bytes
from squeeze_jax.network.paths import Tree
from squeeze_jax.network.preprocessing import Preprocessing

# A net of at most so many bytes is compiled with its weights in it: products with constants are faster, but compiling copies them.
CONSTANT_BYTES = 32 * 2**20


class Classifier(NamedTuple):
    """What it takes to classify an image, whoever computes it: Flax, or another engine from an exported file."""

    preprocessing: Preprocessing
    class_names: Sequence[str]  # by label
    run: Callable[
        [np.ndarray], np.ndarray
    ]  # preprocessed images float32 [N, H, W, 3] -> logits float32 [N, classes]

    @classmethod
    def from_metadata(
        cls, record: Mapping[str, Any], run: Callable[[np.ndarray], np.ndarray]
    ) -> "Classifier":
        """From `Net.metadata()`, as exports carry it.

        Raises:
          UserError: the record lacks something.
        """
        try:
            return cls(
                Preprocessing.from_metadata(record["data"]), tuple(record["class_names"]), run
            )
        except (KeyError, TypeError) as e:
            raise UserError(f"not the record of a net: {e}") from e


@dataclass(frozen=True, eq=False)
class Network:
    """A classifier ready to use."""

    model: Mapping[str, Any]  # name and options, as `build_model` takes them
    class_names: Sequence[str]  # by label
    preprocessing: Preprocessing
    params: Tree
    stats: Tree
    source: str = ""  # where the weights came from, in words

    @classmethod
    def from_metadata(cls, record: Mapping[str, Any], params: Tree, stats: Tree) -> "Network":
        """From `metadata()`, or a trial's config.json, and the weights.

        Raises:
          UserError: the record lacks something.
        """
        try:
            preprocessing = Preprocessing.from_metadata(record["data"])
            return cls(
                dict(record["model"]),
                tuple(record["class_names"]),
                preprocessing,
                params,
                stats,
                record.get("source", ""),
            )
        except (KeyError, TypeError) as e:
            raise UserError(f"not the record of a net: {e}") from e

    def metadata(self) -> dict[str, Any]:
        """Everything but the weights, as JSON can hold it; the keys are those of a trial's config.json."""
        return {
            "model": {key: value for key, value in self.model.items() if value is not None},
            "data": {
                key: list(value) if isinstance(value, tuple) else value
                for key, value in asdict(self.preprocessing).items()
            },
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
        graphdef, _, _ = split_model(
            nnx.eval_shape(lambda: build_model(self.model, len(self.class_names)))
        )
        return nnx.merge(graphdef, self.params, self.stats)

    def classifier(self) -> Classifier:
        """The net computed by Flax on the default device, compiled once for each number of images. `cpu_affinity.pin_xla_threads`s XLA's threads."""
        cpu_affinity.pin_xla_threads()
        graphdef, *weights = split_model(self.module())
        if tree_bytes(weights) <= CONSTANT_BYTES:
            run = jax.jit(functools.partial(predict, graphdef, *weights))
        else:
            run = functools.partial(
                jax.jit(functools.partial(predict, graphdef)), *jax.device_put(weights)
            )
        return Classifier(
            self.preprocessing, self.class_names, lambda images: np.asarray(run(images))
        )
