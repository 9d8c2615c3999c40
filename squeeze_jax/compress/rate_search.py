"""Writes a network at a target rate: bits a weight, bytes of the file, or KL divergence."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from squeeze_jax.compress import quantize
from squeeze_jax.compress.calibrate import Calibration
from squeeze_jax.compress.sqz import container
from squeeze_jax.compress.sqz.quantized_tensor import Tensor
from squeeze_jax.errors import UserError
from squeeze_jax.network import Network, is_kernel, leaves_by_path

Found = TypeVar("Found")

# Derivatives of log(size) and log(divergence) by log(multiplier), from which a search starts.
_SIZE_SLOPE, _LOSS_SLOPE = -1 / 8, 1.2
_FLAT = 0.1  # fraction of these below which values count as constant
_MAX_ESTIMATES, _MAX_FILES = 30, 8  # trials of a search by estimates, and of one by files


def to_bits(
    network: Network,
    calibrated: Calibration | None,
    bits: int,
    base: Network | None = None,
    **options: Any,
) -> bytes:
    """Returns the .sqz file of a network with at most 2^bits - 1 levels in each layer.

    It is the lossless one where that is smaller and has no more levels.

    Args:
      network: the network.
      calibrated: its calibration, or None; see `quantize.to_bits`.
      bits: bits of a level.
      base: a network that readers have; the file is then a delta from it.
      **options: options of `container.write`: coder, bits (of its contexts), known_classes.

    Raises:
      UserError: bits out of range.
    """
    if not quantize.FEWEST_BITS <= bits <= quantize.MOST_BITS:
        raise UserError(
            f"levels must have {quantize.FEWEST_BITS} to {quantize.MOST_BITS} bits, not {bits}"
        )
    coded = _write(network, quantize.to_bits(network, calibrated, bits, base), base, options)
    kernels = [leaf for path, leaf in leaves_by_path(network.params).items() if is_kernel(path)]
    if base is not None or any(np.unique(kernel).size >= 2**bits for kernel in kernels):
        return coded
    return min(container.lossless(network, base=base, **options), coded, key=len)


def to_size(
    network: Network,
    calibrated: Calibration,
    goal: int,
    base: Network | None = None,
    on_layer: Callable[[], None] = lambda: None,
    on_try: Callable[[str], None] = lambda text: None,
    **options: Any,
) -> bytes:
    """Returns the most accurate .sqz file of a network that has at most `goal` bytes.

    The file is at most 1 % smaller than the goal, unless a lossless file is small enough or the
    search runs out of trials.

    Args:
      network: the network.
      calibrated: its calibration.
      goal: bytes.
      base: a network that readers have; the file is then a delta to it.
      on_layer: called after each layer of each trial.
      on_try: receives each trial's file in words.
      **options: options of `container.write`.

    Raises:
      UserError: no file is that small.
    """
    if len(content := container.lossless(network, base=base, **options)) <= goal:
        return content

    # The bytes of the header, the biases and the rest that the multiplier does not change.
    fixed = len(_write(network, quantize.code_zeros(network, base), base, options))

    def estimated(multiplier: float) -> tuple[float, float]:
        return quantize.estimate(network, calibrated, multiplier, base)[0] / 8, multiplier

    def measure(multiplier: float) -> tuple[float, bytes]:
        content = _write(
            network,
            quantize.quantize(network, calibrated, multiplier, base, on_layer),
            base,
            options,
        )
        on_try(f"{len(content):,} bytes; at most {goal:,} wanted")
        return len(content) - fixed, content

    if goal <= fixed:
        raise UserError(
            f"a file of {goal:,} bytes is too small: the net takes {fixed:,} without its kernels"
        )
    search = functools.partial(
        _search,
        goal=goal - fixed,
        slope=_SIZE_SLOPE,
        format_value=lambda value: f"{value + fixed:,.0f} bytes",
    )
    start = search(
        estimated, start=_guess_multiplier(network), tolerance=0.02, max_trials=_MAX_ESTIMATES
    )
    return search(measure, start=start, tolerance=0.01, max_trials=_MAX_FILES)


def to_loss(
    network: Network,
    calibrated: Calibration,
    goal: float,
    held_out: np.ndarray,
    base: Network | None = None,
    on_layer: Callable[[], None] = lambda: None,
    on_try: Callable[[str], None] = lambda text: None,
    **options: Any,
) -> bytes:
    """Returns the smallest .sqz file of a network whose outputs diverge by at most `goal`.

    The search stops within 10 % of the goal. The lossless file is the smallest where its weights
    have few values already.

    Args:
      network: the network.
      calibrated: its calibration.
      goal: mean KL divergence from the network's own outputs, nats.
      held_out: images to measure it on, float32 [N, H, W, 3], other than the calibration's.
      base: a network that readers have; the file is then a delta to it.
      on_layer: called after each layer of each trial.
      on_try: receives each trial's file in words.
      **options: options of `container.write`.
    """
    known_classes = options.get("known_classes")
    divergence = quantize.divergence_from(network, held_out)

    def estimated(multiplier: float) -> tuple[float, float]:
        # Layers correct each other's errors, so that about half of the estimate remains.
        return quantize.estimate(network, calibrated, multiplier, base)[1] / 2, multiplier

    def measure(multiplier: float) -> tuple[float, bytes]:
        content = _write(
            network,
            quantize.quantize(network, calibrated, multiplier, base, on_layer),
            base,
            options,
        )
        nats = divergence(container.read(content, known_classes, base))
        on_try(f"{len(content):,} bytes, {nats:.3g} nats; at most {goal:.3g} wanted")
        return nats, content

    search = functools.partial(
        _search,
        goal=goal,
        slope=_LOSS_SLOPE,
        tolerance=0.1,
        format_value=lambda value: f"{value:.3g} nats",
    )
    lossless = container.lossless(network, base=base, **options)
    try:
        start = search(estimated, start=_guess_multiplier(network), max_trials=_MAX_ESTIMATES)
        found = search(measure, start=start, max_trials=_MAX_FILES)
    except UserError:  # no lossy file is that close
        return lossless
    return min(lossless, found, key=len)


def _write(
    network: Network, coded: Mapping[str, Tensor], base: Network | None, options: Mapping[str, Any]
) -> bytes:
    return container.write(
        network, coded, base=base, added=quantize.find_added(network, base), **options
    )


def _guess_multiplier(network: Network) -> float:
    """Returns a multiplier of the right order of magnitude: 0.1 nats for one bit a weight."""
    return 0.1 / sum(
        array.size for array in container.paths(network.params, network.stats).values()
    )


def _search(
    measure: Callable[[float], tuple[float, Found]],
    goal: float,
    start: float,
    slope: float,
    tolerance: float,
    max_trials: int,
    format_value: Callable[[float], str],
) -> Found:
    """Returns the result of the largest value that is at most `goal`.

    Stops at a value within `tolerance` of the goal, or once values no longer change, since layers
    have a finest and a coarsest step.

    Args:
      measure: multiplier -> (value, result); the value is about a power of the multiplier.
      goal: largest acceptable value.
      start: the first multiplier.
      slope: approximate derivative of log(value) by log(multiplier).
      tolerance: fraction of the goal.
      max_trials: largest number of trials.
      format_value: formats a value for messages.

    Raises:
      UserError: no trial reached the goal.
    """
    tried, multiplier = {}, start
    for _ in range(max_trials):
        value, found = tried[multiplier] = measure(multiplier)
        if goal * (1 - tolerance) <= value <= goal:
            return found
        distances = {at: np.log(max(value, 1e-9 * goal) / goal) for at, (value, _) in tried.items()}
        multiplier = _propose(distances, np.log(1 - tolerance / 2), slope)
        if multiplier in tried or _is_flat(distances, slope):  # no nearer value exists
            break
    kept = [trial for trial in tried.values() if trial[0] <= goal]
    if not kept:
        least = min(value for value, _ in tried.values())
        raise UserError(
            f"{format_value(goal)} could not be reached; the least was {format_value(least)}"
        )
    return max(kept, key=lambda trial: trial[0])[1]


def _is_flat(tried: Mapping[float, float], slope: float) -> bool:
    """Returns whether log(value / goal) has changed, but hardly over the last three trials.

    Returns False while trials lie on both sides of the goal.
    """
    multipliers, values = np.log(list(tried)), np.array(list(tried.values()))
    if len(values) < 4 or min(values) <= 0 < max(values):
        return False
    expected = abs(slope * (multipliers[-1] - multipliers[-3]))
    return np.ptp(values[-3:]) < _FLAT * expected <= np.ptp(values)


def _propose(tried: Mapping[float, float], aim: float, slope: float) -> float:
    """Returns the multiplier at which log(value / goal) is expected to be `aim`.

    Interpolates between trials on both sides of the goal; extrapolates from trials on one side.
    """
    points = [(value - aim, np.log(multiplier)) for multiplier, value in tried.items()]
    # Sort equal values by multiplier, the one nearer to the other side of the goal closer to it.
    points.sort(key=lambda point: (point[0], slope * point[1]))
    below = [point for point in points if point[0] <= 0]
    above = [point for point in points if point[0] > 0]
    if below and above:
        low, left = below[-1]
        # Without noise this is the smallest value.
        high, right = min(above, key=lambda point: abs(point[1] - left))
        # Stay away from the ends, so that the bracket shrinks for any curve.
        return float(np.exp(left + (right - left) * np.clip(low / (low - high), 0.05, 0.95)))
    # Step beyond all trials, further each time, since single values may rise where the curve falls.
    ahead = -np.sign(slope * points[0][0])
    value, at = max(points, key=lambda point: ahead * point[1])
    return float(np.exp(at - np.clip(len(points) * value / slope, -4, 4)))
