"""experiments/paired.py beside scipy's paired t-test."""

import numpy as np
import pytest
from scipy import stats

from experiments import paired

RANDOM = np.random.default_rng(0)
SR = {
    "0.25": RANDOM.normal(60, 2, 5),
    "0.5": RANDOM.normal(62, 2, 5),
    "1.0": RANDOM.normal(61, 2, 5),
}
ROWS = [
    {"squeeze_ratio": value, "seed": str(seed), "status": "ok", "top1": str(top1)}
    for value, values in SR.items()
    for seed, top1 in enumerate(values)
]


def cells(text):
    return {
        row[0]: row[1:]
        for row in (
            [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()
        )
        if len(row) > 1
    }


@pytest.mark.parametrize(
    ("over", "pairs"),
    [(None, {"0.5": "0.25", "1.0": "0.5"}), ("1.0", {"0.25": "1.0", "0.5": "1.0"})],
)
def test_differences_are_those_of_a_paired_t_test(over, pairs):
    found = cells(paired.table(ROWS, "squeeze_ratio", over, "top1"))
    for value, other in pairs.items():
        interval = stats.ttest_rel(SR[value], SR[other]).confidence_interval(0.95)
        mean, half = (float(part) for part in found[value][2].split(" ± "))
        assert mean == pytest.approx((interval.low + interval.high) / 2, abs=0.051)
        assert half == pytest.approx((interval.high - interval.low) / 2, abs=0.051)
    tests = {value: stats.ttest_rel(SR[value], SR[other]).pvalue for value, other in pairs.items()}
    small, large = sorted(tests, key=tests.get)
    first = 2 * tests[small]
    expected = {small: first, large: max(first, tests[large])}
    assert {value: float(found[value][3]) for value in pairs} == pytest.approx(expected, abs=6e-4)


def test_a_seed_that_one_value_lost_is_in_no_pair():
    rows = [
        row | ({"status": "chance"} if row["seed"] == "0" and row["squeeze_ratio"] == "0.5" else {})
        for row in ROWS
    ]
    found = cells(paired.table(rows, "squeeze_ratio", None, "top1"))
    assert [found[value][1] for value in SR] == ["5", "4", "5"]
    assert float(found["0.5"][2].split()[0]) == pytest.approx(
        np.mean(SR["0.5"][1:] - SR["0.25"][1:]), abs=0.051
    )


@pytest.mark.parametrize(
    ("key", "over", "told"),
    [("sr", None, "no column sr"), ("squeeze_ratio", "2", "no squeeze_ratio 2; there are 0.25")],
)
def test_what_is_not_there_is_said(key, over, told):
    with pytest.raises(SystemExit, match=told):
        paired.table(ROWS, key, over, "top1")
