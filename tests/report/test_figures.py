from itertools import pairwise

import numpy as np
import pytest

from squeeze_jax.report.figures import (
    accuracy_figure,
    choose_scale,
    pareto_figure,
    png,
    svg,
    training_figure,
)
from squeeze_jax.report.tables import aggregate
from squeeze_jax.study import Workdir
from squeeze_jax.study.axes import keys_moving_with

SR = "model.squeeze_ratio"
BYPASS = tuple({"model.bypass": value} for value in ("none", "simple", "complex"))


def draw(workdir):
    study = Workdir(workdir).read_record()
    figure = accuracy_figure(study, aggregate(Workdir(workdir).read_trials()))
    return figure, *figure.axes


def marks(axes, label):
    """The points of every artist of this label, error bars included."""
    lines = [line for line in axes.lines if line.get_label() == label]
    lines += [container.lines[0] for container in axes.containers if container.get_label() == label]
    return [[tuple(pair) for pair in line.get_xydata()] for line in lines]


def bars(axes):
    """The ends of every interval that is drawn."""
    segments = [
        segment for container in axes.containers for segment in container.lines[2][0].get_segments()
    ]
    return [segment[:, 1] for segment in segments if len(segment)]


def texts(labels):
    return [label.get_text() for label in labels]


def key(figure):
    return texts(figure.legends[0].get_texts())


