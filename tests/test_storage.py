"""Paths in object storage, against a server on loopback: files, checkpoints, errors in one line."""

import importlib.util
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import jax
import numpy as np
import pytest

import squeeze_jax
from squeeze_jax import cli, storage
from squeeze_jax.errors import UserError
from squeeze_jax.files import WriteError, check_file, remove, write_atomically, write_errors
from tests.gcs import bucket  # noqa: F401


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("memory://b/x", "memory://b/x: storage is a path of this machine or one of gs://, s3://"),
        ("gs://", "names no bucket"),
        ("gs:/", "names no bucket"),
    ],
)
def test_what_is_no_storage(text, line):
    with pytest.raises(UserError, match=line):
        storage.as_path(text)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"gs:// needs gcsfs: pip install 'squeeze_jax\[gcs\]'"):
        storage.as_path("gs://bucket/run")


def test_a_path_of_this_machine_stays_one(tmp_path):
    assert storage.as_path(tmp_path) == tmp_path
    assert storage.as_path("runs/x") == Path("runs/x")
    assert storage.as_path(f"file://{tmp_path}") == tmp_path
    assert storage.absolute(Path("x")) == Path.cwd() / "x"


def test_files(bucket):  # noqa: F811
    folder = storage.as_path(bucket) / "files"
    assert storage.list_names(folder) == []
    assert storage.is_remote(folder) and storage.as_path(folder) == folder
    # pathlib takes the two strokes for one
    assert str(storage.as_path(Path(str(folder)))) == str(folder)
    write_atomically(folder / "a.txt", "é")
    assert (folder / "a.txt").read_bytes() == "é".encode()
    assert storage.size(folder / "a.txt") == 2
    assert storage.create(folder / "b", b"1") and not storage.create(folder / "b", b"2")
    assert storage.read_all([folder / "b", folder / "none", folder / "a.txt"]) == [
        b"1",
        None,
        "é".encode(),
    ]
    assert sorted(storage.list_names(folder)) == ["a.txt", "b"]
    with storage.local_file(folder / "b") as copy:
        assert copy.name == "b" and copy.read_bytes() == b"1"
    remove(folder)
    remove(folder)
    assert storage.list_names(folder) == []


def test_a_bucket_that_is_not_there(bucket):  # noqa: F811
    with pytest.raises(UserError, match="cannot write gs://nobody-has-this/run: there is no buc"):
        check_file(storage.as_path("gs://nobody-has-this/run/study.json"))


class _Refuses(BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'{"error": {"code": 403, "message": "me@x.org does not have access"}}'
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_PUT = do_DELETE = do_GET

    def log_message(self, *args):
        pass


@pytest.fixture
def refusing(monkeypatch):
    """Storage that gives nothing to anybody."""
    if importlib.util.find_spec("gcsfs") is None:
        pytest.skip("gcsfs is not installed")
    from etils.epath import backend

    server = ThreadingHTTPServer(("127.0.0.1", 0), _Refuses)
    Thread(target=server.serve_forever, daemon=True).start()
    storage.as_path("gs://bucket/run")
    import gcsfs

    url = f"http://127.0.0.1:{server.server_address[1]}"
    file_system = gcsfs.GCSFileSystem(token="anon", endpoint_url=url, use_listings_cache=False)
    monkeypatch.setattr(backend.fsspec_backend, "_get_filesystem", lambda name: file_system)
    yield
    server.shutdown()


def test_no_right_to_write(refusing):
    path = storage.as_path("gs://bucket/run/study.json")
    with pytest.raises(UserError, match=r"cannot write gs://bucket/run: no right.*me@x.org") as e:
        check_file(path)
    assert "\n" not in str(e.value)
    with pytest.raises(WriteError, match="Permission denied"), write_errors(path):
        path.write_bytes(b"")


@pytest.mark.slow
def test_no_right_to_read(refusing, capsys):
    assert cli.main(["report", "gs://bucket/run"]) == 2
    line = capsys.readouterr().err
    assert (
        line.startswith("error: object storage: ") and "me@x.org" in line and line.count("\n") == 1
    )


@pytest.mark.slow
def test_every_command_takes_a_bucket(bucket, tmp_path, capsys):  # noqa: F811
    network = squeeze_jax.load("cifar10-48k")
    images = np.zeros((1, 32, 32, 3), np.uint8)
    network.save(f"{bucket}/nets/saved")
    with pytest.raises(UserError, match="exists already"):
        network.save(f"{bucket}/nets/saved")
    network.compress(f"{bucket}/nets/net.sqz")
    for name in ("saved", "net.sqz"):
        again = squeeze_jax.load(f"{bucket}/nets/{name}")
        assert jax.tree.all(
            jax.tree.map(np.array_equal, again.whole().params, network.whole().params)
        )
        assert again.predict(list(images))[0]
    exported = f"{bucket}/nets/net.safetensors"
    command = ["export", f"{bucket}/nets/saved", "--format", "safetensors", "-o", exported]
    assert cli.main(command) == 0 and exported in capsys.readouterr().out
    assert cli.main(["import", exported, "-o", f"{bucket}/nets/imported"]) == 0
    assert cli.main(["summary", f"{bucket}/nets/imported"]) == 0
    assert not list(Path.cwd().glob("gs:*"))
