"""Networks in other libraries' files: importers read them, exporters write them.

Importing this package loads no large library, such as onnx or PyTorch: each format's module imports
it when it reads or writes.
"""

from squeeze_jax.convert.exporters import (
    EXPORTERS,
    adapt,
    export_network,
    open_exported,
    runnable_suffixes,
)
from squeeze_jax.convert.importers import IMPORTERS, import_network, read_network

__all__ = [
    "EXPORTERS",
    "IMPORTERS",
    "adapt",
    "export_network",
    "import_network",
    "open_exported",
    "runnable_suffixes",
    "read_network",
]
