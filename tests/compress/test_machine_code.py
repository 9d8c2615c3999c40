"""Inner loops are compiled wherever the package runs."""

import numba.core.caching

from squeeze_jax.compress.machine_code import njit


def doubled(x):
    return 2 * x


def test_a_place_to_keep_the_code_is_not_needed(monkeypatch):
    """Neither the package's folder nor the user's cache can be written."""
    assert njit(doubled)(3) == 6
    monkeypatch.setattr(numba.core.caching.CacheImpl, "_locator_classes", [])
    assert njit(doubled)(4) == 8
