"""The code of the engine's weights: whole, near the entropy, and safe when it is damaged."""

import numpy as np
import pytest

from experiments.engine import fuzz
from squeeze_jax.compress import rans
from squeeze_jax.convert.c_engine.host import find_compiler
from squeeze_jax.errors import UserError

needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="there is no C compiler")


def entropy_bytes(weights):
    counts = np.unique(weights, return_counts=True)[1]
    return float((counts * np.log2(weights.size / counts)).sum()) / 8


def some_weights(spread, size, seed=0):
    drawn = np.random.default_rng(seed).normal(0, spread, size)
    return np.clip(np.round(drawn), -127, 127).astype(np.int8)


@pytest.mark.parametrize("spread", [0.2, 1.0, 5.0, 60.0])
def test_takes_the_entropy(spread):
    weights = some_weights(spread, (40, 3, 3, 30))
    (table,), _ = rans.make_tables([weights])
    code = rans.encode(weights, table)
    assert len(code) <= 1.005 * entropy_bytes(weights) + 5
    np.testing.assert_array_equal(rans.decode(code, table, weights.size), weights.reshape(-1))


@pytest.mark.parametrize("weights", [np.full(9, -127), np.array([5]), np.array([-128, 127] * 4)])
def test_takes_any_bytes(weights):
    weights = weights.astype(np.int8)
    (table,), _ = rans.make_tables([weights])
    code = rans.encode(weights, table)
    np.testing.assert_array_equal(rans.decode(code, table, weights.size), weights)


def test_layers_share_tables_where_that_is_smaller():
    """Alike layers have one table; a large layer of another kind has its own."""
    arrays = [some_weights(2, 500, 1), some_weights(2, 500, 2), some_weights(30, 20_000, 3)]
    tables, choice = rans.make_tables(arrays)
    assert len(tables) == 2 and choice[0] == choice[1] != choice[2]
    for array, number in zip(arrays, choice, strict=True):
        code = rans.encode(array, tables[number])
        np.testing.assert_array_equal(rans.decode(code, tables[number], array.size), array)


def test_a_weight_without_room_is_refused():
    (table,), _ = rans.make_tables([np.array([0, 2], np.int8)])
    for weight in (1, 3, -1):
        with pytest.raises(UserError, match="lacks a weight"):
            rans.encode(np.array([weight], np.int8), table)


@pytest.mark.slow
@needs_compiler
def test_c_reads_damaged_codes_within_its_buffers(tmp_path):
    """As Python does; experiments/engine/fuzz.py does so for longer."""
    assert fuzz.run(fuzz.build(tmp_path), list(fuzz.cases(400, 1))) == []
