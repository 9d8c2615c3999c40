"""The shape of the source tree: who imports whom, and what only one file may name."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "squeeze_jax"
MODULES = {
    ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(SOURCE.rglob("*.py"))
}

ANYWHERE = {"errors", "files", "signals", "storage", "config_parsing"}
# part -> what it may import besides itself and ANYWHERE: imports go downwards only.
MAY_IMPORT = {
    "squeeze_jax": {"api", "study"},  # lazily
    "__main__": {"allocator", "cli", "startup"},
    "startup": set(),
    "errors": set(),
    "signals": set(),
    "files": {"storage"},
    "storage": set(),
    "config_parsing": set(),
    "allocator": set(),
    "cpu_affinity": set(),
    "zoo": set(),
    "models": set(),
    "network": {"models", "cpu_affinity"},
    "data": {"network"},
    "cost": {"models", "network", "data"},
    "convert": {"models", "network", "data", "cost", "compress"},
    "compress": {"models", "network", "data", "cost"},
    "train": {"models", "network", "data", "cost", "convert", "compress", "zoo"},
    "study": {
        "allocator",
        "cpu_affinity",
        "configs",
        "models",
        "network",
        "data",
        "cost",
        "convert",
        "compress",
        "train",
    },
    "report": {"models", "network", "data", "cost", "study"},
    "api": {"models", "network", "cost", "data", "train", "compress", "convert", "report", "zoo"},
    "cli": {
        "squeeze_jax",
        "startup",
        "cpu_affinity",
        "zoo",
        "api",
        "configs",
        "models",
        "network",
        "cost",
        "data",
        "train",
        "compress",
        "convert",
        "study",
        "report",
    },
}


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def absolute(node: ast.ImportFrom, path: Path) -> str:
    """The module that `from ... import` names, relative ones resolved."""
    if not node.level:
        return node.module
    package = path.relative_to(SOURCE.parent).parts[: -node.level]
    return ".".join([*package, *([node.module] if node.module else [])])


def imports(path: Path) -> set[str]:
    """Every name a file imports, wherever in the file, as dotted paths."""
    names = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{absolute(node, path)}.{alias.name}" for alias in node.names}
    return names


def own_imports(path: Path) -> set[str]:
    """The modules of ours that a file imports."""
    ours = {name for name in imports(path) if name.split(".")[0] == "squeeze_jax"}
    return {name if name in MODULES else name.rpartition(".")[0] for name in ours}


def part(module: str) -> str:
    """squeeze_jax.train.loop -> train."""
    return module.split(".")[1] if "." in module else module


def importers(name: str) -> set[str]:
    """The files of ours that import the package `name` or something in it."""
    return {
        path.relative_to(SOURCE).as_posix()
        for path in MODULES.values()
        if any(imported == name or imported.startswith(f"{name}.") for imported in imports(path))
    }


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_what_its_part_may(module):
    """Every import of ours goes down the table."""
    own = part(module)
    assert own in MAY_IMPORT, f"{own} is not in the table"
    found = {part(name) for name in own_imports(MODULES[module])}
    assert found <= MAY_IMPORT[own] | {
        own,
        "errors",
        "files",
        "signals",
        "storage",
        "config_parsing",
    }


def test_table_has_no_circles():
    """The parts can be put in an order in which each imports earlier ones only."""
    TopologicalSorter(MAY_IMPORT).prepare()


def test_files_import_each_other_in_no_circle():
    """Neither can files, inside a part or across parts."""
    TopologicalSorter(
        {module: own_imports(path) - {module} for module, path in MODULES.items()}
    ).prepare()


def test_nobody_imports_the_entry_points():
    """cli and launch.py sit on top; __main__ starts them."""
    outside = {name for name in importers("squeeze_jax.cli") if not name.startswith("cli/")}
    assert outside == {"__main__.py"}
    assert importers("launch") == set()


def test_only_the_checkpoint_file_imports_orbax():
    """Checkpoints have one home."""
    assert importers("orbax") == {"train/checkpoint.py"}


def test_only_the_parallel_file_names_pmap():
    """So does the choice of devices; comments and docstrings count."""
    assert {
        path.relative_to(SOURCE).as_posix()
        for path in MODULES.values()
        if "pmap" in path.read_text()
    } == {"train/parallel.py"}


@pytest.mark.parametrize("package", ["tensorflow", "pickle", "cloudpickle", "dill"])
def test_nobody_imports(package):
    """TensorFlow is for preparing data only, and files never run code."""
    assert importers(package) == set()


@pytest.mark.parametrize("module", MODULES)
def test_file_is_one_idea(module):
    """Named after what it holds."""
    assert MODULES[module].name not in ("utils.py", "helpers.py", "common.py")
