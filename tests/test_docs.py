"""Checks the documents: links resolve, config keys exist, and the tour and examples run."""

import ast
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import squeeze_jax
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


def tour_cells():
    return json.loads((ROOT / "docs/tour.ipynb").read_text())["cells"]


@pytest.mark.slow
def test_the_tour_runs(tmp_path):
    """Every cell of docs/tour.ipynb runs, and the network that it compresses keeps its top-1."""
    code = ["".join(cell["source"]) for cell in tour_cells() if cell["cell_type"] == "code"]
    check = """
before, after = (
    x.evaluate(held_out)["top1"] for x in (network, squeeze_jax.load(folder / "net.sqz"))
)
assert before > 50 and abs(before - after) < 10, (before, after)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"}
    command = [sys.executable, "-c", "\n".join([*code, check])]
    process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


def test_the_tour_has_no_stored_outputs():
    assert not [cell for cell in tour_cells() if cell.get("outputs")]


def test_examples_of_the_api_call_what_exists():
    """Each call in docs/python.md names a public function or method, and arguments it has."""
    text = (ROOT / "docs/python.md").read_text()
    owners = {"squeeze_jax": squeeze_jax, "network": squeeze_jax.LoadedNetwork}
    checked = set()
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        for call in ast.walk(ast.parse(block)):
            match call:
                case ast.Call(func=ast.Attribute(value=ast.Name(id=owner), attr=name)):
                    if owner in owners:
                        signature = inspect.signature(getattr(owners[owner], name))
                        place = [None] * (len(call.args) + (owner == "network"))
                        signature.bind(*place, **{str(k.arg): None for k in call.keywords})
                        checked.add(name)
    assert {*squeeze_jax.__all__} - {"LoadedNetwork", "__version__"} <= checked
    assert {"predict", "evaluate", "export", "compress", "summary"} <= checked


def test_the_registries_that_docs_name_are_where_they_say():
    """docs/extend.md: each `REGISTRY` in `path` is a dict, and each path to a file exists."""
    text = (ROOT / "docs/extend.md").read_text()
    for path in re.findall(r"`((?:squeeze_jax|tests)/[a-z_/0-9.]+)`", text):
        assert (ROOT / path).exists(), path
    found = re.findall(r"`([A-Z]+)`\s+in\s+`(squeeze_jax/[a-z_/]+)\.py`", text)
    found += [("IMPORTERS", "squeeze_jax/convert/importers/__init__")]
    found += [("EXPORTERS", "squeeze_jax/convert/exporters/__init__")]
    found += [("EXECUTORS", "squeeze_jax/study/executors/__init__")]
    assert len({name for name, _ in found}) == 11
    for name, path in found:
        module = importlib.import_module(path.replace("/", ".").removesuffix(".__init__"))
        assert isinstance(getattr(module, name), dict) and name in text, name
