"""The page to try a net in a browser: its files, its server, and what Chromium makes of it.

The tests in a browser need Chromium and onnxruntime-web's npm package, whose folder the environment
variable ORT_WEB names.
"""

import base64
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import squeeze_jax
from squeeze_jax.convert import EXPORTERS, adapt, demo, export_network
from squeeze_jax.errors import UserError
from squeeze_jax.network import Preprocessing, preprocessing
from tests.browser import CHROMIUM, Browser

NAMES = ["n01440764 tench", "n04254777 sock", "7"]
SHOWN = ["tench", "sock", "7"]
SIZE, RESIZE = 40, 48


GREY = {
    "image_size": (SIZE, 28),
    "resize": (RESIZE, 35),
    "channel_order": "grey",
    "mean": (116.0,),
    "std": (57.0,),
}


def metadata(resize_mode: str = "short", **changes) -> dict:
    """What Network.metadata() gives."""
    data = {
        "image_size": SIZE,
        "resize": RESIZE,
        "resize_mode": resize_mode,
        "channel_order": "bgr",
        "mean": (104.0, 117.0, 123.0),
        "std": (58.0, 57.0, 56.0),
        **changes,
    }
    return {
        "model": {"name": "tiny"},
        "data": data,
        "num_classes": 3,
        "class_names": NAMES,
        "source": "weights <drawn> at random",
    }


def get(port: int, path: str) -> tuple[int, str, bytes]:
    """Status, type and body of a request whose path is sent as it stands."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest("GET", path, skip_accept_encoding=True)
    connection.endheaders()
    response = connection.getresponse()
    return response.status, response.headers.get("Content-Type", ""), response.read()


@pytest.fixture
def served():
    """A function that serves a folder until the test ends and returns the port."""
    running = []

    def start(directory: Path) -> int:
        running.append(demo.server(directory, 0))
        threading.Thread(target=running[-1].serve_forever, kwargs={"poll_interval": 0.05}).start()
        return running[-1].server_port

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """Stands for the npm package."""
    dist = tmp_path / "onnxruntime-web" / "dist"
    dist.mkdir(parents=True)
    for name in demo.INTEGRITY:
        (dist / name).write_bytes(name.encode())
        monkeypatch.setitem(demo.INTEGRITY, name, demo.integrity(name.encode()))
    (dist / "ort.webgpu.js").write_bytes(b"not needed")
    return dist.parent


# Without a browser
# ------------------------------------------------------------------------------------------------


def test_from_the_cdn(tmp_path):
    """Three files; the script comes in one version, and is held to its hash."""
    demo.write_page(tmp_path / "site" / "page", metadata(), {"float32": b"model"}, None)
    folder = tmp_path / "site" / "page"
    assert {path.name for path in folder.iterdir()} == {"index.html", "net.json", "float32.onnx"}
    models = [{"precision": "float32", "file": "float32.onnx", "bytes": 5}]
    assert json.loads((folder / "net.json").read_text()) == json.loads(
        json.dumps(metadata() | {"models": models})
    )
    assert (folder / "float32.onnx").read_bytes() == b"model"
    html = (folder / "index.html").read_text(encoding="utf-8")
    url = f"https://cdn.jsdelivr.net/npm/onnxruntime-web@{demo.VERSION}/dist/"
    assert (
        f'<script src="{url}ort.wasm.min.js" integrity="{demo.INTEGRITY[demo.SCRIPT]}" '
        'crossorigin="anonymous">' in html
    )
    assert f'const RUNTIME = "{url}"' in html
    assert all(html.count(value) == 1 for value in demo.INTEGRITY.values())
    assert "{{" not in html


def test_with_the_runtime_copied(tmp_path, package):
    """What the page needs of the package and no more; nothing is fetched from elsewhere."""
    demo.write_page(tmp_path / "page", metadata(), {"float32": b"model"}, package)
    assert {
        path.name: path.read_bytes().decode() for path in (tmp_path / "page" / "ort").iterdir()
    } == {n: n for n in demo.INTEGRITY}
    html = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    assert '<script src="./ort/ort.wasm.min.js"' in html
    assert "https://" not in html


def test_folder_exists(tmp_path):
    """Nothing of the user's is overwritten."""
    with pytest.raises(UserError, match="exists already"):
        demo.write_page(tmp_path, metadata(), {"float32": b""}, None)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is no folder"):
        demo.write_page(tmp_path / "file" / "page", metadata(), {"float32": b""}, None)


