"""The config files of studies: those that come with the package, and a path to one's own."""

import ast
import contextlib
import re
import traceback
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from squeeze_jax.configs import base
from squeeze_jax.errors import UserError, suggest

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
        if "sweep" in _defined(tree):
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


@contextlib.contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Turns an exception of a config file's own code into a UserError that names its line.

    A UserError, and an exception that no line of the file leads to, pass.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as e:
        for cause in _causes(e):
            if (line := error_line(cause, path)) is not None:
                text = f"{type(cause).__name__}: {error_text(cause)}"
                raise UserError(f"{path}, line {line}: {text}") from e
        raise


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an exception and those that it comes from: libraries wrap what a file raises."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def error_line(error: BaseException, path: Path) -> int | None:
    """Returns the last line of a file on the way to an exception; None where there is none."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) in (path, path.resolve())]
    return lines[-1] if lines else None


def error_text(error: BaseException) -> str:
    """Returns the first line of an exception's message, of a missing key what it says of it."""
    if isinstance(error, SyntaxError):
        return error.msg
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if "Did you mean" in text:
        name, close = missing_key(text)
        return f"no key {name}; did you mean {close}?"
    return text.strip().partition("\n")[0]


def missing_key(message: str) -> tuple[str, str]:
    """Returns the key that ml_collections' message is about, and one that may be meant, or ""."""
    found = re.search(r"""^[\\']*(?:Key ")?(\w+)""", message)
    close = re.search(r'Did you mean "(\w+)"', message)
    return found[1] if found else message, close[1] if close else ""


def load_config_file(path: Path) -> ModuleType:
    """Imports a config file: get_config(preset), sweep(config) and perhaps derive(config).

    Raises:
      UserError: it has no sweep(), or raises an exception.
    """
    spec = spec_from_file_location("study", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is no Python file")
    module = module_from_spec(spec)
    with named_errors(path):
        spec.loader.exec_module(module)
    if not hasattr(module, "sweep"):
        raise UserError(f"{path} has no sweep(config): see configs/squeezenet.py")
    return module
