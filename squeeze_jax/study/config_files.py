"""The config files of studies: those that come with the package, and a path to one's own."""

import ast
import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from squeeze_jax.configs import base
from squeeze_jax.errors import UserError, suggest
from squeeze_jax.study.config_errors import named_errors

FOLDER = Path(base.__file__).parent


class Study(NamedTuple):
    """What the docstring of a study's file says in its first lines."""

    question: str
    effort: str  # how many trials and how long, of the first command that tells it


def list_studies() -> dict[str, Study]:
    """Returns each study that comes with the package, by name."""
    studies = {}
    for path in sorted(FOLDER.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if {"sweep", "space"} & _defined(tree):
            text = ast.get_docstring(tree) or ""
            told = re.search(
                rf"^python launch.py --config configs/{path.stem}.*?  +(.+)$", text, re.M
            )
            studies[path.stem] = Study(text.partition("\n")[0], told[1] if told else "")
    return studies


def _defined(tree: ast.Module) -> set[str]:
    """Returns the names that a module defines, assigns or imports from another one."""
    names = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def find_config_file(name_or_path: str) -> Path:
    """Returns the path of a config file: "sr_sweep", or a path such as "configs/sr_sweep.py".

    Raises:
      UserError: there is none.
    """
    for path in (Path(name_or_path), FOLDER / f"{name_or_path}.py"):
        if path.is_file():
            return path
    raise UserError(
        f"no study and no config file is called {name_or_path}; "
        f"{suggest(name_or_path, list_studies())}"
    )


def load_config_file(path: Path) -> ModuleType:
    """Imports a config file: get_config(preset), sweep(config) or space(config), derive(config).

    Raises:
      UserError: it has neither sweep() nor space(), or both, or raises an exception.
    """
    spec = spec_from_file_location("study", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is no Python file")
    module = module_from_spec(spec)
    with named_errors(path):
        spec.loader.exec_module(module)
    found = [name for name in ("sweep", "space") if hasattr(module, name)]
    if not found:
        raise UserError(f"{path} has no sweep(config): see configs/squeezenet.py")
    if len(found) > 1:
        raise UserError(f"{path} has both sweep(config) and space(config): which trials are meant?")
    return module
