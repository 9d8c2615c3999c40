"""Networks that travel with the package: the .sqz files of this folder, by name.

`Network.source` of each tells its data, accuracy, recipe and commit; experiments/tiny made them.
"""

from pathlib import Path

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Returns the names of the bundled networks."""
    return sorted(path.stem for path in FOLDER.glob("*.sqz"))


def locate(path: Path) -> Path:
    """Returns the file of a bundled network, or the path where it is not the name of one.

    A file or folder of that name goes first.
    """
    return FOLDER / f"{path}.sqz" if str(path) in names() and not path.exists() else path