def test_package_lacks_files(tmp_path, package):
    """The message names them and how to get them; no half-written page is left."""
    (package / "dist" / demo.WASM).unlink()
    with pytest.raises(
        UserError, match=rf"lacks {demo.WASM}; `npm install onnxruntime-web@{demo.VERSION}`"
    ):
        demo.write_page(tmp_path / "page", metadata(), {"float32": b""}, package)
    with pytest.raises(UserError, match=", ".join(demo.INTEGRITY)):
        demo.write_page(tmp_path / "page", metadata(), {"float32": b""}, tmp_path / "nowhere")
    assert not (tmp_path / "page").exists()


def test_package_of_another_version(tmp_path, package):
    """The browser would refuse the files; the message comes earlier."""
    (package / "dist" / demo.GLUE).write_text("newer")
    with pytest.raises(
        UserError, match=rf"{demo.GLUE} in .* is not onnxruntime-web {demo.VERSION}'s"
    ):
        demo.write_page(tmp_path / "page", metadata(), {"float32": b""}, package)


def test_server(tmp_path, package, served):
    """Types as browsers want them; nothing outside the folder."""
    demo.write_page(tmp_path / "page", metadata(), {"float32": b"model"}, package)
    (tmp_path / "secret.txt").write_text("secret")
    port = served(tmp_path / "page")
    types = {
        path: get(port, path)[:2]
        for path in (
            "/",
            "/net.json",
            "/float32.onnx",
            *(f"/ort/{name}" for name in demo.INTEGRITY),
        )
    }
    assert types == {
        "/": (200, "text/html"),
        "/net.json": (200, "application/json"),
        "/float32.onnx": (200, "application/octet-stream"),
        f"/ort/{demo.SCRIPT}": (200, "text/javascript"),
        f"/ort/{demo.GLUE}": (200, "text/javascript"),
        f"/ort/{demo.WASM}": (200, "application/wasm"),
    }
    for path in (
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/ort/../../secret.txt",
        f"/{tmp_path}/secret.txt",
        "/..%2fsecret.txt",
    ):
        status, _, body = get(port, path)
        assert status == 404 and b"secret" not in body


def test_server_errors(tmp_path):
    """No page; a port that is taken; none such."""
    with pytest.raises(UserError, match="holds no page"):
        demo.server(tmp_path, 0)
    (tmp_path / "index.html").touch()
    with demo.server(tmp_path, 0) as running:
        assert running.server_address[0] == "127.0.0.1"
        with pytest.raises(UserError, match="cannot serve on port"):
            demo.server(tmp_path, running.server_port)
    with pytest.raises(UserError, match="cannot serve on port 70000"):
        demo.server(tmp_path, 70000)


def test_server_outlives_a_closed_page(tmp_path, served, capfd):
    """A browser that hangs up in the middle of a file is no news."""
    (tmp_path / "index.html").touch()
    (tmp_path / "float32.onnx").write_bytes(bytes(30_000_000))
    port = served(tmp_path)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"GET /float32.onnx HTTP/1.1\r\n\r\n")
        connection.recv(1000)
    assert get(port, "/")[0] == 200
    time.sleep(0.2)
    assert capfd.readouterr() == ("", "")


