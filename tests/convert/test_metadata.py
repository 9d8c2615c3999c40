"""The metadata behind a model file, and what is said of files that hold another or none."""

import io
import json
import struct
import zipfile

import pytest

from squeeze_jax.convert import metadata
from squeeze_jax.errors import UserError
from squeeze_jax.network import Network, imagenet

NET = Network(
    {"name": "squeezenet_v1_1", "pool_after": ["conv1"]},
    ("tench", "gold\nfish", "Łódź"),
    imagenet.CAFFE,
    {},
    {},
    "a test",
)
MODEL = b"TFL3" * 1000


def archive(content, name=metadata.METADATA, **options):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **options) as target:
        target.writestr(name, content)
    return file.getvalue()


def test_metadata_come_back(tmp_path):
    """From bytes and from a path, and Network.from_metadata takes it."""
    data = metadata.attach(MODEL, NET)
    (tmp_path / "net.tflite").write_bytes(data)
    assert (
        metadata.read(data)
        == metadata.read(tmp_path / "net.tflite")
        == metadata.read(str(tmp_path / "net.tflite"))
    )
    assert metadata.read(data) == json.loads(json.dumps(NET.metadata()))
    assert Network.from_metadata(metadata.read(data), {}, {}).preprocessing == NET.preprocessing
    assert data.startswith(MODEL) and data == metadata.attach(MODEL, NET)


def test_any_zip_reader_opens_it(tmp_path):
    """One label a line, whatever is in the names.

    Members are stored where their headers say, counted from the file's start.
    """
    (tmp_path / "net.tflite").write_bytes(metadata.attach(MODEL, NET))
    with zipfile.ZipFile(tmp_path / "net.tflite") as file:
        assert file.testzip() is None and file.namelist() == ["metadata.json", "labels.txt"]
        assert file.read("labels.txt").decode().splitlines() == ["tench", "gold fish", "Łódź"]
        assert [member.compress_type for member in file.infolist()] == [zipfile.ZIP_STORED] * 2
        assert file.getinfo("metadata.json").header_offset == len(MODEL)


def test_only_the_end_of_a_file_is_read(monkeypatch, tmp_path):
    monkeypatch.setattr(metadata, "LIMIT", 2000)
    (tmp_path / "net.tflite").write_bytes(metadata.attach(MODEL, NET))
    assert metadata.read(tmp_path / "net.tflite")["source"] == "a test"
    monkeypatch.setattr(metadata, "LIMIT", 500)
    with pytest.raises(UserError, match="no metadata of a network"):
        metadata.read(tmp_path / "net.tflite")
    with pytest.raises(UserError, match="more than the 500 bytes"):
        metadata.attach(MODEL, NET)


def far_offset():
    """A member that starts at byte 2**64 - 1."""
    name, extra = metadata.METADATA.encode(), struct.pack("<HHQ", 1, 8, 2**64 - 1)
    fields = (20, 0, 20, 0, 0, 0, 0, 0, 0, 2, 2, len(name), len(extra), 0, 0, 0, 0, 0xFFFFFFFF)
    entry = struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", *fields) + name + extra
    return entry + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(entry), 0, 0)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        MODEL,
        metadata.attach(MODEL, NET)[:-1],
        archive("{}", name="another.json"),
        archive("{"),
        archive("[" * 100_000),
        archive(b"\xff\xfe\x00"),
        archive("[]"),
        archive("{}" + " " * 10_000_000, compression=zipfile.ZIP_DEFLATED),
        archive("{}").replace(b"{}", b"[]"),
        far_offset(),
    ],
    ids=[
        "empty",
        "none",
        "cut",
        "other",
        "syntax",
        "deep",
        "encoding",
        "list",
        "bomb",
        "checksum",
        "offset",
    ],
)
def test_other_content_is_one_clear_line(data):
    with pytest.raises(UserError, match="metadata of a network") as error:
        metadata.read(data)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere.tflite"):
        metadata.read(tmp_path / "nowhere.tflite")
