"""A trained net as a file of few bytes: its size on disk and the accuracy of what is read back out of it join the trial's result."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from ml_collections import ConfigDict

from squeeze_jax.compress import rate_search
from squeeze_jax.compress.calibrate import calibrate
from squeeze_jax.compress.sqz import container
from squeeze_jax.data import Data, sample
from squeeze_jax.errors import UserError
from squeeze_jax.files import write_atomically
from squeeze_jax.network import Network
from squeeze_jax.train import CompiledTrial, parallel
from squeeze_jax.train.checkpoint import load_network
from squeeze_jax.train.evaluation import percentages

CODERS = get_args(container.Coder)
IMAGES = 200  # that tell which weights matter, and as many others to measure the loss on


def check(settings: ConfigDict) -> None:
    """Raises UserError for a config's `compress` section that can't be meant."""
    if unknown := [coder for coder in settings.coders if coder not in CODERS]:
        raise UserError(f"compress.coders: {unknown[0]!r} is none of {', '.join(CODERS)}")
    if settings.max_loss is not None and not settings.max_loss > 0:
        raise UserError(f"compress.max_loss is above 0 nats, or not set; got {settings.max_loss}")


def columns(coders: Sequence[str]) -> list[str]:
    """What `compress` measures: bytes_CODER, and sqz_top1 (%) of the net in the first file."""
    return [*(f"bytes_{coder}" for coder in coders), *(["sqz_top1"] if coders else [])]


def is_due(settings: ConfigDict, result: Mapping[str, Any] | None) -> bool:
    """Whether a trial of this result has learned, and one of the files asked for is not made yet."""
    return (
        result is not None
        and result["status"] == "ok"
        and any(name not in result for name in columns(settings.coders))
    )


def compress(
    settings: ConfigDict, program: CompiledTrial, data: Data, directory: Path, writes: bool
) -> dict[str, Any]:
    """Writes a trial's final net as net.CODER.sqz into its folder, for each coder asked for.

    Every process calls it at once, since Orbax and the evaluation are for all of them together.

    Args:
      settings: the `compress` section of the trial's config.
      program: the trial's, which evaluates as the training did.
      data: what the trial was trained on.
      directory: the trial's folder, with its checkpoint.
      writes: whether this process is the one that writes.

    Returns:
      See `columns`: bytes on disk; top-1 is that of the net read back from the first file.

    Raises:
      UserError: there is no whole checkpoint, or no file can hold the net.
      OSError: a file can't be written.
    """
    net = load_network(directory)
    sizes, accuracy = {}, {}
    for coder, content in _encode(net, settings, data).items():
        if writes:
            path = directory / f"net.{coder}.sqz"
            write_atomically(path, content)
            content = path.read_bytes()
        sizes[f"bytes_{coder}"] = len(content)
        accuracy = accuracy or {"sqz_top1": _top1(container.read(content), program)}
    return sizes | accuracy


def _encode(net: Network, settings: ConfigDict, data: Data) -> dict[str, bytes]:
    """The files of a net, by coder: the one place where a sweep decides how a net becomes bytes."""
    if settings.max_loss is None:
        return {coder: container.lossless(net, coder=coder) for coder in settings.coders}
    images = sample(data.train_source, net.preprocessing, 2 * IMAGES)
    calibrated = calibrate(net, images[::2])
    return {
        coder: rate_search.to_loss(net, calibrated, settings.max_loss, images[1::2], coder=coder)
        for coder in settings.coders
    }


def _top1(net: Network, program: CompiledTrial) -> float:
    """Top-1 (%) on the evaluation set, as the training measures it."""
    params, stats = parallel.replicate((net.params, net.stats), program.devices)
    return percentages(program.evaluate(params, stats))["top1"]
