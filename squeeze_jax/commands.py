"""What each `squeeze-jax` command does: parsed arguments in, text on stdout, an exit code back.

Libraries are imported where they are needed, so that --help and a mistyped flag answer at once.
"""

import argparse
import ast
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from squeeze_jax.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from squeeze_jax.data import Source
    from squeeze_jax.net import Classifier, Net, Preprocessing
    from squeeze_jax.trace import Layer


def report(arguments: argparse.Namespace) -> int:
    from squeeze_jax import sweep
    from squeeze_jax.analysis import report

    written = [sweep.write_table(arguments.workdir), *report.draw(arguments.workdir)]
    print("\n".join(map(str, written)))
    return 0


def summary(arguments: argparse.Namespace) -> int:
    from squeeze_jax import models
    from squeeze_jax.analysis import layers

    if arguments.list:
        print("\n".join(models.REGISTRY))
        return 0
    print(layers.formatted(layers.summary(*_traced(arguments)), arguments.format, layers.summary_text))
    return 0


def hardware(arguments: argparse.Namespace) -> int:
    from squeeze_jax import hardware
    from squeeze_jax.analysis import layers

    accelerator = hardware.Accelerator.parse(arguments.array, arguments.buffer_kb)
    traced, _ = _traced(arguments)
    record = layers.hardware_record(hardware.estimate(traced, accelerator, arguments.dataflow))
    if arguments.roofline:
        from squeeze_jax.analysis import figures

        draw = {".png": figures.png, ".svg": figures.svg}.get(arguments.roofline.suffix)
        if draw is None:
            raise UserError(f"--roofline draws .png and .svg, not {arguments.roofline.name!r}")
        arguments.roofline.write_bytes(draw(figures.roofline_figure(arguments.model, record)))
    print(layers.formatted(record, arguments.format, layers.hardware_text))
    return 0