def test_ctrl_c_ends_the_server_quietly(tmp_path):
    """It prints where it is, and then nothing."""
    (tmp_path / "index.html").touch()
    # A shell that runs tests in the background has them ignore Ctrl-C; the default is set again.
    code = """
import signal, sys
from pathlib import Path
from squeeze_jax.convert import demo
signal.signal(signal.SIGINT, signal.default_int_handler)
demo.serve(Path(sys.argv[1]), 0)
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        line = process.stdout.readline()
        port = int(line.removeprefix("http://127.0.0.1:").partition("/")[0])
        assert get(port, "/")[0] == 200
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out.strip(), err) == (0, "", "")


# In Chromium
# ------------------------------------------------------------------------------------------------

ORT_WEB = os.environ.get("ORT_WEB")
in_browser = pytest.mark.skipif(
    not (CHROMIUM and ORT_WEB),
    reason="needs Chromium, and onnxruntime-web's npm package at $ORT_WEB",
)


class DemoBrowser(Browser):
    """A browser with the page to try a net in."""

    def drop(self, *files: Path) -> None:
        """Drags files onto the page."""
        for event in ("dragEnter", "dragOver", "drop"):
            data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
            self("Input.dispatchDragEvent", type=event, x=300, y=200, data=data)

    def pick(self, file: Path) -> None:
        """Chooses a file in the page's file input."""
        root = self("DOM.getDocument")["root"]["nodeId"]
        node = self("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
        self("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    def message(self, start: str) -> str:
        """The page's line of news, once it starts like this."""
        self.until(
            f"document.getElementById('message').textContent.startsWith({json.dumps(start)})"
        )
        return self.evaluate("document.getElementById('message').textContent")

    def top(self, name: str) -> tuple[list[str], np.ndarray]:
        """Names and probabilities shown for an image."""
        self.message(f"{name} (")
        self.until("!document.getElementById('result').hidden")
        items = self.evaluate(
            "[...document.querySelectorAll('#top li')]"
            ".map((e) => [e.querySelector('span').innerText, e.children[1].value])"
        )
        return [name for name, _ in items], np.array([float(value) for _, value in items])


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """One for all the tests."""
    running = DemoBrowser(tmp_path_factory.mktemp("profile"))
    yield running
    running.close()


@pytest.fixture(scope="module")
def weights() -> np.ndarray:
    """Of the tiny net's one convolution."""
    return np.random.default_rng(1).normal(0, 0.6, (3, 3, 3, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def model(weights) -> bytes:
    """3x3 convolution, ReLU, global average pool."""
    return tiny_model(weights, SIZE, SIZE)


def tiny_model(weights: np.ndarray, height: int, width: int) -> bytes:
    """The net of a kernel [3, C, 3, 3]."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Conv", ["images", "weights"], ["features"]),
        helper.make_node("Relu", ["features"], ["active"]),
        helper.make_node("GlobalAveragePool", ["active"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            helper.make_tensor_value_info(
                "images", TensorProto.FLOAT, ["N", weights.shape[1], height, width]
            )
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(weights, "weights")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(proto)
    return proto.SerializeToString()


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """A folder of images.

    Smooth shapes of many colours, with some noise, so that every step of the preprocessing counts.
    """
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:181, :307]
    wave = np.stack(
        [np.sin(x / 9 + y / 31), np.sin(x / 23 - y / 7), np.cos(x / 40) * np.cos(y / 11)], -1
    )
    pixels = np.clip(
        127 + 100 * wave + generator.normal(0, 20, wave.shape) + (x / 4)[..., None] - 40, 0, 255
    ).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "wide.png")
    Image.fromarray(pixels).save(folder / "wide.jpg", quality=90)
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(pixels).save(folder / "turned.jpg", quality=90, exif=turned)
    Image.fromarray(np.concatenate([pixels, np.full((181, 307, 1), 255, np.uint8)], -1)).save(
        folder / "layer.png"
    )
    (folder / "text.png").write_text("no image")
    return folder


def expected(
    path: Path, resize_mode: str, weights: np.ndarray, **changes
) -> tuple[list[str], np.ndarray]:
    """Names and probabilities in falling order, by NumPy, preprocessed as in Python."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    if path.stem == "turned":
        pixels = np.rot90(pixels, -1)
    inputs = preprocessing.preprocess(
        pixels, Preprocessing.from_metadata(metadata(resize_mode, **changes)["data"])
    )
    windows = np.lib.stride_tricks.sliding_window_view(
        inputs, (3, 3), (0, 1)
    )  # [y, x, channel, ky, kx]
    logits = np.maximum(np.einsum("yxchw,ochw->yxo", windows, weights), 0).mean((0, 1))
    probabilities = np.exp(logits) / np.exp(logits).sum()
    order = np.argsort(-probabilities)
    return [SHOWN[label] for label in order], probabilities[order]


@pytest.fixture
def site(tmp_path, model, served):
    """A function that writes and serves the page of the tiny net, and returns its folder and
    address.
    """

    def start(resize_mode: str = "short") -> tuple[Path, str]:
        folder = tmp_path / resize_mode
        demo.write_page(folder, metadata(resize_mode), {"float32": model}, Path(ORT_WEB))
        return folder, f"http://127.0.0.1:{served(folder)}/"

    return start


@in_browser
@pytest.mark.parametrize("mode", ["short", "squash"])
def test_resizes_like_pillow(browser, site, mode):
    """The page's function against Pillow, on noise.

    Every byte the same, whether it reduces, enlarges or does neither.
    """
    browser.open(site()[1])
    for height, width, size in [
        (301, 190, 64),
        (97, 411, 50),
        (31, 20, 48),
        (64, 64, 64),
        (64, 90, 64),
        (90, 90, 7),
        (1, 5, 3),
        (301, 190, (64, 50)),
        (97, 411, (60, 31)),
        (31, 20, (48, 60)),
        (120, 90, (40, 30)),
        (64, 64, (7, 9)),
    ]:
        new_height, new_width = (size, size) if isinstance(size, int) else size
        pixels = np.random.default_rng(height).integers(0, 256, (height, width, 4), np.uint8)
        text = base64.b64encode(pixels.tobytes()).decode()
        bytes_in_js = f"Uint8Array.from(atob('{text}'), (c) => c.charCodeAt(0))"
        call = f"resize({bytes_in_js}, {width}, {height}, [{new_height}, {new_width}], '{mode}')"
        found = base64.b64decode(
            browser.evaluate(
                f"btoa({call}.reduce((text, byte) => text + String.fromCharCode(byte), ''))"
            )
        )
        found = np.frombuffer(found, np.uint8).reshape(new_height, new_width, 4)
        np.testing.assert_array_equal(
            found[..., :3],
            preprocessing.resize(pixels[..., :3].copy(), size, mode),
            f"{width}x{height} to {size}",
        )
        assert (found[..., 3] == 255).all()


@in_browser
@pytest.mark.parametrize("mode", ["short", "squash"])
def test_dropped_images(browser, site, images, weights, mode):
    """Names in order and probabilities, as Python has them.

    JPEG decoders may differ by a little.
    """
    browser.open(site(mode)[1])
    browser.message("Ready.")
    for name, tolerance in (
        ("wide.png", 1e-4),
        ("layer.png", 1e-4),
        ("wide.jpg", 0.02),
        ("turned.jpg", 0.02),
    ):
        browser.drop(images / name)
        names, probabilities = browser.top(name)
        wanted, values = expected(images / name, mode, weights)
        assert names == wanted
        np.testing.assert_allclose(probabilities, values, atol=tolerance)
    assert values[0] - values[1] > 0.02  # the images tell the classes apart
    assert " ms in the net" in browser.evaluate("document.getElementById('time').textContent")
    assert (
        browser.evaluate("document.getElementById('about').textContent")
        == "3 classes, 40 × 40 pixels. weights <drawn> at random"
    )
    assert browser.complaints() == []


@in_browser
@pytest.mark.parametrize("mode", ["short", "squash"])
def test_grey_and_not_square(browser, tmp_path, served, images, weights, mode):
    """A colour photo becomes its luma, of the net's height and width."""
    weights = weights[:, :1] * 2
    data = metadata(mode, **GREY)
    demo.write_page(
        tmp_path / "page", data, {"float32": tiny_model(weights, SIZE, 28)}, Path(ORT_WEB)
    )
    browser.open(f"http://127.0.0.1:{served(tmp_path / 'page')}/")
    browser.message("Ready.")
    for name, tolerance in (("wide.png", 1e-4), ("turned.jpg", 0.02)):
        browser.drop(images / name)
        names, probabilities = browser.top(name)
        wanted, values = expected(images / name, mode, weights, **GREY)
        assert names == wanted
        np.testing.assert_allclose(probabilities, values, atol=tolerance)
    assert values[0] - values[1] > 0.02
    about = browser.evaluate("document.getElementById('about').textContent")
    assert about.startswith("3 classes, 28 × 40 pixels.")
    assert browser.complaints() == []


@in_browser
def test_picked_image(browser, site, images, weights):
    """The file input, which takes the keyboard's focus and has a label; the same file twice."""
    browser.open(site()[1])
    assert browser.evaluate(
        "const input = document.getElementById('file'); input.focus(); "
        "document.activeElement === input"
    )
    assert browser.evaluate("input.labels[0].innerText") == "Drop an image here or choose a file"
    for _ in range(2):
        browser.pick(images / "wide.png")
        names, probabilities = browser.top("wide.png")
        wanted, values = expected(images / "wide.png", "short", weights)
        assert names == wanted
        np.testing.assert_allclose(probabilities, values, atol=1e-4)
        browser.evaluate("say('')")
    assert browser.complaints() == []


@in_browser
def test_linked_image(browser, site, images, weights):
    """?image= names one in the page's folder, and no other."""
    folder, url = site()
    shutil.copy(images / "wide.png", folder / "an example.png")
    browser.open(f"{url}?image=an%20example.png")
    assert browser.top("an example.png")[0] == expected(images / "wide.png", "short", weights)[0]
    assert browser.complaints() == []
    browser.open(f"{url}?image=http://127.0.0.1:9/secret.png")
    browser.message("?image= takes an image of the page's own folder.")
    browser.open(f"{url}?image=none.png")
    browser.message("none.png is missing (HTTP 404).")


@in_browser
def test_not_an_image(browser, site, images):
    """The message says so, the result before it goes, and the next image works."""
    browser.open(site()[1])
    browser.drop(images / "wide.png")
    browser.top("wide.png")
    browser.drop(images / "text.png")
    browser.message("text.png is not an image")
    assert browser.evaluate("document.getElementById('result').hidden")
    browser.drop(images / "wide.png")
    browser.top("wide.png")


@in_browser
@pytest.mark.slow
def test_int8_beside_float(browser, tmp_path, served, images):
    """Each model's size, time and classes; the choice stays for the next image."""
    pytest.importorskip("onnxruntime")
    network = squeeze_jax.load("cifar10-48k").whole()
    with Image.open(images / "wide.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    inputs = preprocessing.preprocess(pixels, network.preprocessing)[None]
    calibration = np.concatenate([inputs, inputs[:, ::-1], inputs[:, :, ::-1]])
    options = {"float32": {}, "int8": {"precision": "int8", "calibration": calibration}}
    models = {
        precision: export_network(network, "onnx", option, inputs)[0]
        for precision, option in options.items()
    }
    wanted = {}
    for precision, content in models.items():
        logits = adapt(EXPORTERS["onnx"].open(content), network)(inputs)[0].astype(np.float64)
        wanted[precision] = np.sort(np.exp(logits) / np.exp(logits).sum())[:-6:-1]
    assert abs(wanted["float32"] - wanted["int8"]).max() > 1e-3
    demo.write_page(tmp_path / "page", network.metadata(), models, Path(ORT_WEB))
    browser.open(f"http://127.0.0.1:{served(tmp_path / 'page')}/")
    browser.message("Ready.")
    browser.drop(images / "wide.png")
    np.testing.assert_allclose(browser.top("wide.png")[1], wanted["float32"], atol=1e-4)
    rows = browser.evaluate(
        "[...document.querySelectorAll('#models tbody tr')]"
        ".map((row) => row.innerText.split('\\t'))"
    )
    assert [row[0].strip() for row in rows] == list(models)
    assert [row[1] for row in rows] == [f"{len(model) / 1000:,.0f} KB" for model in models.values()]
    assert all(row[2].endswith(" ms") for row in rows) and rows[0][3] == "1.00 ×"
    browser.evaluate("document.querySelector('input[value=int8]').click()")
    for _ in range(2):
        np.testing.assert_allclose(browser.top("wide.png")[1], wanted["int8"], atol=0.02)
        browser.evaluate("say('')")
        browser.drop(images / "wide.png")
    assert browser.complaints() == []


@in_browser
@pytest.mark.parametrize(
    "path, content, message",
    [
        ("float32.onnx", None, "float32.onnx is missing (HTTP 404)."),
        ("float32.onnx", b"no model", "float32.onnx does not load: "),
        ("net.json", b"{", "net.json is not JSON."),
        (
            "net.json",
            json.dumps(
                metadata()
                | {"class_names": NAMES[:2], "models": [{"file": "float32.onnx", "bytes": 1}]}
            ).encode(),
            "float32.onnx gives 3 logits, but net.json names 2 classes.",
        ),
        (f"ort/{demo.SCRIPT}", None, "onnxruntime-web could not be loaded from ./ort/"),
        (f"ort/{demo.WASM}", b"tampered with", f"./ort/{demo.WASM} could not be loaded"),
    ],
)
def test_what_keeps_a_net_from_loading(browser, site, images, path, content, message):
    """It is named, again when an image is dropped."""
    folder, url = site()
    (folder / path).unlink()
    if content is not None:
        (folder / path).write_bytes(content)
    browser.open(url)
    browser.message(message)
    browser.evaluate("say('')")
    browser.drop(images / "wide.png")
    browser.message(message)


@in_browser
def test_wasm_blocked(browser, site):
    """By a policy of the page, as a strict host may set."""
    folder, url = site()
    html = (folder / "index.html").read_text(encoding="utf-8")
    policy = (
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"script-src 'self' 'unsafe-inline'\">"
    )
    (folder / "index.html").write_text(html.replace("<head>", f"<head>{policy}"), encoding="utf-8")
    browser.open(url)
    browser.message("WebAssembly is blocked")


@in_browser
def test_runtime_from_the_cdn(browser, tmp_path, model, served, images):
    """The page as it is without a copied runtime.

    The network's part is played by the files of the package.
    """
    demo.write_page(tmp_path / "page", metadata(), {"float32": model}, None)
    port = served(tmp_path / "page")
    runtime = demo.read_runtime(Path(ORT_WEB))
    browser("Fetch.enable", patterns=[{"urlPattern": f"{demo.CDN}*"}])
    try:
        browser.events.clear()
        browser("Page.navigate", url=f"http://127.0.0.1:{port}/")
        asked = set()
        while len(asked) < len(runtime):
            event = browser.events.pop(0) if browser.events else browser.receive()
            if event.get("method") == "Fetch.requestPaused":
                name = event["params"]["request"]["url"].removeprefix(demo.CDN)
                asked.add(name)
                headers = [{"name": "Access-Control-Allow-Origin", "value": "*"}]
                body = base64.b64encode(runtime[name]).decode()
                browser(
                    "Fetch.fulfillRequest",
                    requestId=event["params"]["requestId"],
                    responseCode=200,
                    responseHeaders=headers,
                    body=body,
                )
    finally:
        browser("Fetch.disable")
    browser.message("Ready.")
    browser.drop(images / "wide.png")
    assert set(browser.top("wide.png")[0]) == set(SHOWN)
