"""The latest compiled trial is shared, and those before it leave nothing behind."""

import sys
from pathlib import Path

import pytest

from squeeze_jax.configs import base
from squeeze_jax.data import open_data
from squeeze_jax.study.program_cache import ProgramCache
from squeeze_jax.train import TrialConfig, train


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_the_code_of_earlier_designs_is_freed(tmp_path):
    """Linux gives a process 65,530 memory maps, which the programs of 35 designs took up."""
    cache, maps, data = ProgramCache(), [], None
    for width in (8, 16, 24):
        config = base.get_config("digits", "x")
        config.model.update(num_fire=2, pool_after=("conv1",), base_e=width, conv1_filters=8)
        config.train.update(steps=2, batch_size=16)
        trial = TrialConfig.parse(config)
        data = data or open_data(trial.data)
        compiled = cache.get(trial, data)
        assert cache.get(trial, data) is compiled
        train(compiled, trial, data, tmp_path / str(width))
        maps.append(len(Path("/proc/self/maps").read_text().splitlines()))
    assert abs(maps[2] - maps[1]) < 100  # it was 360 a design
