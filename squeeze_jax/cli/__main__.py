"""Lets `python -m squeeze_jax.cli` do what `squeeze-jax` does."""

import sys

from squeeze_jax.cli import main

sys.exit(main())
