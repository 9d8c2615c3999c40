"""The .sqz files of a study's nets.

Their sizes, and the accuracy of what is read back from them.
"""

from collections.abc import Mapping, Sequence
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


def check_settings(settings: CompressConfig) -> None:
    """Rejects, with a UserError, a `compress` section that cannot be used."""
    if unknown := [coder for coder in settings.coders if coder not in CODERS]:
        raise UserError(f"compress.coders: {unknown[0]!r} is none of {', '.join(CODERS)}")


def measure_names(coders: Sequence[str]) -> list[str]:
    """Returns what `measure` adds to a result: bytes_CODER, and sqz_top1 (%) of the first file."""
    return [*(f"bytes_{coder}" for coder in coders), *(["sqz_top1"] if coders else [])]


def is_due(settings: CompressConfig, result: Mapping[str, Any] | None) -> bool:
    """Returns whether a trial of this result has learned and lacks a file that is asked for."""
    return (
        result is not None
        and result["status"] == "ok"
        and any(name not in result for name in measure_names(settings.coders))
    )


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


def measure(files: Mapping[str, bytes], program: CompiledTrial) -> dict[str, float]:
    """Returns the sizes of the files, and top-1 (%) of the net read back from the first one.

    Every process calls it at once, since the evaluation is for all of them together.

    Args:
      files: coder -> content.
      program: evaluates as the training did.
    """
    sizes = {f"bytes_{coder}": len(content) for coder, content in files.items()}
    first = container.read(next(iter(files.values())))
    return sizes | {"sqz_top1": _top1(first, program)}


def _top1(network: Network, program: CompiledTrial) -> float:
    params, stats = parallel.replicate((network.params, network.stats), program.devices)
    return percentages(program.evaluate(params, stats))["top1"]
