"""Files are written whole or not at all."""

import pytest

from squeeze_jax.files import write_atomically


def test_a_write_leaves_no_trace(tmp_path):
    write_atomically(tmp_path / "deep/a.json", "1")
    write_atomically(tmp_path / "deep/a.json", b"2")
    assert [(path.name, path.read_text()) for path in (tmp_path / "deep").iterdir()] == [
        ("a.json", "2")
    ]


def test_a_failed_write_leaves_nothing(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        write_atomically(tmp_path / "folder", "1")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
