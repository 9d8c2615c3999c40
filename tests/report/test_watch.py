"""The report that is drawn while a study runs."""

import json
import signal

import pytest

from squeeze_jax.report.watch import watch
from squeeze_jax.study import Workdir
from squeeze_jax.study.search import KEPT


def finish(workdir, names):
    for name in names:
        Workdir(workdir).trial_directory(name).mkdir(parents=True, exist_ok=True)
        Workdir(workdir).write_result(name, {"status": "ok", "top1": 90.0})


def reloads(workdir):
    return 'http-equiv="refresh"' in (workdir / "report.html").read_text()


def test_it_draws_until_all_trials_have_ended(sweep):
    workdir = sweep({})
    names = [trial.name for trial in Workdir(workdir).read_record().trials]
    finish(workdir, names[:2])
    told = []

    def tell(line):
        told.append(line)
        assert reloads(workdir)
        finish(workdir, names[: 5 * len(told)])

    written = watch(workdir, tell, period=0.01)
    assert told == ["2 of 9 trials have ended", "5 of 9 trials have ended"]
    assert not reloads(workdir)
    assert [path.name for path in written][0] == "sweep.csv"
    assert (workdir / "sweep.csv").read_text().count(",ok,") == 9


def test_it_ends_with_ctrl_c(sweep):
    workdir = sweep({})
    # A process that a shell starts in the background ignores it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            watch(workdir, lambda line: signal.raise_signal(signal.SIGINT), period=60)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not reloads(workdir)


def test_a_study_that_has_ended_is_drawn_once(sweep):
    workdir = sweep({})
    finish(workdir, [trial.name for trial in Workdir(workdir).read_record().trials])
    told = []
    watch(workdir, told.append, period=60)
    assert not told and not reloads(workdir)


def test_a_promoted_trial_is_waited_for(sweep):
    """Its result stays that of the rung at which it was stopped while it trains on."""
    workdir = Workdir(sweep({}))
    names = [trial.name for trial in workdir.read_record().trials]
    finish(workdir.path, names)
    workdir.write_result(names[0], {"status": "stopped", "top1": 50.0, "steps": 8})
    told = []
    with workdir.claim(names[0]) as claim:
        assert claim is not None

        def tell(line):
            told.append(line)
            workdir.write_result(names[0], {"status": "ok", "top1": 90.0})

        watch(workdir.path, tell, period=0.01)
    assert told == ["9 of 9 trials have ended"]
    assert "stopped" not in (workdir.path / "sweep.csv").read_text()


def test_a_search_that_goes_on_is_waited_for(sweep):
    """Its next designs depend on the results of those that have ended."""
    workdir = sweep({})
    names = [trial.name for trial in Workdir(workdir).read_record().trials]
    finish(workdir, names)
    study = json.loads((workdir / "study.json").read_text())
    study["config"]["search"] = {"designs": 4}
    (workdir / "study.json").write_text(json.dumps(study))
    draws = [{"design": {}, "verdict": KEPT}] * 3
    Workdir(workdir).write_search({"signature": {}, "draws": draws})
    told = []

    def tell(line):
        told.append(line)
        Workdir(workdir).write_search({"signature": {}, "draws": draws + draws[:1]})

    watch(workdir, tell, period=0.01)
    assert told == ["9 of 9 trials have ended"]


def test_no_question_is_asked_of_old_workdirs(sweep):
    workdir = sweep({})
    study = json.loads((workdir / "study.json").read_text())
    assert "question" not in study
    assert Workdir(workdir).read_record().title == "sr_sweep · digits"
