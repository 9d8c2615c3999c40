"""Trains a study: python launch.py --config configs/sr_sweep.py[:PRESET] [--config.KEY=VALUE ...].

The same as `squeeze-jax launch`: see `python launch.py --help`.
"""

import sys

from squeeze_jax.cli_launch import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
