import os
import re
from html.parser import HTMLParser

import pytest

from squeeze_jax.errors import UserError
from squeeze_jax.report.page import draw

VOID = {"meta", "br", "link", "img", "hr", "input"}


class Page(HTMLParser):
    """Checks that tags balance and collects what the page shows and refers to."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, *names):
        return [value for name, value in self.attributes if name in names]


def page(workdir):
    draw(workdir)
    return Page((workdir / "report.html").read_text())


def test_files(sweep, finished):
    workdir = sweep(finished)
    before = set(workdir.iterdir())
    assert [path.name for path in draw(workdir)] == ["sweep.png", "sweep.svg", "report.html"]
    assert {path.name for path in set(workdir.iterdir()) - before} == {
        "sweep.png",
        "sweep.svg",
        "report.html",
    }  # no temporary left


def test_the_page_tells_all(sweep, troubled):
    shown = page(sweep(troubled))
    assert (
        "Best of 2 design points: squeeze_ratio = 0.5, Top-1 (%) 95.0 over 1 seed (2 left out)."
        in shown.text
    )
    assert "7 of 9 trials finished, 4 collapsed, 1 failed, 1 pending." in shown.text
    run = (
        "python launch.py --config configs/sr_sweep.py",
        "abc123",
        "jax 0.10.2",
        "2 x cpu",
        '"squeeze_ratio": 0.125',
    )
    for said in (*run, "80.0 +9.8 −15.6, n = 2"):
        assert said in shown.text
    assert shown.tags.count("svg") == 3  # the curve, the costs, the trainings
    assert shown.tags.count("tr") == (1 + 3) + (1 + 9)


def test_the_trainings_of_a_large_study_are_sampled(sweep, troubled, monkeypatch):
    monkeypatch.setattr("squeeze_jax.report.page._CURVES", 4)
    assert "3 of 9 trials." in page(sweep(troubled)).text
    monkeypatch.setattr("squeeze_jax.report.page._CURVES", 9)
    assert "of 9 trials." not in page(sweep(troubled)).text


def test_compressed_bytes_are_weighed(stages):
    shown = page(stages)
    assert (
        "Pareto front of" in shown.text
        and "arithmetic-coded\n" in shown.text
        and "9,010 ± 25" in shown.text
    )
    assert shown.tags.count("svg") == 3


def test_text_is_escaped(sweep, troubled):
    shown = page(sweep(troubled, label='<b onclick="x">&'))
    assert "script" not in shown.tags and "b" not in shown.tags
    assert "<script>alert('x')</script>" in shown.text  # as text, in the failed trial's row


def test_self_contained_with_unique_ids(sweep, finished):
    shown = page(sweep(finished))
    ids = shown.all("id")
    assert len(ids) == len(set(ids)) > 50
    paints = "".join(value for value in shown.all("clip-path", "style", "fill"))
    references = shown.all("href", "xlink:href", "src") + re.findall(r"url\(([^)]*)\)", paints)
    assert references and set(references) <= {f"#{name}" for name in ids}
    assert not {"link", "script", "img", "iframe"} & set(shown.tags)


@pytest.mark.slow
def test_same_input_same_bytes(sweep, finished):
    workdir = sweep(finished)
    first = [path.read_bytes() for path in draw(workdir)]
    assert [path.read_bytes() for path in draw(workdir)] == first
    assert b"<dc:date>" not in first[1]


@pytest.mark.parametrize(
    "results", [{}, {(0, 0): ("failed", None)}, {(0, 0): ("ok", 90.0)}, {(0, 0): ("chance", 10.0)}]
)
def test_partial_workdirs(sweep, results):
    shown = page(sweep(results))
    finished = sum(status != "failed" for status, _ in results.values())
    assert f"{finished} of 9 trials finished" in shown.text
    assert ("Best" in shown.text or "squeeze_ratio = 0.125, Top-1" in shown.text) == (
        results.get((0, 0), ("",))[0] == "ok"
    )


def test_no_workdir(tmp_path):
    with pytest.raises(UserError, match="nowhere is not a sweep's workdir: it has no study.json"):
        draw(tmp_path / "nowhere")


def test_a_report_that_cannot_be_written(sweep, finished):
    workdir = sweep(finished)
    (workdir / "sweep.png").mkdir()
    with pytest.raises(UserError, match="cannot write .*sweep.png: "):
        draw(workdir)
    assert not [name for name in os.listdir(workdir) if name.startswith(".")]
