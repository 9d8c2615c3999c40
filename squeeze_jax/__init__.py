"""Explores, trains, costs, compresses and exports SqueezeNet and its descendants in JAX/Flax.

The names below are imported when they are first used, so that importing the package is quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from squeeze_jax.api import LoadedNetwork, build, load, trace
    from squeeze_jax.study import read_study, run_study

__version__ = "0.2.0"

__all__ = ["LoadedNetwork", "__version__", "build", "load", "read_study", "run_study", "trace"]

_HOMES = {
    "LoadedNetwork": "squeeze_jax.api",
    "build": "squeeze_jax.api",
    "load": "squeeze_jax.api",
    "read_study": "squeeze_jax.study",
    "run_study": "squeeze_jax.study",
    "trace": "squeeze_jax.api",
}


def __getattr__(name: str) -> Any:
    """Imports a public name from the module that defines it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Lists the public names too, for completion in notebooks."""
    return sorted({*globals(), *__all__})
