"""Damaged and hostile files: one line or the right weights, never anything else.

The long run is experiments/convert/fuzz.py.
"""

import numpy as np
import pytest

pytest.importorskip("torch")
fuzz = pytest.importorskip("experiments.convert.fuzz")
from tests.convert import encoders  # noqa: E402


@pytest.mark.filterwarnings("ignore")
def test_a_few_hundred_damaged_files():
    counts, failures, _ = fuzz.run(300, seed=1)
    assert not failures, failures[0]
    for name, counter in counts.items():
        assert counter["refused"] > 10, name
        assert counter["right"] + counter["value"] > 0, name


@pytest.mark.parametrize("name", fuzz.FORMATS)
@pytest.mark.filterwarnings("ignore")
def test_a_file_that_ends_early_is_refused(tmp_path, name):
    layers = encoders.squeezenet_layers(classes=fuzz.FORMATS[name].classes, sparse=name == ".net")
    content = fuzz.FORMATS[name].write(layers)
    assert fuzz.outcome(fuzz.Case(name, "none", content, layers), tmp_path) == "right"
    for size in np.linspace(0, len(content), 100, endpoint=False, dtype=int):
        assert (
            fuzz.outcome(fuzz.Case(name, "cut", content[:size], layers), tmp_path) == "refused"
        ), size


@pytest.mark.filterwarnings("ignore")
def test_damages_are_what_they_say():
    cases = list(fuzz.cases(200, seed=0))
    whole = {
        name: form.write(encoders.squeezenet_layers(classes=form.classes))
        for name, form in fuzz.FORMATS.items()
    }
    assert {case.format for case in cases} == set(fuzz.FORMATS)
    assert {case.damage for case in cases} == {
        damage.__name__ for damage in (*fuzz.BYTES, *fuzz.LAYERS, fuzz.zip_bomb)
    }
    assert max(len(case.content) for case in cases) < 10 * max(map(len, whole.values()))
