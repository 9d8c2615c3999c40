"""The .sqz files of a study's nets.

Their sizes, and the accuracy of what is read back from them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from squeeze_jax.compress import rate_search
from squeeze_jax.compress.calibrate import calibrate
from squeeze_jax.compress.config import CompressConfig
from squeeze_jax.compress.sqz import container
from squeeze_jax.compress.sqz.coders import CODERS
from squeeze_jax.data import Data, sample
from squeeze_jax.errors import UserError
from squeeze_jax.network import Network
from squeeze_jax.train import CompiledTrial, parallel
from squeeze_jax.train.checkpoint import load_network
from squeeze_jax.train.evaluation import percentages

IMAGES = 200  # to calibrate on, and as many others to measure the loss on
_MEASURED = ("bytes_", "sqz_")  # how the names of what `measure` returns begin


def check_settings(settings: CompressConfig) -> None:
    """Rejects, with a UserError, a `compress` section that cannot be used."""
    if unknown := [coder for coder in settings.coders if coder not in CODERS]:
        raise UserError(f"compress.coders: {unknown[0]!r} is none of {', '.join(CODERS)}")


def is_due(settings: CompressConfig, result: Mapping[str, Any] | None) -> bool:
    """Returns whether a trial of this result has learned and lacks a file that is asked for."""
    if result is None or result["status"] != "ok" or not settings.coders:
        return False
    names = (*(f"bytes_{coder}" for coder in settings.coders), "sqz_top1")
    return _max_loss(result) != settings.max_loss or any(name not in result for name in names)


def without_outdated(settings: CompressConfig, result: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a result without what was measured of files of another `max_loss`."""
    if _max_loss(result) == settings.max_loss:
        return dict(result)
    return {name: value for name, value in result.items() if not name.startswith(_MEASURED)}


def _max_loss(result: Mapping[str, Any]) -> float | None:
    return result.get("sqz_max_loss")  # lossless files have none


def encode(directory: Path, settings: CompressConfig, data: Data) -> dict[str, bytes]:
    """Returns the .sqz files of a trial's final net, by coder.

    Args:
      directory: the trial's folder, with its checkpoint.
      settings: the `compress` section of the trial's config.
      data: what the trial was trained on.

    Raises:
      UserError: there is no whole checkpoint, or no file can hold the net.
    """
    network = load_network(directory)
    if settings.max_loss is None:
        return {coder: container.lossless(network, coder=coder) for coder in settings.coders}
    images = sample(data.train_source, network.preprocessing, 2 * IMAGES)
    calibrated = calibrate(network, images[::2])
    return {
        coder: rate_search.to_loss(
            network, calibrated, settings.max_loss, images[1::2], coder=coder
        )
        for coder in settings.coders
    }


def measure(
    settings: CompressConfig, files: Mapping[str, bytes], program: CompiledTrial
) -> dict[str, float]:
    """Returns what a result gains: bytes_CODER, and sqz_top1 (%) of the net read from the first.

    Also sqz_max_loss (nats), where the files are not lossless. Every process calls it at once,
    since the evaluation is for all of them together.

    Args:
      settings: the `compress` section of the trial's config.
      files: coder -> content.
      program: evaluates as the training did.
    """
    measured: dict[str, float] = {
        f"bytes_{coder}": len(content) for coder, content in files.items()
    }
    measured["sqz_top1"] = _top1(container.read(next(iter(files.values()))), program)
    if settings.max_loss is not None:
        measured["sqz_max_loss"] = settings.max_loss
    return measured


def _top1(network: Network, program: CompiledTrial) -> float:
    params, stats = parallel.replicate((network.params, network.stats), program.devices)
    return percentages(program.evaluate(params, stats))["top1"]
