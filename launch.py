"""Trains a study: python launch.py --config configs/sr_sweep.py[:PRESET] [--config.KEY=VALUE ...].

The same as `squeeze-jax launch`: see `python launch.py --help`.
"""

import sys

from squeeze_jax.__main__ import run

if __name__ == "__main__":
    run(["launch", *sys.argv[1:]])
