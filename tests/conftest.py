"""Strict checks for every test: two CPU devices, silent rank promotion is an error."""

import os

# Before JAX starts: two devices, so that whatever works on one only is seen.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "2"

import jax  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
