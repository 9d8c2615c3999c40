"""Tests the search for a file of a given size or loss."""

import math

import pytest

from squeeze_jax.compress import rate_search
from squeeze_jax.errors import UserError


def search(curve, goal, start, slope, tolerance=0.05, most=8):
    """The multiplier found, and all that were tried."""
    tried = []

    def measure(multiplier):
        tried.append(multiplier)
        return curve(multiplier), multiplier

    return rate_search._search(
        measure,
        goal,
        start,
        slope,
        tolerance,
        most,
        format_value=lambda value: f"{value:.0f} bytes",
    ), tried


@pytest.mark.parametrize("start", [1e-3, 0.9, 1.1, 1e4])
@pytest.mark.parametrize(
    ("power", "slope"), [(1.2, 1.2), (0.7, 1.2), (2.0, 1.2), (-1 / 8, -1 / 8), (-1 / 5, -1 / 8)]
)
def test_powers_are_found_from_afar(start, power, slope):
    found, _ = search(lambda multiplier: 5 * multiplier**power, goal=5.0, start=start, slope=slope)
    assert 0.95 <= found**power <= 1


@pytest.mark.parametrize("slope", [1.2, -1.2])
@pytest.mark.parametrize("rise", [1.02, 1.2, 1.5])
def test_a_curve_that_rises_now_and_then_is_followed_to_where_it_falls(rise, slope):
    """A loss falls with the multiplier, but for noise; the result is below the goal and near it."""

    def curve(multiplier):
        here = math.copysign(1, slope) * math.log(multiplier)
        return multiplier ** (0.9 * slope) * (rise if -0.3 < here < 0 else 1)

    found, tried = search(curve, goal=1.0, start=1.06 ** (1 / slope), slope=slope)
    assert len(tried) > 1 and 0.5 < curve(found) <= 1


def test_what_was_not_reached_is_said():
    with pytest.raises(UserError, match="1 bytes could not be reached; the least was 3 bytes"):
        search(lambda multiplier: 3 + multiplier, goal=1.0, start=1.0, slope=1.2)


def test_a_search_ends_where_the_values_no_longer_change():
    """A goal beyond what the finest step reaches does not take all trials."""

    def size(multiplier):
        return 326.0 if multiplier < 1e-18 else 40 * multiplier ** (-1 / 8) / 1e-11 ** (-1 / 8)

    most = 30
    found, tried = search(size, goal=337.0, start=2e-4, slope=-1 / 8, most=most)
    assert size(found) == 326 and len(tried) < most / 2 and found > 1e-18 * 1e-8


def test_a_search_goes_on_where_the_values_do_not_change_yet():
    def size(multiplier):
        return 0.0 if multiplier > 1e-12 else 40 * (multiplier / 1e-12) ** (-1 / 8)

    found, _ = search(size, goal=337.0, start=1.0, slope=-1 / 8, most=30)
    assert 0.95 * 337 <= size(found) <= 337
