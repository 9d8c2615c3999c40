"""What is printed while a sweep runs, on a terminal and elsewhere."""

import contextlib
import csv
import io
import itertools
import re
from pathlib import Path

import pytest

from squeeze_jax.study.progress import Progress, Relay, RelayedProgress
from squeeze_jax.study.time_left import Expected, TimeLeft, as_record, of_record

RESULT = {"status": "ok", "top1": 91.26, "top5": 99.0, "seconds": 9.51, "images_per_second": 812.4}


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


def test_plain_lines_where_there_is_no_terminal():
    stream = io.StringIO()
    progress = Progress(40, stream, plain_every=0.0)
    progress.start_trial("sr=1", 20)
    progress.step("sr=1", 0, None)
    progress.step("sr=1", 1, None)
    progress.step("sr=1", 10, 2.5)
    progress.step("sr=1", 20, 1.5)
    progress.finish_trial("sr=1", RESULT)
    progress.start_trial("sr=2", 20)
    progress.finish_trial("sr=2", {"status": "failed", "reason": "ValueError: no"})
    lines = stream.getvalue().splitlines()
    assert re.fullmatch("sr=1: step 10 of 20, 25 % of all steps, about \\d+ s left", lines[2])
    assert lines[-2] == "sr=1: ok, top-1 91.3 %, 9.5 s, 812 images/s"
    assert lines[-1] == "sr=2: failed, ValueError: no"


@pytest.mark.parametrize("total", [0, 15])
def test_more_steps_than_were_planned_have_no_share_and_no_time_left(total):
    """A schedule may promote more designs than its plan counts."""
    stream = io.StringIO()
    progress = Progress(total, stream, plain_every=0.0)
    progress.start_trial("sr=1", 20)
    for done in (0, 16, 18, 20):
        progress.step("sr=1", done, None)
    assert stream.getvalue().splitlines()[-1] == "sr=1: step 20 of 20"


def test_a_bar_on_a_terminal():
    stream = Terminal()
    progress = Progress(20, stream)
    progress.start_trial("sr=1", 20)
    for step in range(21):
        progress.step("sr=1", step, 2.25 if step % 10 == 0 else None)
    progress.finish_trial("sr=1", RESULT)
    progress.close()
    text = stream.getvalue()
    assert (
        "20/20" in text and "loss 2.250" in text and "steps" in text and "sr=1: compiling" in text
    )
    assert "sr=1: ok, top-1 91.3 %" in text


def test_a_trial_that_resumes_or_ends_early_keeps_the_share_right():
    stream = io.StringIO()
    progress = Progress(30, stream, plain_every=0.0)
    progress.start_trial("a", 20)
    progress.step("a", 15, None)  # resumed at 15
    progress.step("a", 16, None)
    progress.finish_trial("a", RESULT | {"status": "diverged"})
    progress.start_trial("b", 10)
    progress.step("b", 5, None)
    assert (
        "b: step 5 of 10, 81 % of all steps" in stream.getvalue()
    )  # 21 of the 26 that are left to take


