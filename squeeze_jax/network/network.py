"""A classifier as a value: its model, its weights, its preprocessing and its class names."""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from squeeze_jax import cpu_affinity
from squeeze_jax.errors import UserError
from squeeze_jax.network.functional import abstract_model, predict, split_model, tree_bytes
from squeeze_jax.network.labels import has_class_names, is_unicode
from squeeze_jax.network.metadata import validate_metadata
from squeeze_jax.network.paths import Tree
from squeeze_jax.network.preprocessing import Preprocessing

# A net of at most so many bytes is compiled with its weights as constants: products with constants
# are faster, but compiling copies them.
CONSTANT_BYTES = 32 * 2**20


class Classifier(NamedTuple):
    """Classifies images, by Flax or by another engine from an exported file."""

    preprocessing: Preprocessing
    class_names: Sequence[str]  # by label
    # preprocessed images float32 [N, H, W, C] -> logits float32 [N, classes]
    run: Callable[[np.ndarray], np.ndarray]
    has_class_names: bool = True  # False: an import numbered the classes

    @classmethod
    def from_metadata(
        cls, metadata: Mapping[str, Any], run: Callable[[np.ndarray], np.ndarray]
    ) -> "Classifier":
        """Returns the classifier that `Network.metadata()` describes, as exports carry it.

        Args:
          metadata: what the exported file carries.
          run: computes logits, see the attribute.

        Raises:
          UserError: the metadata lacks a key, or a value is wrong; and `run` gives other than one
            output a class, once it is called.
        """
        try:
            validate_metadata(metadata, None)
        except (KeyError, TypeError, AttributeError, ValueError) as e:
            raise UserError(f"this is not the metadata of a network: {e}") from e
        names = tuple(metadata["class_names"])

        def checked_run(images: np.ndarray) -> np.ndarray:
            if (logits := run(images)).shape[1:] != (len(names),):
                shape = list(logits.shape[1:])
                raise UserError(f"it has outputs of shape {shape} for {len(names)} class names")
            return logits

        preprocessing = Preprocessing.from_metadata(metadata["data"])
        return cls(preprocessing, names, checked_run, has_class_names(metadata))


@dataclass(frozen=True, eq=False)
class Network:
    """A model with its weights, its preprocessing and its class names."""

    model: Mapping[str, Any]  # name and options, as `build_model` takes them
    class_names: Sequence[str]  # by label
    preprocessing: Preprocessing
    params: Tree
    stats: Tree
    source: str = ""  # where the weights came from, in words
    has_class_names: bool = True  # False: an import numbered the classes

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], params: Tree, stats: Tree) -> "Network":
        """Returns the network of `metadata()`, or of a trial's config.json, and its weights.

        Args:
          metadata: model, data, class_names, source and has_class_names.
          params: nested dicts of parameters.
          stats: nested dicts of BatchNorm statistics.

        Raises:
          UserError: the metadata lacks a key, or a value has another type.
        """
        try:
            preprocessing = Preprocessing.from_metadata(metadata["data"])
            return cls(
                dict(metadata["model"]),
                tuple(metadata["class_names"]),
                preprocessing,
                params,
                stats,
                metadata.get("source", ""),
                has_class_names(metadata),
            )
        except (KeyError, TypeError) as e:
            raise UserError(f"this is not the metadata of a network: {e}") from e

    def metadata(self) -> dict[str, Any]:
        """Returns all but the weights, ready for JSON, under the keys of a trial's config.json.

        Raises:
          UserError: a class name is not valid Unicode, so that no file can hold it.
        """
        if invalid := [name for name in self.class_names if not is_unicode(name)]:
            raise UserError(f"class name {invalid[0]!r} is not valid UTF-8; rename the class")
        metadata = {
            "model": {key: value for key, value in self.model.items() if value is not None},
            "data": self.preprocessing.to_metadata(),
            "num_classes": len(self.class_names),
            "class_names": list(self.class_names),
            "source": self.source,
        }
        if has_class_names(metadata) != self.has_class_names:
            metadata["has_class_names"] = self.has_class_names
        return metadata

    def stored_metadata(self) -> dict[str, Any]:
        """Returns `metadata()` for a file that also holds the weights.

        Raises:
          UserError: a value is beyond what is read from such a file, see `validate_metadata`.
        """
        metadata = self.metadata()
        shapes = [leaf.shape for leaf in jax.tree.leaves((self.params, self.stats))]
        try:
            validate_metadata(json.loads(json.dumps(metadata)), shapes)
        except ValueError as e:
            raise UserError(f"no file can hold this network: {e}") from e
        return metadata

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Returns the height, width and channels of one preprocessed image."""
        return self.preprocessing.input_shape

    def module(self) -> nnx.Module:
        """Returns the Flax module with these weights."""
        graphdef, _, _ = split_model(abstract_model(self.model, len(self.class_names)))
        return nnx.merge(graphdef, self.params, self.stats)

    def classifier(self) -> Classifier:
        """Returns the classifier that Flax computes on the default device.

        It compiles once for each number of images. XLA's threads are pinned to their cores, see
        `cpu_affinity.pin_xla_threads`.
        """
        cpu_affinity.pin_xla_threads()
        graphdef, *weights = split_model(self.module())
        if tree_bytes(weights) <= CONSTANT_BYTES:
            run = jax.jit(functools.partial(predict, graphdef, *weights))
        else:
            run = functools.partial(
                jax.jit(functools.partial(predict, graphdef)), *jax.device_put(weights)
            )
        return Classifier(
            self.preprocessing,
            self.class_names,
            lambda images: np.asarray(run(images)),
            self.has_class_names,
        )
