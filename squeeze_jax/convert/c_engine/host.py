"""Runs an exported project on this machine: compiles it, and calls it as a library."""

import ctypes
import io
import json
import shutil
import subprocess
import tempfile
import weakref
import zipfile
from pathlib import Path

import numpy as np

from squeeze_jax.convert.c_engine.integer_net import Scale
from squeeze_jax.errors import UserError
from squeeze_jax.network import Classifier

FILES = ("engine.c", "net.c", "weights.c")
FLAGS = ("-std=c99", "-O3", "-shared", "-fPIC")


def find_compiler() -> str | None:
    """Returns the path of a C compiler, or None."""
    return next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)


class Library:
    """A compiled project, in a temporary folder that goes with the object."""

    def __init__(self, content: bytes, flags: tuple[str, ...] = ()):
        """Compiles a project.

        Args:
          content: the zip archive that `project.write` returned.
          flags: more flags of the compiler.

        Raises:
          UserError: there is no compiler, or it does not take the project.
        """
        compiler = find_compiler()
        if compiler is None:
            raise UserError("the project is tried with a C compiler: install cc, gcc or clang")
        self.folder = Path(tempfile.mkdtemp(prefix="squeeze_jax_"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            archive.extractall(self.folder)
        self.metadata = json.loads((self.folder / "net.json").read_text())
        done = subprocess.run(
            [compiler, *FLAGS, *flags, "-o", "net.so", *FILES],
            cwd=self.folder,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise UserError(f"{compiler} cannot compile the project: {done.stderr[:300]!r}")
        self._run = ctypes.CDLL(str(self.folder / "net.so")).net_run
        engine = self.metadata["engine"]
        self.input, self.output = Scale(**engine["input"]), Scale(**engine["output"])

    def run(self, image: np.ndarray) -> np.ndarray:
        """Returns the logits int8 [classes] of one image int8 [H, W, C]."""
        image = np.ascontiguousarray(image, np.int8)
        logits = np.empty(self.metadata["num_classes"], np.int8)
        self._run(*(array.ctypes.data_as(ctypes.c_void_p) for array in (image, logits)))
        return logits


def compile_project(content: bytes) -> Classifier:
    """Returns the classifier that a project is; see `Library`."""
    library = Library(content)

    def run(images: np.ndarray) -> np.ndarray:
        levels = library.input.quantize(images)
        return library.output.values(np.stack([library.run(image) for image in levels]))

    return Classifier.from_metadata(library.metadata, run)
