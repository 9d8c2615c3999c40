"""What is printed while a sweep runs, on a terminal and elsewhere."""

import io

from squeeze_jax.study.progress import Progress

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
    assert lines[2].startswith("sr=1: step 10, 25 % of the sweep, about ") and lines[2].endswith(
        " min left"
    )
    assert lines[-2] == "sr=1: ok, top-1 91.3 %, top-5 99.0 %, 9.5 s, 812 images/s"
    assert lines[-1] == "sr=2: failed, ValueError: no"


def test_a_bar_on_a_terminal():
    stream = Terminal()
    progress = Progress(20, stream)
    progress.start_trial("sr=1", 20)
    for step in range(21):
        progress.step("sr=1", step, 2.25 if step % 10 == 0 else None)
    progress.finish_trial("sr=1", RESULT)
    progress.close()
    text = stream.getvalue()
    assert "20/20" in text and "loss 2.250" in text and "step/s" in text
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
    assert "b: step 5, 81 % of the sweep" in stream.getvalue()  # 21 of the 26 that are left to take


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
    assert stream.getvalue() == "a: step 20, 50 % of the sweep, about 2.5 min left\n"


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
    assert "b: step 20, 50 % of the sweep" in stream.getvalue()
