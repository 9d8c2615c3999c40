"""Exports a network in integers, calibrated on some images and measured on others."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from squeeze_jax.convert import EXPORTERS, adapt, export_network
from squeeze_jax.data import Source, evaluation_data, relabel, sample, spread
from squeeze_jax.errors import UserError
from squeeze_jax.network import Network
from squeeze_jax.train import evaluation

OTHERS = 4  # images to measure on for each that calibrates, at most
CHECKED = 8  # images on which the logits are compared
BATCH_SIZE = 32


class Accuracy(NamedTuple):
    """Top-1 (%) of a network and of a file made of it, on images that did not calibrate it."""

    before: float
    after: float
    num_images: int


class ExportedFile(NamedTuple):
    """What `LoadedNetwork.export` wrote."""

    path: Path
    num_bytes: int
    deviation: float  # the largest of a logit, relative to the largest logit
    accuracy: Accuracy | None = None  # of a calibrated file whose data has the network's classes


def export_calibrated(
    network: Network,
    format: str,
    options: Mapping[str, Any],
    source: Source,
    count: int,
    measured: Source | None = None,
    on_images: Callable[[int], object] = lambda count: None,
) -> tuple[bytes, float, Accuracy | None]:
    """Writes a network in a calibrated precision.

    Args:
      network: the network.
      format: a key of `EXPORTERS` whose files can be run.
      options: the format's.
      source: images; calibration does not use their labels.
      count: how many images calibrate; they are spread over the source.
      measured: images to measure the accuracy on; None: the others of the source.
      on_images: called with a number of images after each batch of the measurement.

    Returns:
      the content; the largest deviation of its logits, relative to the largest logit; and the
      accuracy on up to OTHERS * count images that did not calibrate, None where there are none or
      where they have other classes than the network.

    Raises:
      UserError: see `export_network`.
    """
    chosen = spread(len(source), count)
    images = sample(source.subset(chosen), network.preprocessing, count)
    content, deviation = export_network(
        network, format, {**options, "calibration": images}, images[:CHECKED]
    )
    if measured is None:
        measured = source.subset(sorted(set(range(len(source))).difference(chosen)))
    others = measured.subset(spread(len(measured), OTHERS * count))
    return content, deviation, _measure(network, format, content, others, on_images)


def _measure(
    network: Network,
    format: str,
    content: bytes,
    source: Source,
    on_images: Callable[[int], object],
) -> Accuracy | None:
    """Returns the accuracies of a network and of a file on a source; see `export_calibrated`."""
    open_file = EXPORTERS[format].open
    if open_file is None or not len(source):
        return None
    try:
        labelled = relabel(source, network.class_names, network.has_class_names)
    except UserError:
        return None

    def on_run() -> None:
        on_images(BATCH_SIZE)

    before, after = evaluation.evaluate_each(
        [network.classifier().run, adapt(open_file(content), network)],
        evaluation_data(labelled, network.preprocessing),
        BATCH_SIZE,
        on_run,
    )
    return Accuracy(before["top1"], after["top1"], before["images"])
