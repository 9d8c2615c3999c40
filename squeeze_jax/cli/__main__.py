"""Lets `python -m squeeze_jax.cli` do what `python -m squeeze_jax` does."""

import runpy

runpy.run_module("squeeze_jax", run_name="__main__")
