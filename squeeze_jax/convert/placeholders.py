"""Stands in for the classes in a pickle, so that torch.load builds none of them.

torch.load(weights_only=True) refuses a file for any object beside its weights, such as the
argparse.Namespace of a training script. Each class and function that a file names is replaced by a
`Placeholder`, which takes any arguments and does nothing. Names that PyTorch knows to be safe keep
their meaning, and no code of the file or of the classes runs.
"""

import pickletools
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from typing import BinaryIO


class Placeholder:
    """An object whose class was not loaded."""

    def __init__(self, *arguments, **keywords):
        """Ignores what the object was made of."""

    def __new__(cls, *arguments, **keywords):
        """Makes one from whatever arguments the pickle has."""
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Ignores the object's attributes."""


def placeholders(pickles: BinaryIO) -> dict[str, type[Placeholder]]:
    """Returns a placeholder for each class and function that is named, by "module.name".

    Args:
      pickles: a pickle, or several one after another with something else behind them.
    """
    names: dict[str, None] = {}
    while True:
        try:
            for opcode, argument, _ in pickletools.genops(pickles):
                if opcode.name == "GLOBAL":
                    module, _, name = str(argument).partition(" ")
                    module, name = NAME_MAPPING.get((module, name), (module, name))  # Python 2's
                    names[f"{IMPORT_MAPPING.get(module, module)}.{name}"] = None
        except Exception:  # no more pickles
            break
    return {name: type(_printable(name.rpartition(".")[2]), (Placeholder,), {}) for name in names}


def _printable(name: str) -> str:
    """Returns a name without what the name of a class may not hold."""
    return "".join(filter(str.isprintable, name))