def evaluate(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from squeeze_jax.data import evaluation_data
    from squeeze_jax.train import evaluation

    if arguments.batch_size < 1:
        raise UserError(f"--batch-size is at least 1, got {arguments.batch_size}")
    classifier = _open_classifier(arguments.checkpoint)
    source = _open_source(arguments, classifier.class_names)
    with tqdm(total=len(source), unit="image", delay=1, leave=False, disable=None) as bar:
        result = evaluation.evaluate(
            classifier,
            evaluation_data(source, classifier.preprocessing),
            arguments.batch_size,
            lambda: bar.update(min(arguments.batch_size, bar.total - bar.n)),
        )
    if arguments.format == "json":
        print(json.dumps(result))
    else:
        print(f"{source.name}: {result['images']} images, top-1 {result['top1']:.2f} %, top-5 {result['top5']:.2f} %")
    return 0


def predict(arguments: argparse.Namespace) -> int:
    import numpy as np

    from squeeze_jax.data import sources
    from squeeze_jax.train import evaluation

    classifier = _open_classifier(arguments.checkpoint)
    images = _prepared(classifier.preprocessing, [sources.decode(path, str(path)) for path in arguments.images])
    records = []
    for path, row in zip(arguments.images, evaluation.probabilities(classifier, images), strict=True):
        best = np.argsort(-row, kind="stable")[:5]
        predictions = [{"class": classifier.class_names[label], "label": int(label), "probability": float(row[label])} for label in best]
        records.append({"image": str(path), "predictions": predictions})
    if arguments.format == "json":
        print(json.dumps(records, indent=1))
        return 0
    for record in records:
        print(record["image"])
        for prediction in record["predictions"]:
            print(f"  {prediction['probability']:6.1%}  {prediction['class']}")
    return 0


def import_weights(arguments: argparse.Namespace) -> int:
    from squeeze_jax.interop import load
    from squeeze_jax.train import checkpoint

    net = load.import_net(arguments.source, arguments.model, dict(_option(text) for text in arguments.set))
    checkpoint.save_net(net, arguments.output)
    print(f"{arguments.output}: {net.model['name']}, {len(net.class_names)} classes, from {net.source}")
    return 0


def export(arguments: argparse.Namespace) -> int:
    from squeeze_jax.files import write_atomically
    from squeeze_jax.interop import export

    for flag in ("batch", "calibration_images"):
        if (value := getattr(arguments, flag)) is not None and value < 1:
            raise UserError(f"--{flag.replace('_', '-')} is at least 1, got {value}")
    net = _open_net(arguments.checkpoint)
    calibration = None
    if arguments.precision == "int8":
        source = _open_source(arguments, net.class_names)
        # Spread over the whole set, which may be sorted by class.
        count = min(arguments.calibration_images, len(source))
        calibration = _prepared(net.preprocessing, [image for image, _ in source.read(len(source) * i // count for i in range(count))])
    settings = export.Settings(arguments.opset, arguments.batch, arguments.precision, calibration)
    images = calibration[:8] if calibration is not None else _photographs(net)
    content, deviation = export.export(net, arguments.format, settings, images)
    write_atomically(arguments.output, content)
    print(f"{arguments.output}: {len(content):,} bytes, logits within {deviation:.1e} of the net's")
    return 0


def serve_demo(arguments: argparse.Namespace) -> int:
    import tempfile

    from squeeze_jax.interop import export, page

    net = _open_net(arguments.checkpoint)
    model, _ = export.export(net, "onnx", export.Settings(), _photographs(net))
    if arguments.output:
        page.write_page(arguments.output, net.record(), model, arguments.runtime)
        print(f"{arguments.output}/index.html: serve the folder with any web server")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        page.write_page(Path(folder) / "page", net.record(), model, arguments.runtime)
        page.serve(Path(folder) / "page", arguments.port)
    return 0


def _photographs(net: "Net") -> "np.ndarray":
    """The two photographs that come with scikit-learn, as the net wants them."""
    from squeeze_jax.data import sources

    return _prepared(net.preprocessing, sources.photographs())


def _prepared(preprocessing: "Preprocessing", images: "Sequence[np.ndarray]") -> "np.ndarray":
    """Decoded images as a net wants them: float32 [N, H, W, 3]."""
    import numpy as np

    from squeeze_jax.data import transforms

    return np.stack([transforms.prepare(image, preprocessing) for image in images])


def compress(arguments: argparse.Namespace) -> int:
    """A net in few bytes, the very same weights."""
    from squeeze_jax.compress import container
    from squeeze_jax.files import write_atomically

    net = _open_net(arguments.checkpoint)
    content = container.lossless(net, coder=arguments.coder, known_classes=_known_classes())
    write_atomically(arguments.output, content)
    weights = sum(leaf.size for leaf in container.paths(net.params, net.stats).values())
    print(f"{arguments.output}: {len(content):,} bytes, {8 * len(content) / weights:.2f} bits a weight, lossless")
    return 0


def decompress(arguments: argparse.Namespace) -> int:
    """A checkpoint of a .sqz file."""
    from squeeze_jax.train import checkpoint

    net = _open_sqz(arguments.file)
    checkpoint.save_net(net, arguments.output)
    print(f"{arguments.output}: {net.model['name']}, {len(net.class_names)} classes")
    return 0


def _known_classes() -> "dict[str, Sequence[str]]":
    """Lists of class names that a .sqz file may leave out."""
    from squeeze_jax.interop import imagenet

    return {"imagenet": imagenet.class_names()}


def _open_sqz(path: Path) -> "Net":
    from squeeze_jax.compress import container

    try:
        content = path.read_bytes()
    except OSError as e:
        raise UserError(f"{path}: {e.strerror}") from e
    try:
        return container.read(content, _known_classes())
    except UserError as e:
        raise UserError(f"{path}: {e}") from e


def _open_net(path: Path) -> "Net":
    """The net at a path: a checkpoint's folder or a .sqz file."""
    from squeeze_jax.train import checkpoint

    return _open_sqz(path) if path.suffix == ".sqz" else checkpoint.load_net(path)


def _open_classifier(path: Path) -> "Classifier":
    """The net at a path: a checkpoint, or an exported file, run by the engine it is for."""
    if path.is_file() and path.suffix != ".sqz":
        from squeeze_jax.interop import export

        return export.opened(path)
    return _open_net(path).classifier()


def _open_source(arguments: argparse.Namespace, class_names: "Sequence[str]") -> "Source":
    """The data set that the arguments name, or the one the checkpoint was trained on, under the net's labels."""
    from ml_collections import ConfigDict

    from squeeze_jax.data import load, load_split, relabelled

    if arguments.data:
        return relabelled(load_split(arguments.data, arguments.data_dir, arguments.split), class_names)
    record = arguments.checkpoint / "config.json"
    trained_on = json.loads(record.read_text())["data"] if record.is_file() else {}
    if "name" not in trained_on:
        raise UserError("which data? Give --data NAME and --data-dir DIR")
    _, evaluation = load(ConfigDict(trained_on))
    return relabelled(evaluation, class_names)


def _traced(arguments: argparse.Namespace) -> "tuple[list[Layer], int]":
    """The layers and the parameter count of the model that the arguments name."""
    from flax import nnx

    from squeeze_jax import models, trace

    if not arguments.model:
        raise UserError("which model? squeeze-jax summary --list names them")
    name, options, size = arguments.model, {}, None
    if (record := Path(name) / "config.json").exists():
        config = json.loads(record.read_text())
        options = config["model"] | {"num_classes": config["num_classes"]}
        name, size = options.pop("name"), config["data"]["image_size"]
    options |= dict(_option(text) for text in arguments.set)

    def build() -> nnx.Module:
        return models.create(name, rngs=nnx.Rngs(0), **options)

    params = trace.parameter_count(nnx.eval_shape(build))
    size = arguments.input_size or size or models.REGISTRY[name].input_size
    try:
        return trace.trace(build, (size, size, 3)), params
    except ValueError as e:
        raise UserError(f"{name} at {size}x{size}: {e}") from e


def _option(text: str) -> tuple[str, Any]:
    """squeeze_ratio=0.5 -> ("squeeze_ratio", 0.5); what is no Python literal is a string."""
    key, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--set takes OPTION=VALUE, got {text!r}")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value
