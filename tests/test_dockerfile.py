"""The Dockerfile, of which no daemon is needed to check that it can find its files."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "Dockerfile").read_text()
COPIED = [
    source
    for line in re.findall(r"^COPY (?!--from)(.+)$", TEXT, re.MULTILINE)
    for source in line.split()[:-1]
]


def test_what_is_copied_is_there_and_is_sent_to_the_daemon():
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line[0] == "!"]
    assert sorted(COPIED) == sorted(sent) and all((ROOT / name).exists() for name in COPIED)


def test_all_that_the_wheel_is_built_of_is_copied():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    links = {path.readlink().name for path in (ROOT / "squeeze_jax").iterdir() if path.is_symlink()}
    assert {"pyproject.toml", project["readme"], *project["license-files"], *links} < set(COPIED)
    version = re.search(r"requires-python = \">=3\.(\d+)", (ROOT / "pyproject.toml").read_text())
    python = re.search(r"^ARG PYTHON=3\.(\d+)$", TEXT, re.MULTILINE)
    assert version and python and int(python[1]) >= int(version[1])


def test_the_extras_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "ray" in extras["optional-dependencies"] and "[ray,${EXTRAS}]" in TEXT
