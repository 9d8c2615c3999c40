"""A web page to try a network in a browser: drop an image, see the five likeliest classes.

<directory>/index.html    demo.html, told where onnxruntime-web is
           /net.json      Network.metadata(): preprocessing and class names; and its "models"
           /float32.onnx  images [N, C, H, W] -> logits [N, classes]
           /int8.onnx     the same in integers, if there is one: the page compares them
           /ort/          onnxruntime-web, if the page is to work offline

Any web server of static files can serve it. An image put there opens with the page as
index.html?image=NAME.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Any

from squeeze_jax.errors import UserError
from squeeze_jax.files import new_folder

VERSION = "1.30.0"  # of onnxruntime-web
CDN = f"https://cdn.jsdelivr.net/npm/onnxruntime-web@{VERSION}/dist/"
# The files of dist/ that WebAssembly needs, with the hashes that the browser checks (Subresource
# Integrity).
SCRIPT, GLUE, WASM = "ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"
INTEGRITY = {
    SCRIPT: "sha384-Bw6URI+Gvoadw0do7/QrSHUC9D1vCYYK5OSqChFyhyV5mzPL4oe2rOAFljAnS8Sq",
    GLUE: "sha384-XcXA/MtAf0WpB8e023xQH9CM7RIjiugakT7x99DIwpFf7k56BIFFcAPerIF7FDad",
    WASM: "sha384-vjBJ1z7qrhkTyYsNqKeF6c7N+nOJSU94czEo+tvZcu8G75JparGq9kB+kTnEUNVM",
}
MIME_TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".json": "application/json",
    ".wasm": "application/wasm",
    ".onnx": "application/octet-stream",
}


def read_runtime(package: Path) -> dict[str, bytes]:
    """Reads the files of onnxruntime-web that the page needs, by name.

    Args:
      package: its npm package, node_modules/onnxruntime-web.

    Raises:
      UserError: some are missing or of another version.
    """
    install = f"`npm install onnxruntime-web@{VERSION}` puts it into node_modules/onnxruntime-web"
    missing = [name for name in INTEGRITY if not (package / "dist" / name).is_file()]
    if missing:
        raise UserError(f"{package / 'dist'} lacks {', '.join(missing)}; {install}")
    files = {name: (package / "dist" / name).read_bytes() for name in INTEGRITY}
    others = [name for name, content in files.items() if integrity(content) != INTEGRITY[name]]
    if others:
        raise UserError(
            f"{', '.join(others)} in {package / 'dist'} is not onnxruntime-web {VERSION}'s; "
            f"{install}"
        )
    return files


def integrity(content: bytes) -> str:
    """Returns the hash of a file as browsers write it."""
    return f"sha384-{base64.b64encode(hashlib.sha384(content).digest()).decode()}"


def write_page(
    directory: Path,
    metadata: Mapping[str, Any],
    models: Mapping[str, bytes],
    runtime: Path | None,
) -> None:
    """Writes the page's folder.

    Args:
      directory: a new folder.
      metadata: `Network.metadata()`.
      models: the same network as ONNX by precision, the one that is shown first before others;
        input "images" [N, C, H, W], output "logits" [N, classes], both float32.
      runtime: the npm package onnxruntime-web, to copy from; None lets the page load it from a CDN.

    Raises:
      UserError: the folder exists, or the package lacks files.
      WriteError: it cannot be written; nothing is left behind.
    """
    files = {} if runtime is None else read_runtime(runtime)
    page = resources.files("squeeze_jax.convert").joinpath("demo.html").read_text(encoding="utf-8")
    values = {
        "script_integrity": INTEGRITY[SCRIPT],
        "glue_integrity": INTEGRITY[GLUE],
        "wasm_integrity": INTEGRITY[WASM],
    }
    for key, value in (values | {"runtime": CDN if runtime is None else "./ort/"}).items():
        page = page.replace(f"{{{{{key}}}}}", value)
    record = {
        **metadata,
        "models": [
            {"precision": precision, "file": f"{precision}.onnx", "bytes": len(model)}
            for precision, model in models.items()
        ],
    }
    with new_folder(directory) as partial:
        (partial / "index.html").write_text(page, encoding="utf-8")
        (partial / "net.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
        for precision, model in models.items():
            (partial / f"{precision}.onnx").write_bytes(model)
        if files:
            (partial / "ort").mkdir()
            for name, content in files.items():
                (partial / "ort" / name).write_bytes(content)


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder's files with the types that browsers insist on, and no log."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | MIME_TYPES

    def handle(self) -> None:
        """Handles a request; a page that is closed or reloaded while a file is sent is no error."""
        with suppress(ConnectionError):
            super().handle()

    def end_headers(self) -> None:
        """Makes the browser ask whether its copy is current, so that a new page shows at once."""
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing: the page itself names what is missing."""


def server(directory: Path, port: int) -> ThreadingHTTPServer:
    """Returns a server of the page's folder for this computer alone, which listens already.

    Port 0 takes a free one.

    Raises:
      UserError: there is no page in the folder, or the port is taken.
    """
    if not (directory / "index.html").is_file():
        raise UserError(f"{directory} holds no page: index.html is missing")
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), partial(Handler, directory=directory))
    except (OSError, OverflowError) as e:
        raise UserError(f"cannot serve on port {port}: {e}") from e


def serve(directory: Path, port: int) -> None:
    """Serves the page's folder to this computer alone until Ctrl-C.

    Raises:
      UserError: there is no page in the folder, or the port is taken.
    """
    with server(directory, port) as running:
        print(f"http://127.0.0.1:{running.server_port}/ (Ctrl-C ends it)", flush=True)
        try:
            running.serve_forever()
        except KeyboardInterrupt:
            print()  # after the terminal's ^C
