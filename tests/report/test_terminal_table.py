from squeeze_jax.report.terminal_table import points_text
from squeeze_jax.study import Workdir


def test_design_interval_seeds_and_parameters(sweep, troubled):
    head, rule, *rows, legend = points_text(Workdir(sweep(troubled)), 80).splitlines()
    assert head.split("  ")[0] == "Design" and head.endswith("Seeds  Parameters")
    assert set(rule) == {"-"}
    assert [row.split()[2] for row in rows] == ["0.125", "0.5", "1"]
    assert "2 of 3" in rows[0] and rows[0].endswith("1,000")
    assert legend == "intervals: 95 %, of means over seeds"
    assert "80.0" in rows[0] and "0 of 3" in rows[2] and "–" in rows[2]


def test_a_long_design_is_cut_to_the_terminal(sweep, finished):
    designs = tuple({"model.bypass": f"a rather long name of a category {i}"} for i in range(3))
    lines = points_text(Workdir(sweep(finished, designs=designs)), 60).splitlines()
    assert max(map(len, lines)) <= 60
    assert [line.partition("  ")[0][-1] for line in lines[2:-1]] == ["0", "1", "2"]


def test_many_points_are_counted(sweep, finished, monkeypatch):
    monkeypatch.setattr("squeeze_jax.report.terminal_table._ROWS", 2)
    lines = points_text(Workdir(sweep(finished))).splitlines()
    assert len(lines) == 6 and lines[-2] == "… and 1 more design points in report.html"


def test_single_seeds_have_no_interval_to_explain(sweep, finished):
    one = {key: value for key, value in finished.items() if key[1] == 0}
    assert "interval" not in points_text(Workdir(sweep(one)))
