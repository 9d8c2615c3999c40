"""From a wish (so many bits a weight, so many bytes, so little loss) to a .sqz file."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from squeeze_jax.compress import quantize
from squeeze_jax.compress.calibrate import Calibration
from squeeze_jax.compress.sqz import container
from squeeze_jax.compress.sqz.quantized_tensor import Tensor
from squeeze_jax.errors import UserError
from squeeze_jax.network import Network

Found = TypeVar("Found")

# How size and divergence go with the multiplier, on logarithmic scales; a search begins with that and corrects it.
_SIZE_SLOPE, _LOSS_SLOPE = -1 / 8, 1.2
_FLAT = 0.1  # of that slope: values no longer change
_CHEAP, _DEAR = 30, 8  # trials of a search by estimates, and of one by files


def to_bits(
    net: Network,
    calibrated: Calibration | None,
    bits: int,
    base: Network | None = None,
    **options: Any,
) -> bytes:
    """The file of a net with at most 2^bits - 1 levels in each layer; see `quantize.to_bits`.

    Args:
      net: the net.
      calibrated: its calibration, or None.
      bits: of a level.
      base: a net that readers have; the file is an update of it.
      options: of `container.write`: coder, bits (of its contexts), known_classes.

    Raises:
      UserError: bits out of range.
    """
    if not quantize.FEWEST_BITS <= bits <= quantize.MOST_BITS:
        raise UserError(
            f"levels have {quantize.FEWEST_BITS} to {quantize.MOST_BITS} bits, not {bits}"
        )
    return _file(net, quantize.to_bits(net, calibrated, bits, base), base, options)


def to_size(
    net: Network,
    calibrated: Calibration,
    goal: int,
    base: Network | None = None,
    on_layer: Callable[[], None] = lambda: None,
    **options: Any,
) -> bytes:
    """The best file of a net that has at most so many bytes, and 1 % fewer at the least unless it is lossless.

    Args:
      net: the net.
      calibrated: its calibration.
      goal: bytes.
      base: a net that readers have; the file is an update of it.
      on_layer: called after each layer of each trial.
      options: of `container.write`.

    Raises:
      UserError: no file is as small.
    """
    if len(content := container.lossless(net, base=base, **options)) <= goal:
        return content

    fixed = len(
        _file(net, quantize.nothing(net, base), base, options)
    )  # the record, the biases and the like

    def estimated(multiplier: float) -> tuple[float, float]:
        return quantize.estimate(net, calibrated, multiplier, base)[0] / 8, multiplier

    def measured(multiplier: float) -> tuple[float, bytes]:
        content = _file(
            net, quantize.quantize(net, calibrated, multiplier, base, on_layer), base, options
        )
        return len(content) - fixed, content

    if goal <= fixed:
        raise UserError(
            f"without its kernels the net takes {fixed:,} bytes already, and is to take {goal:,}"
        )
    search = functools.partial(
        _search,
        goal=goal - fixed,
        slope=_SIZE_SLOPE,
        said=lambda value: f"{value + fixed:,.0f} bytes",
    )
    start = search(estimated, start=_first(net), tolerance=0.02, most=_CHEAP)
    return search(measured, start=start, tolerance=0.01, most=_DEAR)


def to_loss(
    net: Network,
    calibrated: Calibration,
    goal: float,
    held_out: np.ndarray,
    base: Network | None = None,
    on_layer: Callable[[], None] = lambda: None,
    **options: Any,
) -> bytes:
    """The smallest file of a net whose outputs diverge by no more from the net's own, to 10 % of it.

    Args:
      net: the net.
      calibrated: its calibration.
      goal: mean KL divergence, nats.
      held_out: the images on which it is measured, float32 [N, H, W, 3]: others than the calibration's.
      base: a net that readers have; the file is an update of it.
      on_layer: called after each layer of each trial.
      options: of `container.write`.

    Raises:
      UserError: no file comes as close.
    """
    known_classes, divergence = (
        options.get("known_classes"),
        quantize.divergence_from(net, held_out),
    )

    def estimated(multiplier: float) -> tuple[float, float]:
        return quantize.estimate(net, calibrated, multiplier, base)[
            1
        ] / 2, multiplier  # makes up for others: about half is left

    def measured(multiplier: float) -> tuple[float, bytes]:
        content = _file(
            net, quantize.quantize(net, calibrated, multiplier, base, on_layer), base, options
        )
        return divergence(container.read(content, known_classes, base)), content

    search = functools.partial(
        _search, goal=goal, slope=_LOSS_SLOPE, tolerance=0.1, said=lambda value: f"{value:.3g} nats"
    )
    return search(measured, start=search(estimated, start=_first(net), most=_CHEAP), most=_DEAR)


def _file(
    net: Network, coded: Mapping[str, Tensor], base: Network | None, options: Mapping[str, Any]
) -> bytes:
    return container.write(net, coded, base=base, added=quantize.common(net, base), **options)


def _first(net: Network) -> float:
    """A multiplier of the right order of magnitude: a bit a weight for a tenth of a nat."""
    return 0.1 / sum(array.size for array in container.paths(net.params, net.stats).values())


def _search(
    measure: Callable[[float], tuple[float, Found]],
    goal: float,
    start: float,
    slope: float,
    tolerance: float,
    most: int,
    said: Callable[[float], str],
) -> Found:
    """What comes with the largest value that is at most `goal`; ends once that is within `tolerance`, a fraction of it.

    It also ends where the values no longer change: layers have a finest and a coarsest step.

    Args:
      measure: multiplier -> (a value, about a power of the multiplier; what comes with it).
      goal: for the value.
      start: the first multiplier.
      slope: log value over log multiplier, about.
      tolerance: see above.
      most: trials.
      said: a value in words.

    Raises:
      UserError: no trial was at most `goal`.
    """
    tried, multiplier = {}, start
    for _ in range(most):
        value, found = tried[multiplier] = measure(multiplier)
        if goal * (1 - tolerance) <= value <= goal:
            return found
        distances = {at: np.log(max(value, 1e-9 * goal) / goal) for at, (value, _) in tried.items()}
        multiplier = _next(distances, np.log(1 - tolerance / 2), slope)
        if multiplier in tried or _flat(distances, slope):  # as near as there is
            break
    kept = [trial for trial in tried.values() if trial[0] <= goal]
    if not kept:
        raise UserError(
            f"{said(goal)} could not be reached, the least was {said(min(value for value, _ in tried.values()))}"
        )
    return max(kept, key=lambda trial: trial[0])[1]


def _flat(tried: Mapping[float, float], slope: float) -> bool:
    """Whether log(value / goal), all on one side of 0, did change with the multiplier, but hardly over the last three."""
    multipliers, values = np.log(list(tried)), np.array(list(tried.values()))
    if len(values) < 4 or min(values) <= 0 < max(values):
        return False
    expected = abs(slope * (multipliers[-1] - multipliers[-3]))
    return np.ptp(values[-3:]) < _FLAT * expected <= np.ptp(values)


def _next(tried: Mapping[float, float], aim: float, slope: float) -> float:
    """The multiplier at which log(value / goal), known at those tried, is expected to be `aim`."""
    points = [(value - aim, np.log(multiplier)) for multiplier, value in tried.items()]
    points.sort(
        key=lambda point: (point[0], slope * point[1])
    )  # of equal ones that nearer to the other side comes nearer to it
    below, above = (
        [point for point in points if point[0] <= 0],
        [point for point in points if point[0] > 0],
    )
    if below and above:
        low, left = below[-1]
        high, right = min(
            above, key=lambda point: abs(point[1] - left)
        )  # the smallest, but for noise
        # Not next to an end, so that the bracket shrinks whatever the curve.
        return float(np.exp(left + (right - left) * np.clip(low / (low - high), 0.05, 0.95)))
    # Beyond all that were tried, and further each time: a value may rise now and then where the curve falls.
    ahead = -np.sign(slope * points[0][0])
    value, at = max(points, key=lambda point: ahead * point[1])
    return float(np.exp(at - np.clip(len(points) * value / slope, -4, 4)))
