"""A study on a Ray cluster: a real one of two nodes in this machine, of which one is removed."""

import contextlib
import fcntl
import os
import subprocess
import sys
import tempfile
import time

import pytest

from squeeze_jax.cli import launch as cli
from squeeze_jax.cpu_affinity import reserved_cores
from squeeze_jax.errors import UserError
from squeeze_jax.study import Workdir
from squeeze_jax.study.executors import ray as executor
from squeeze_jax.study.executors import ray_task
from tests.launching import DEADLINE, NET, ROOT, command, completed, environment, rows

# Enough steps that a node can be removed in the middle of them.
STUDY = (
    "configs/squeezenet.py",
    *(f"--config.{setting}" for setting in (*NET, "train.batch_size=16", "train.steps=600")),
    "--config.train.checkpoint_every=50",
    "--config.train.eval_every=0",
    "--config.seeds=3",
)


def test_resources_are_read():
    assert executor.parse_resources("CPU=2,GPU=0.5") == {"CPU": 2.0, "GPU": 0.5}
    assert executor.parse_resources("TPU=4") == {"TPU": 4.0}


@pytest.mark.parametrize("text", ["", "CPU", "CPU=x", "CPU=-1", "=2", "CPU=1;GPU=1", "CPU=nan"])
def test_resources_that_are_none_are_one_line(text):
    with pytest.raises(UserError, match="--trial-resources is like CPU=1"):
        executor.parse_resources(text)


def test_a_trial_gets_one_device_of_the_best_kind_unless_told():
    assert executor._one_device({"CPU": 8.0, "GPU": 2.0}) == {"GPU": 1.0}
    assert executor._one_device({"CPU": 8.0, "TPU": 4.0}) == {"TPU": 1.0}
    assert executor._one_device({"CPU": 8.0}) == {"CPU": 1.0}


def test_each_slot_gets_neighbours():
    assert executor.interleave("aabbc", 2) == list("ababc")
    assert executor.interleave("aaabbb", 2) == list("ababab")
    assert executor.interleave("abc", 8) == list("abc")


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--address=auto"], "--address goes with --executor ray, not local"),
        (["--trial_resources=CPU=1"], "--trial-resources goes with --executor ray, not local"),
        (["--executor=ray", "--jobs=2"], "--jobs goes with --executor jobs, not ray"),
        (["--executor=ray", "--distributed"], "not with --distributed"),
        (["--jobs=2", "--distributed"], "--executor jobs starts processes itself"),
        (["--executor=slurm"], "--executor is one of local, jobs, ray; got slurm"),
    ],
)
def test_flags_that_do_not_go_together_are_told(argv, told):
    with pytest.raises(UserError, match=told):
        chosen(*argv)


def test_the_executor_follows_from_the_flags():
    assert chosen() == chosen("--jobs=1") == "local" and chosen("--jobs=2") == "jobs"
    assert chosen("--executor=jobs", "--jobs=2") == "jobs"
    assert chosen("--executor=ray", "--address=auto", "--trial_resources=TPU=4") == "ray"


def chosen(*argv):
    values = cli._define_flags(list(argv))
    values(["launch", *argv])
    return cli._executor(values)


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'squeeze_jax\[ray\]'"):
        connect(None)


def test_an_address_where_nobody_answers_is_told_at_once():
    pytest.importorskip("ray")
    with pytest.raises(UserError, match="no Ray cluster at 127.0.0.1:9: "):
        connect("127.0.0.1:9")
    with pytest.raises(UserError, match="give HOST:PORT of the head node"):
        connect("ray://127.0.0.1:9")


def connect(address):
    with executor._connected(address):
        pass


def test_the_settings_of_jax_travel_and_the_platform_does_not(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=x")
    carried = executor._environment()
    assert carried["XLA_FLAGS"] == "--xla_dump_to=x" and carried["JAX_NUM_CPU_DEVICES"] == "2"
    assert "JAX_PLATFORMS" not in carried and int(carried["NPROC"]) >= 1
    assert carried["JAX_COMPILATION_CACHE_DIR"] and len(carried["SQUEEZE_JAX_COMMIT"]) > 6


def test_a_node_without_the_workdir_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_task, "node_name", lambda: "10.0.0.7")
    with pytest.raises(UserError, match="10.0.0.7 does not see the study in .*work; give"):
        ray_task.check_workdir(tmp_path / "work", "2026-11-27T02:00:00+00:00")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores are Linux's to give")
def test_cores_are_reserved_while_there_are_any(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = os.sched_getaffinity(0)
    with reserved_cores(1) as (core,):
        assert os.sched_getaffinity(0) == {core}
    assert os.sched_getaffinity(0) == before
    with reserved_cores(len(before) + 1) as none:
        assert none == [] and os.sched_getaffinity(0) == before
    with contextlib.ExitStack() as others:
        for path in tmp_path.glob("*/*"):
            fcntl.flock(others.enter_context(path.open("w")), fcntl.LOCK_EX)
        with reserved_cores(1) as none:
            assert none == [] and os.sched_getaffinity(0) == before


@pytest.fixture
def two_nodes(monkeypatch):
    """A cluster of two nodes of a core each; the second can be removed."""
    monkeypatch.setenv("RAY_worker_niceness", "0")  # other tests run beside this one
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    cluster = cluster_utils.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    node = cluster.add_node(num_cpus=1)
    yield cluster, node
    cluster.shutdown()


@pytest.mark.slow
def test_a_study_on_two_nodes_of_which_one_is_removed_is_the_local_one(tmp_path, two_nodes, cache):
    """No trial fails; the one on the node that dies goes on from its checkpoint on the other."""
    cluster, node = two_nodes
    work = Workdir(tmp_path / "cluster")
    flags = ["--executor=ray", f"--address={cluster.address}", "--trial_resources=CPU=1"]
    process = subprocess.Popen(
        command(*STUDY, cache, *flags, f"--workdir={work.path}"),
        cwd=ROOT,
        env=environment(),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + DEADLINE
    while not (work.has_checkpoint("seed=0") and work.has_checkpoint("seed=1")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    cluster.remove_node(node, allow_graceful=False)
    out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, err
    assert err.count("goes on from its checkpoint on") == 1
    assert out.splitlines()[-1].startswith(f"{work.path}/: 3 ")  # after the table of the points
    completed(*STUDY, cache, f"--workdir={tmp_path / 'local'}")
    timed = ("seconds", "images_per_second")
    there, here = [
        [{key: row[key] for key in row if key not in timed} for row in rows(folder)]
        for folder in (work.path, tmp_path / "local")
    ]
    assert there == here and len(here) == 3 and all(row["top1"] for row in here)