def test_steps_of_other_processes_are_done_too(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    stream = io.StringIO()
    progress = Progress(100, stream, plain_every=0.0, jobs=2)
    progress.taken_elsewhere(30)
    progress.start_trial("a", 40)
    progress.step("a", 10, None)
    now[0] = 60.0
    progress.step("a", 20, None)
    # 20 + 30 of 100 steps; of 10 a minute here, and so of 20 in both, 50 more take 2.5.
    assert stream.getvalue() == "a: step 20 of 40, 50 % of all steps, about 2.5 min left\n"


def test_trials_that_run_side_by_side_and_one_that_begins_again():
    stream = io.StringIO()
    progress = Progress(60, stream, plain_every=0.0)
    progress.start_trial("a", 40)
    progress.start_trial("b", 20)
    progress.step("a", 20, None)
    progress.step("b", 16, None)
    progress.start_trial("a", 40)
    progress.step("a", 10, None)  # its checkpoint
    progress.step("b", 20, None)
    assert "b: step 20 of 20, 50 % of all steps" in stream.getvalue()


ROOT = Path(__file__).parents[2]
STEPS = 60


def recorded(file="digits.csv"):
    """Yields (trial, MACs, compilation, seconds of its steps) of a study that ran on two cores.

    The first seed of each design compiles for as long as it took longer than the others.
    """
    with (ROOT / "experiments/sr_sweep" / file).open(newline="") as table:
        trials = list(csv.DictReader(table))
    for _, group in itertools.groupby(trials, key=lambda trial: trial["macs"]):
        seeds = list(group)
        seconds = [float(seed["seconds"]) for seed in seeds]
        usual = min(seconds[0], sum(seconds[1:]) / len(seconds[1:]))
        for seed, took in zip(seeds, [usual, *seconds[1:]], strict=True):
            compilation = seconds[0] - usual if seed is seeds[0] else 0.0
            yield seed["trial"], float(seed["macs"]), compilation, took


def events(file="digits.csv"):
    """Yields (time, event, trial, step) of the recorded study, one trial after another."""
    now = 0.0
    for name, _, compilation, seconds in recorded(file):
        yield now, "start", name, 0
        yield now + 0.1, "step", name, 0
        now += 0.1 + compilation
        for done in range(1, STEPS + 1):
            now += seconds / STEPS
            yield now, "step", name, done
        yield now, "finish", name, STEPS


def expected(file="digits.csv"):
    """What is known of the study beforehand; each number of MACs is a program of its own."""
    return {name: Expected(STEPS, macs, int(macs)) for name, macs, *_ in recorded(file)}


EXPECTED = expected()


@pytest.mark.parametrize("file", ["digits.csv", "results.csv"])
def test_the_time_left_is_right_within_a_third_once_a_trial_has_ended(file):
    """Later designs take up to four times as long as the first one, and each compiles."""
    whole = [*events(file)]
    end, left, ended = whole[-1][0], TimeLeft(expected(file)), 0
    checked = 0
    for now, what, name, step in whole:
        if what == "step":
            left.step(name, step, now)
        else:
            getattr(left, what)(name, now)
        ended += what == "finish"
        if ended and end - now > 5:
            assert left.seconds(now) == pytest.approx(end - now, rel=1 / 3), (now, end)
            checked += 1
    assert checked > 500 and left.seconds(end) == 0


def test_a_resumed_trial_has_its_last_steps_left_while_it_compiles():
    left = TimeLeft({"a": Expected(100, 5.0, 0), "b": Expected(100, 5.0, 0)}, jobs=2)
    left.start("a", 0.0)
    left.start("b", 0.0)
    for step in range(51):
        left.step("a", step, float(step))
    left.step("b", 90, 50.0)
    assert left.seconds(50.0) == pytest.approx(50.0)
    left.step("a", 100, 100.0)
    assert left.seconds(100.0) == pytest.approx(10.0)


def test_two_jobs_take_half_of_the_time():
    alone, both = TimeLeft(EXPECTED), TimeLeft(EXPECTED, jobs=2)
    for now, what, name, step in events():
        if name != next(iter(EXPECTED)):
            break
        for left in (alone, both):
            left.step(name, step, now) if what == "step" else getattr(left, what)(name, now)
    seconds = alone.seconds(now)
    assert seconds is not None and both.seconds(now) == pytest.approx(seconds / 2)


def test_a_lower_bound_is_the_longest_trial():
    left = TimeLeft({"a": Expected(1000, 1.0, 0), "b": Expected(10, 1.0, 0)}, jobs=8)
    for name in "ab":
        left.start(name, 0.0)
        for step in range(4):
            left.step(name, step, float(step))
    assert left.seconds(3.0) == pytest.approx(997)


def test_what_is_expected_survives_json():
    assert of_record(as_record(EXPECTED)) == EXPECTED


def test_jobs_share_one_display():
    """Two processes' events become one count; their other lines are told once, beside it."""
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed):
        first, second = (Relay(40, jobs=2) for _ in range(2))
        for relay, name in ((first, "a"), (second, "b")):
            relay.say("over the budget, left out: c")
            relay.start_trial(name, 20)
            for step in range(21):
                relay.step(name, step, 1.5 if step == 20 else None)
        for relay, own, other in ((first, "a", "b"), (second, "b", "a")):
            relay.finish_trial(own, RESULT)
            relay.taken_elsewhere(20, other)  # the other job's: counted already
    shown = io.StringIO()
    progress = RelayedProgress(shown, plain_every=0.0)
    for line in io.StringIO(printed.getvalue()):  # as from a pipe
        progress.take(line)
    lines = shown.getvalue().splitlines()
    assert lines.count("over the budget, left out: c") == 1
    assert re.match("b: step 20 of 20, 100 % of all steps", lines[-3])
    assert [line.partition(":")[0] for line in lines[-2:]] == ["a", "b"]
    assert not [line for line in lines if "\x1e" in line]
    terminal = Terminal()
    progress = RelayedProgress(terminal)
    for line in io.StringIO(printed.getvalue()):  # as from a pipe
        progress.take(line)
    progress.close()
    assert "40/40 steps" in terminal.getvalue() and "a: ok, top-1 91.3 %" in terminal.getvalue()