def test_means_seeds_intervals_and_sizes(sweep, finished):
    figure, axes = draw(sweep(finished))
    assert marks(axes, "means") == [[(0.125, 80), (0.5, 95), (1, 97)]]
    assert marks(axes, "seeds")[0][:3] == [(0.125, 79), (0.125, 80), (0.125, 81)]
    half = 4.30265273 / 3**0.5
    means = np.array([0.80, 0.95, 0.97])  # their intervals are symmetric on the logit scale
    centre, width = np.log(means / (1 - means)), half / 100 / (means * (1 - means))
    ends = 100 / (1 + np.exp(-centre[:, None] - width[:, None] * [-1, 1]))
    np.testing.assert_allclose(bars(axes), ends)
    assert not marks(axes, "collapsed") and not marks(axes, "paper")
    upper = axes.child_axes[0]
    assert upper.get_xlabel() == "Size (MiB)"
    assert list(upper.get_xticks()) == [0.125, 0.5, 1] and texts(upper.get_xticklabels()) == [
        "1",
        "2",
        "3",
    ]
    assert texts(axes.get_xticklabels()) == ["0.125", "0.5", "1"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Squeeze ratio (SR)", "Top-1 (%)")
    low, high = axes.get_ylim()
    assert 70 < low < 79 and 97 < high <= 102
    assert key(figure) == ["mean, 95 % interval", "one seed"]


def test_collapsed_seeds_stand_apart_and_interrupt_the_line(sweep, troubled):
    figure, axes = draw(sweep(troubled))
    np.testing.assert_equal(marks(axes, "means"), [[(0.125, 80), (0.5, 95), (1, np.nan)]])
    assert sorted(marks(axes, "collapsed")[0]) == [(0.125, 10), (0.5, 9), (1, 10), (1, 10)]
    assert "collapsed seed, not averaged" in key(figure)
    assert texts(axes.child_axes[0].get_xticklabels()) == ["1", "2", "3"]


def test_papers_curve(sweep, finished):
    paper = {
        "metric": "top5",
        "source": "Fig. 3a",
        "points": [[0.125, 80.3], [0.5, 85.1], [0.75, 86.0]],
    }
    figure, axes = draw(sweep(finished, metric="top5", paper=paper))
    assert axes.get_ylabel() == "Top-5 (%)"
    assert marks(axes, "means") == [[(0.125, 81), (0.5, 96), (1, 98)]]
    assert marks(axes, "paper") == [[(0.125, 80.3), (0.5, 85.1), (0.75, 86.0)]]
    assert next(line for line in axes.lines if line.get_label() == "paper").get_linestyle() == "--"
    assert key(figure)[-1] == "Fig. 3a"
    assert list(axes.child_axes[0].get_xticks()) == [0.125, 0.5, 1]  # our sizes, not the paper's
    of_another_metric, axes = draw(sweep(finished, metric="top1", paper=paper))
    assert axes.get_ylabel() == "Top-1 (%)" and not marks(axes, "paper")
    assert "Fig. 3a" not in key(of_another_metric)


def test_single_seeds_have_no_interval(sweep, finished):
    figure, axes = draw(sweep(finished, seeds=1))
    assert bars(axes) == []
    assert key(figure) == ["one seed"]


def test_categories_keep_their_order(sweep, finished):
    paper = {"metric": "top1", "source": "Table 3", "points": [["simple", 60.4], ["none", 57.5]]}
    _, axes = draw(sweep(finished, designs=BYPASS, x="model.bypass", label="Bypass", paper=paper))
    assert texts(axes.get_xticklabels()) == ["none", "simple", "complex"]
    assert [y for _, y in marks(axes, "means")[0]] == [80, 95, 97]
    np.testing.assert_allclose([x for x, _ in marks(axes, "means")[0]], [-0.06, 0.94, 1.94])
    np.testing.assert_allclose(marks(axes, "paper")[0], [(0.06, 57.5), (1.06, 60.4)])
    assert texts(axes.child_axes[0].get_xticklabels()) == ["1", "2", "3"]


def test_stages_of_one_net_show_their_compressed_sizes(stages):
    _, axes = draw(stages)
    assert texts(axes.get_xticklabels()) == ["dense", "pruned", "shared"]
    assert [y for _, y in marks(axes, "means")[0]] == [80, 95, 97]
    upper = axes.child_axes[0]
    assert upper.get_xlabel() == "Arithmetic-coded (kB)"
    assert texts(upper.get_xticklabels()) == ["9.01", "3.01", "1"]


def test_accuracy_against_compressed_bytes(stages):
    study = Workdir(stages).read_record()
    (panel,) = pareto_figure(study, aggregate(Workdir(stages).read_trials())).axes
    assert panel.get_xlabel() == "Arithmetic-coded (kB)"
    assert marks(panel, "points") == [[(9010, 80), (3010, 95), (1005, 97)]]
    assert marks(panel, "front") == [[(1005, 97)]]
    (container,) = panel.containers
    widths = [segment[:, 0] for segment in container.lines[2][0].get_segments()]
    halves = np.array([24.8414, 24.8414, 63.5310])
    np.testing.assert_allclose(
        widths,
        np.array([[9010, 9010], [3010, 3010], [1005, 1005]]) + np.outer(halves, [-1, 1]),
        rtol=1e-6,
    )


def test_costs_have_intervals_of_accuracy(stages):
    study = Workdir(stages).read_record()
    points = aggregate(Workdir(stages).read_trials())
    (panel,) = pareto_figure(study, points).axes
    (container,) = panel.containers
    heights = [segment[:, 1] for segment in container.lines[2][1].get_segments()]
    intervals = [point.interval("top1") for point in points]
    np.testing.assert_allclose(heights, [(each.low, each.high) for each in intervals])


def test_accuracy_against_costs_without_spread(sweep, finished):
    workdir = sweep(finished)
    study = Workdir(workdir).read_record()
    (panel,) = pareto_figure(study, aggregate(Workdir(workdir).read_trials())).axes
    assert marks(panel, "front") == [[(1, 80), (2, 95), (3, 97)]]
    assert texts(panel.texts) == ["0.125", "0.5", "1"]


def test_long_categories_are_turned_not_dropped(sweep, finished):
    names = [f"a rather long name of a category {i}" for i in range(3)]
    _, axes = draw(
        sweep(finished, designs=tuple({"model.bypass": name} for name in names), x="model.bypass")
    )
    assert texts(axes.get_xticklabels()) == names
    assert {label.get_rotation() for label in axes.get_xticklabels()} == {30}


def test_a_second_key_gives_a_line_each(sweep):
    designs = tuple(
        {"model.pct3x3": p, "model.squeeze_ratio": sr} for p in (0.5, 1.0) for sr in (1.0, 0.125)
    )
    figure, axes = draw(
        sweep({(i, s): ("ok", 80.0 + i + s) for i in range(4) for s in range(3)}, designs=designs)
    )
    assert marks(axes, "means") == [[(0.125, 82), (1, 81)], [(0.125, 84), (1, 83)]]
    assert key(figure)[2:] == ["pct3x3 = 0.5", "pct3x3 = 1"]
    assert texts(axes.child_axes[0].get_xticklabels()) == ["2–4", "1–3"]


def test_keys_that_move_together_are_one_axis(sweep, finished):
    """The recipe of docs/studies.md: base_e and incr_e grow together."""
    designs = tuple({"model.base_e": width, "model.incr_e": width} for width in (16, 32, 64))
    figure, axes = draw(sweep(finished, designs=designs, x="model.base_e", label="filters"))
    assert marks(axes, "means") == [[(16, 80), (32, 95), (64, 97)]]
    assert key(figure) == ["mean, 95 % interval", "one seed"]


def test_a_pair_that_no_config_names_is_the_axis(sweep, finished):
    designs = tuple({"model.base_e": width, "model.incr_e": 2 * width} for width in (16, 32, 64))
    _, axes = draw(sweep(finished, designs=designs, x="", label=""))
    assert axes.get_xlabel() == "base_e"
    assert marks(axes, "means") == [[(16, 80), (32, 95), (64, 97)]]


@pytest.mark.parametrize(
    "designs, together",
    [
        ([{"a": 1, "b": 8}, {"a": 2, "b": 4}, {"a": 3, "b": 2}], {"a", "b"}),
        ([{"a": "x", "b": 1}, {"a": "y", "b": 0}, {"a": "x", "b": 1}], {"a", "b"}),
        ([{"a": 1, "b": 1}, {"a": 2, "b": 1}], {"a"}),
        ([{"a": 1, "b": 1}, {"a": 1, "b": 2}], {"a"}),
        ([{"a": 0.1, "b": 5}, {"a": 0.7, "b": 2}, {"a": 0.9, "b": 4}], {"a"}),  # drawn at random
    ],
)
def test_which_keys_move_together(designs, together):
    assert keys_moving_with("a", designs) == together


@pytest.mark.parametrize(
    "name, largest, title, shown",
    [
        ("model_mb", 0.25, "Size (MiB)", "0.2"),
        ("ram_bytes", 900, "RAM (bytes)", "0.2"),
        ("ram_bytes", 28_000, "RAM (kB)", "0.0002"),
        ("flash_bytes", 1_240_000, "Flash (MB)", "2e-07"),
        ("macs", 4_000_000, "MACs (millions)", "2e-07"),
        ("energy", 5e7, "Energy (millions of MACs)", "2e-07"),
    ],
)
def test_units_of_an_axis(name, largest, title, shown):
    scale = choose_scale(name, largest)
    assert (scale.title, scale.show(0.2)) == (title, shown)


def test_many_designs_are_a_cloud(sweep):
    """Each has a learning rate of its own, so no two of them are a line."""
    designs = tuple(
        {SR: 0.1 * (i % 5 + 1), "train.learning_rate": 0.1 / (i + 1)} for i in range(30)
    )
    results = {(i, 0): ("ok", 60.0 + i) for i in range(30)}
    figure, axes = draw(sweep(results, designs=designs, seeds=1))
    assert key(figure) == ["one seed"] and len(marks(axes, "means")[0]) == 30
    study = Workdir(sweep(results, designs=designs, seeds=1)).read_record()
    curves = Workdir(sweep(results, designs=designs, seeds=1)).read_curves(
        [trial.name for trial in study.trials]
    )
    assert len(key(training_figure(study, curves))) == 1


def test_tick_labels_never_overlap(sweep):
    values = (16, 17, 18, 19, 20, 100, 900, 901)
    designs = tuple({"model.base_e": value} for value in values)
    workdir = sweep(
        {(i, 0): ("ok", 90.0) for i in range(8)},
        designs=designs,
        x="model.base_e",
        size=lambda i: 123.4 + i,
    )
    figure, axes = draw(workdir)
    figure.draw_without_rendering()
    for axis in (axes.xaxis, axes.child_axes[0].xaxis):
        boxes = [label.get_window_extent() for label in axis.get_ticklabels()]
        assert 2 <= len(boxes) < 8
        assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_nothing_finished(sweep):
    study = Workdir(sweep({(0, 0): ("failed", None)})).read_record()
    assert "no finished trial yet" in texts(accuracy_figure(study, aggregate(study.trials)).texts)
    assert "no training record yet" in texts(training_figure(study, {}).texts)


def test_training_curves(sweep, troubled):
    workdir = sweep(troubled)
    study = Workdir(workdir).read_record()
    names = [trial.name for trial in study.trials]
    figure = training_figure(study, Workdir(workdir).read_curves(names))
    loss, top1 = figure.axes
    assert len(loss.lines) == len(top1.lines) == 7  # the failed and the pending one left no record
    assert [tuple(pair) for pair in top1.lines[0].get_xydata()] == [(1, 39.5), (2, 79)]
    assert [tuple(pair) for pair in loss.lines[0].get_xydata()] == [(1, 2), (2, 1)]
    assert len({line.get_color() for line in loss.lines}) == 3
    assert key(figure) == ["squeeze_ratio = 0.125", "squeeze_ratio = 0.5", "squeeze_ratio = 1"]


def test_a_training_that_is_nan_from_the_start(sweep):
    workdir = sweep({(0, 0): ("diverged", 10.0)})
    study = Workdir(workdir).read_record()
    record = workdir / "trials" / study.trials[0].name / "metrics.jsonl"
    record.write_text(
        '{"step": 1, "epoch": 0.5, "loss": NaN}\n{"step": 2, "epoch": 1.0, "loss": Infinity}\n'
    )
    names = [trial.name for trial in study.trials]
    assert svg(training_figure(study, Workdir(workdir).read_curves(names)))


@pytest.mark.parametrize("label", ["cost in $ and $", r"\frac{"])
def test_a_label_is_no_formula(sweep, finished, label):
    figure, axes = draw(sweep(finished, label=label))
    assert axes.get_xlabel() == label
    assert svg(figure).startswith(b"<?xml") and png(figure).startswith(b"\x89PNG")


def test_the_x_axis_may_be_a_cost(sweep, finished):
    workdir = sweep(finished, x="model_mb")
    figure, axes = draw(workdir)
    (means,) = marks(axes, "means")
    assert sorted(means) == [(1, 80), (2, 95), (3, 97)]
    assert axes.get_xlabel() == "Size (MiB)" and not axes.child_axes
    assert {line.get_linestyle() for line in axes.lines} == {"None"}  # no curve through a cloud
