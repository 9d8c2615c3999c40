"""Trackers, read back by the real packages: one value a step, whatever was killed and resumed."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from squeeze_jax.errors import UserError
from squeeze_jax.train import TrainConfig, TrialConfig
from squeeze_jax.train.trackers import TRACKERS, TrackedTrial, check_folder, check_trackers
from squeeze_jax.train.trackers.trial import Series
from tests.train.narrow import narrow_config

NAME = "squeeze_ratio=0.5,seed=3"
RESULT = {"status": "ok", "top1": 95.0, "top5": None, "loss": 0.25, "steps": 40}
# A checkpoint at step 20, a kill after step 30; then 20 to 40.
KILLED, RESUMED = (10, 20, 30), (30, 40)


def records(steps):
    """What a run records at each step: the loss, and every 20 steps an evaluation."""
    for step in steps:
        shared = {"step": step, "epoch": step / 10, "seconds": float(step)}
        yield shared | {"loss": 1 / step, "learning_rate": 0.1}
        if step % 20 == 0:
            yield shared | {"eval_loss": 2 / step, "top1": float(step)}


SERIES = {
    "loss": {step: 1 / step for step in (10, 20, 30, 40)},
    "epoch": {step: step / 10 for step in (10, 20, 30, 40)},
    "top1": {20: 20.0, 40: 40.0},
}


def open_tracker(name, workdir, step):
    config = narrow_config()
    config.seed = 3
    directory = workdir / "trials" / NAME
    directory.mkdir(parents=True, exist_ok=True)
    return TRACKERS[name](TrackedTrial(directory, step, TrialConfig.parse(config)))


def launch(name, workdir, start, steps, result=None):
    lines, tracker = (open_tracker(each, workdir, start) for each in ("jsonl", name))
    for record in records(steps):
        lines.write(record)
        tracker.write(record)
    if result:
        tracker.finish(result)


def check(series, settings, final):
    """Every series has each step once, and the hyperparameters and the result are there."""
    for name, values in SERIES.items():
        assert [step for step, _ in series[name]] == list(values)
        assert dict(series[name]) == pytest.approx(values)
    assert float(settings["seed"]) == 3 and float(settings["train.learning_rate"]) == 0.05
    assert final["result/top1"] == 95.0 and final["result/loss"] == 0.25
    assert "result/top5" not in final


def test_tensorboard_has_each_step_once(tmp_path):
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

    launch("tensorboard", tmp_path, 0, KILLED)
    launch("tensorboard", tmp_path, 20, RESUMED, RESULT)
    (path,) = (tmp_path / "trials" / NAME).glob("events.out.tfevents.*")
    content, series, settings = path.read_bytes(), {}, {}
    while content:  # TFRecord: length, its checksum, the event, its checksum
        (length,) = struct.unpack("<Q", content[:8])
        event = event_pb2.Event.FromString(content[12 : 12 + length])
        content = content[12 + length + 4 :]
        for value in event.summary.value:
            if value.tag == "_hparams_/session_start_info":
                data = HParamsPluginData.FromString(value.metadata.plugin_data.content)
                for key, entry in data.session_start_info.hparams.items():
                    settings[key] = getattr(entry, entry.WhichOneof("kind"))
            if value.WhichOneof("value") == "simple_value":
                series.setdefault(value.tag, []).append((event.step, value.simple_value))
    check(series, settings, {tag: points[-1][1] for tag, points in series.items()})


def test_tensorboard_reads_its_file(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    launch("tensorboard", tmp_path, 0, KILLED)
    launch("tensorboard", tmp_path, 20, RESUMED, RESULT)
    events = accumulator.EventAccumulator(str(tmp_path / "trials" / NAME)).Reload()
    for name, values in SERIES.items():
        found = events.Scalars(name)
        assert {event.step: event.value for event in found} == pytest.approx(values)
        assert len(found) == len(values)
        assert [event.wall_time for event in found] == sorted(event.wall_time for event in found)
    assert (
        b"learning_rate = 0.05"
        in events.Tensors("config/text_summary")[0].tensor_proto.string_val[0]
    )


def test_mlflow_has_each_step_once(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    launch("mlflow", tmp_path, 0, KILLED)
    launch("mlflow", tmp_path, 20, RESUMED, RESULT)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name(tmp_path.name)
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == (NAME, "FINISHED")
    series = {
        name: [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }
    check(series, run.data.params, run.data.metrics)
    assert run.data.tags["status"] == "ok"


def leveldb_records(content):
    """The records of a .wandb file: LevelDB's log format after a header of 7 bytes."""
    position, parts = 7, b""
    while position < len(content):
        if (room := 2**15 - position % 2**15) < 7:  # a block ends in zeros
            position += room
            continue
        length, kind = struct.unpack("<HB", content[position + 4 : position + 7])
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def test_wandb_has_each_step_once_offline(tmp_path, monkeypatch):
    Record = pytest.importorskip("wandb.proto.wandb_internal_pb2").Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    script = (
        "import os, signal; from pathlib import Path; from tests.train.test_trackers import *\n"
        f"launch('wandb', Path({str(tmp_path)!r}), 0, KILLED); os.kill(os.getpid(), signal.SIGKILL)"
    )
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
    killed = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True)
    assert killed.returncode == -9, killed.stderr.decode()
    launch("wandb", tmp_path, 20, RESUMED, RESULT)
    (path,) = tmp_path.glob(f"trials/{NAME}/wandb/offline-run-*/run-*.wandb")
    series, settings, final = {}, {}, {}
    for content in leveldb_records(path.read_bytes()):
        record = Record.FromString(content)
        if record.WhichOneof("record_type") == "history":
            row = {item.key or item.nested_key[0]: item.value_json for item in record.history.item}
            for key, value in row.items():
                series.setdefault(key, []).append((int(row["_step"]), json.loads(value)))
        for item in (*record.run.config.update, *record.config.update):
            settings[item.key or item.nested_key[0]] = json.loads(item.value_json)
        for item in record.summary.update:
            final[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    check(series, settings, final)


def test_a_step_twice_is_one_value():
    series = Series({"loss": 20})
    assert series.advance({"step": 20, "loss": 1.0, "top1": 2.0, "top5": None}) == {"top1": 2.0}
    assert series.advance({"step": 30, "loss": 1.0, "top1": 3}) == {"loss": 1.0, "top1": 3.0}
    assert series.advance({"step": 30, "top1": 3.0}) == {}


def test_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"wandb needs wandb: pip install 'squeeze_jax\[wandb\]'"):
        check_trackers(TrainConfig(trackers=("wandb",)))
    with pytest.raises(UserError, match=r"tensorboard needs tensorboardX: pip install"):
        check_trackers(TrainConfig(trackers=("jsonl", "tensorboard")))


def test_files_of_a_tracker_need_a_disk(monkeypatch):
    monkeypatch.setattr("squeeze_jax.storage.is_remote", lambda path: True)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("tensorboard", "wandb", "mlflow"):
        with pytest.raises(UserError, match=f"{name} writes into the workdir"):
            check_folder(TrainConfig(trackers=(name,)), Path("bucket"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    check_folder(TrainConfig(trackers=("mlflow",)), Path("bucket"))
