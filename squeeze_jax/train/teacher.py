"""A teacher: a trained network whose softened outputs a net learns beside the labels.

Knowledge distillation, Hinton et al. 2015 (arXiv 1503.02531). The teacher sees the net's own
augmented images inside the compiled step, as in evaluation: with running statistics and without
dropout.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from squeeze_jax.config_parsing import plain_section
from squeeze_jax.data import Data
from squeeze_jax.errors import UserError
from squeeze_jax.network import Network, Preprocessing, Tree, abstract_model, predict, split_model
from squeeze_jax.network.labels import LabelMap, match_labels
from squeeze_jax.network.preprocessing import renormalise, rescale, shows_the_same
from squeeze_jax.train.config import TrialConfig
from squeeze_jax.train.weights import open_once


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A network as the teacher of nets that are trained on some data.

    Teachers that differ in their weights alone are equal: one compiled step serves them.

    Attributes:
      model: its name and options.
      labels: its label for each class of the data.
      preprocessing: what it expects of images.
      given: the preprocessing of the images that it gets.
      weights: params and stats, each as nested dicts.
      note: tells the user how classes were matched, if not by name.
    """

    model: Mapping[str, Any]
    labels: tuple[int, ...]
    preprocessing: Preprocessing
    given: Preprocessing
    weights: tuple[Tree, Tree] = dataclasses.field(compare=False)
    note: str = dataclasses.field(compare=False)

    def logits(
        self, weights: tuple[Tree, Tree], images: jax.Array, dtype: str = "float32"
    ) -> jax.Array:
        """Computes its logits, [N, classes of the data]; pure.

        Args:
          weights: as the attribute, of this or an equal teacher.
          images: float32 [N, H, W, 3], normalised as the net that learns expects them.
          dtype: what to compute in.
        """
        graphdef, _, _ = split_model(abstract_model(self.model, len(self.labels)))
        params, stats = weights
        params = jax.tree.map(lambda x: x.astype(dtype), params)
        images = renormalise(images, self.given, self.preprocessing)
        images = rescale(images, self.preprocessing.image_size)
        logits = predict(graphdef, params, stats, images.astype(dtype))
        if self.labels == tuple(range(len(self.labels))):
            return logits
        return logits[:, jnp.asarray(self.labels)]


def open_teacher(config: TrialConfig, data: Data) -> Teacher | None:
    """Returns the teacher that `train.teacher` names; None where it names none.

    Raises:
      UserError: there is no such network, or it cannot teach on these data; see `as_teacher`.
    """
    path = config.train.teacher
    return as_teacher(open_once(path), data, path) if path else None


def as_teacher(network: Network, data: Data, name: str) -> Teacher:
    """Returns a network as a teacher on some data.

    Args:
      network: the network; its weights are not looked at.
      data: what nets are trained on.
      name: what messages call the network.

    Raises:
      UserError: it expects another part of a picture or another number of channels, or its classes
        are not the data's.
    """
    own, given = network.preprocessing, Preprocessing.from_metadata(plain_section(data.config))
    if not shows_the_same(given, own):
        raise UserError(
            f"train.teacher {name} was trained on another part of each picture, "
            f"{_view(own)}, than is set here, {_view(given)}; it sees the images that the net "
            "sees, at its own resolution, so set the same part"
        )
    if own.num_channels != given.num_channels:
        raise UserError(
            f"train.teacher {name} was trained with data.channel_order {own.channel_order!r}, and "
            f"{given.channel_order!r} is set here: it sees the images that the net sees, so both "
            "are in colour or both grey"
        )
    classes = _match_classes(network, data, name)
    weights = (network.params, network.stats)
    return Teacher(dict(network.model), classes.labels, own, given, weights, classes.note)


def _view(of: Preprocessing) -> str:
    return f"data.image_size {of.image_size} of data.resize {of.resize} ({of.resize_mode})"


def _match_classes(network: Network, data: Data, name: str) -> LabelMap:
    """Returns a teacher's label for each class of the data."""
    count, source = len(network.class_names), data.train_source.name
    if count != data.num_classes:
        raise UserError(
            f"train.teacher {name} has {count} classes, and {source} {data.num_classes}: "
            "a teacher must know the same"
        )
    try:
        return match_labels(
            source, data.class_names, network.class_names, network.has_class_names, None
        )
    except UserError as e:
        raise UserError(f"train.teacher {name}: {e}") from e
