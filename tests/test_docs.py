"""Checks the documents: relative links resolve, and the config keys they name exist."""

import re
from pathlib import Path

import pytest

from squeeze_jax.configs import base

ROOT = Path(__file__).parents[1]
GUIDES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
DOCUMENTS = [*GUIDES, *sorted((ROOT / "experiments").rglob("*.md"))]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_resolve(path):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text())
    missing = [x for x in links if "://" not in x and not (path.parent / x).exists()]
    assert not missing


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: str(path.relative_to(ROOT)))
def test_named_config_keys_exist(path):
    for key in re.findall(r"--config\.([a-z0-9_.]+)=", path.read_text()):
        value = base.get_config("digits", "docs")
        for part in key.split("."):
            assert part in value, f"no config key {key}"
            value = value[part]
