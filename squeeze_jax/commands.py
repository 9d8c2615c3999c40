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

    from squeeze_jax.cost.trace import Layer
    from squeeze_jax.data import DataConfig, Source
    from squeeze_jax.network import Classifier, Network, Preprocessing


def report(arguments: argparse.Namespace) -> int:
    from squeeze_jax import study
    from squeeze_jax.report import page

    written = [study.Workdir(arguments.workdir).write_table(), *page.draw(arguments.workdir)]
    print("\n".join(map(str, written)))
    return 0


def summary(arguments: argparse.Namespace) -> int:
    from squeeze_jax import models
    from squeeze_jax.report import layer_table

    if arguments.list:
        print("\n".join(models.model_names()))
        return 0
    print(
        layer_table.formatted(
            layer_table.summary(*_traced(arguments)), arguments.format, layer_table.summary_text
        )
    )
    return 0


def hardware(arguments: argparse.Namespace) -> int:
    from squeeze_jax.cost import accelerator as hardware
    from squeeze_jax.report import layer_table

    accelerator = hardware.Accelerator.parse(arguments.array, arguments.buffer_kb)
    traced, _ = _traced(arguments)
    record = layer_table.hardware_record(hardware.estimate(traced, accelerator, arguments.dataflow))
    if arguments.roofline:
        from squeeze_jax.report import figures

        draw = {".png": figures.png, ".svg": figures.svg}.get(arguments.roofline.suffix)
        if draw is None:
            raise UserError(f"--roofline draws .png and .svg, not {arguments.roofline.name!r}")
        arguments.roofline.write_bytes(draw(figures.roofline_figure(arguments.model, record)))
    print(layer_table.formatted(record, arguments.format, layer_table.hardware_text))
    return 0


def evaluate(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from squeeze_jax.data import evaluation_data
    from squeeze_jax.train import evaluation

    _check_at_least_one(arguments, "batch_size")
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
        print(
            f"{source.name}: {result['images']} images, top-1 {result['top1']:.2f} %, top-5 {result['top5']:.2f} %"
        )
    return 0


def sensitivity(arguments: argparse.Namespace) -> int:
    """Top-1 of the net with one layer pruned at a time."""
    from tqdm import tqdm

    from squeeze_jax.compress.prune import kernels
    from squeeze_jax.data import evaluation_data
    from squeeze_jax.network import leaves_by_path
    from squeeze_jax.report.layer_table import text_table
    from squeeze_jax.train.sensitivity import sensitivity

    _check_at_least_one(arguments, "batch_size")
    fractions = _fractions(arguments.fractions)
    net = _open_net(arguments.checkpoint)
    source = _open_source(arguments, net.class_names)
    count = sum(leaves_by_path(kernels(net.params)).values()) * len(fractions) + 1
    batches = -(-len(source) // arguments.batch_size)
    with tqdm(total=count * batches, unit="batch", delay=1, leave=False, disable=None) as bar:
        data = evaluation_data(source, net.preprocessing)
        result = sensitivity(
            net, data, fractions, arguments.max_loss, arguments.batch_size, bar.update
        )
    if arguments.format == "json":
        print(json.dumps(result))
        return 0
    rows = [
        [
            layer["name"],
            f"{layer['weights']:,}",
            *(f"{top1:.2f}" for top1 in layer["top1"].values()),
        ]
        for layer in result["layers"]
    ]
    total = f"{sum(layer['weights'] for layer in result['layers']):,}"
    whole = ["all kept", total, *[f"{result['top1']:.2f}"] * len(fractions)]
    print(
        f"{source.name}: {result['images']} images; top-1 (%) with a fraction of one layer's weights kept, all others as they are"
    )
    print(
        text_table(
            [["layer", "weights", *map(str, fractions)], *rows, whole],
            numeric=range(1, 2 + len(fractions)),
        )
    )
    print(
        f"the smallest fractions that cost at most {arguments.max_loss:g} of it, each alone (all at once cost more, before retraining):"
    )
    print(f'--config.train.prune_density="{tuple(result["keep"])}"')
    return 0


def predict(arguments: argparse.Namespace) -> int:
    import jax
    import numpy as np

    from squeeze_jax.data import decode
    from squeeze_jax.models import conv_backend
    from squeeze_jax.train import evaluation

    classifier = _open_classifier(arguments.checkpoint)
    images = _prepared(
        classifier.preprocessing, [decode(path, str(path)) for path in arguments.images]
    )
    with conv_backend.conv_backend(
        conv_backend.default_conv_backend(jax.default_backend(), images[..., 0].size)
    ):
        probabilities = evaluation.probabilities(classifier, images)
    records = []
    for path, row in zip(arguments.images, probabilities, strict=True):
        best = np.argsort(-row, kind="stable")[:5]
        predictions = [
            {
                "class": classifier.class_names[label],
                "label": int(label),
                "probability": float(row[label]),
            }
            for label in best
        ]
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
    from squeeze_jax.convert import load
    from squeeze_jax.train import checkpoint

    net = load.import_network(
        arguments.source, arguments.model, dict(_option(text) for text in arguments.set)
    )
    checkpoint.save_network(net, arguments.output)
    print(
        f"{arguments.output}: {net.model['name']}, {len(net.class_names)} classes, from {net.source}"
    )
    return 0


def export(arguments: argparse.Namespace) -> int:
    from squeeze_jax.convert import export
    from squeeze_jax.data import sample
    from squeeze_jax.files import write_atomically

    _check_at_least_one(arguments, "batch", "calibration_images")
    net = _open_net(arguments.checkpoint)
    calibration = None
    if arguments.precision == "int8":
        source = _open_source(arguments, net.class_names)
        calibration = sample(source, net.preprocessing, arguments.calibration_images)
    settings = export.Settings(arguments.opset, arguments.batch, arguments.precision, calibration)
    images = calibration[:8] if calibration is not None else _photographs(net)
    content, deviation = export.export(net, arguments.format, settings, images)
    write_atomically(arguments.output, content)
    print(f"{arguments.output}: {len(content):,} bytes, logits within {deviation:.1e} of the net's")
    return 0


def serve_demo(arguments: argparse.Namespace) -> int:
    import tempfile

    from squeeze_jax.convert import export, page

    net = _open_net(arguments.checkpoint)
    model, _ = export.export(net, "onnx", export.Settings(), _photographs(net))
    if arguments.output:
        page.write_page(arguments.output, net.metadata(), model, arguments.runtime)
        print(f"{arguments.output}/index.html: serve the folder with any web server")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        page.write_page(Path(folder) / "page", net.metadata(), model, arguments.runtime)
        page.serve(Path(folder) / "page", arguments.port)
    return 0


def _photographs(net: "Network") -> "np.ndarray":
    """The two photographs that come with scikit-learn, as the net wants them."""
    from squeeze_jax.data import photographs

    return _prepared(net.preprocessing, photographs())


def _prepared(preprocessing: "Preprocessing", images: "Sequence[np.ndarray]") -> "np.ndarray":
    """Decoded images as a net wants them: float32 [N, H, W, 3]."""
    import numpy as np

    from squeeze_jax.network.preprocessing import preprocess

    return np.stack([preprocess(image, preprocessing) for image in images])


def compress(arguments: argparse.Namespace) -> int:
    """A net in few bytes."""
    from tqdm import tqdm

    from squeeze_jax.compress import calibrate, quantize, rate_search
    from squeeze_jax.compress.sqz import container
    from squeeze_jax.files import write_atomically

    _check_at_least_one(arguments, "calibration_images", "target_bytes")
    if arguments.max_loss is not None and not arguments.max_loss > 0:
        raise UserError(
            f"--max-loss is above 0 nats, got {arguments.max_loss}; without it the file is lossless"
        )
    net = _open_net(arguments.checkpoint)
    base = _open_net(arguments.base) if arguments.base else None
    options = dict(base=base, coder=arguments.coder, known_classes=_known_classes())
    calibrated, others = None, None
    if arguments.target_bytes or arguments.max_loss or (arguments.bits and arguments.data):
        images, others = _calibration_images(arguments, net)
        with tqdm(
            total=calibrate.batches(len(images)),
            desc="calibrating",
            unit="batch",
            leave=False,
            disable=None,
        ) as bar:
            calibrated = calibrate.calibrate(net, images, on_batch=bar.update)
    with tqdm(desc="rounding", unit="layer", delay=1, leave=False, disable=None) as bar:
        if arguments.target_bytes:
            content = rate_search.to_size(
                net, calibrated, arguments.target_bytes, on_layer=bar.update, **options
            )
        elif arguments.max_loss:
            content = rate_search.to_loss(
                net, calibrated, arguments.max_loss, others, on_layer=bar.update, **options
            )
        elif arguments.bits:
            content = rate_search.to_bits(net, calibrated, arguments.bits, **options)
        else:
            content = container.lossless(net, **options)
    write_atomically(arguments.output, content)
    weights = sum(leaf.size for leaf in container.paths(net.params, net.stats).values())
    loss = "lossless"
    if others is not None:
        nats = quantize.divergence_from(net, others)(
            container.read(content, _known_classes(), base)
        )
        loss = f"outputs diverge by {nats:.2g} nats from the net's own on {len(others)} images that calibration did not see"
    elif arguments.bits:
        loss = f"{arguments.bits} bits a level"
    print(
        f"{arguments.output}: {len(content):,} bytes, {8 * len(content) / weights:.2f} bits a weight, {loss}"
    )
    return 0


def _calibration_images(
    arguments: argparse.Namespace, net: "Network"
) -> "tuple[np.ndarray, np.ndarray]":
    """Images to calibrate on, and as many others."""
    from squeeze_jax.data import sample

    source = _calibration_source(arguments)
    images = sample(source, net.preprocessing, 2 * arguments.calibration_images)
    if len(images) < 2:
        raise UserError(
            f"{source.name} has {len(images)} image(s), and calibration takes some and measures the loss on others"
        )
    return images[::2], images[1::2]


def _calibration_source(arguments: argparse.Namespace) -> "Source":
    """The data set that the arguments name, or the training images of the one that the checkpoint was trained on."""
    from squeeze_jax.data import load, load_split

    if arguments.data:
        return load_split(arguments.data, arguments.data_dir, arguments.split)
    return load(_trained_on(arguments, "--calibrate"))[0]


def decompress(arguments: argparse.Namespace) -> int:
    """A checkpoint of a .sqz file."""
    from squeeze_jax.train import checkpoint

    net = _open_sqz(arguments.file, _open_net(arguments.base) if arguments.base else None)
    checkpoint.save_network(net, arguments.output)
    print(f"{arguments.output}: {net.model['name']}, {len(net.class_names)} classes")
    return 0


def _known_classes() -> "dict[str, Sequence[str]]":
    """Lists of class names that a .sqz file may leave out."""
    from squeeze_jax.network import imagenet

    return {"imagenet": imagenet.class_names()}


def _open_sqz(path: Path, base: "Network | None" = None) -> "Network":
    from squeeze_jax.compress.sqz import container

    try:
        content = path.read_bytes()
    except OSError as e:
        raise UserError(f"{path}: {e.strerror}") from e
    try:
        return container.read(content, _known_classes(), base)
    except UserError as e:
        raise UserError(f"{path}: {e}") from e


def _open_net(path: Path) -> "Network":
    """The net at a path: a checkpoint's folder or a .sqz file."""
    from squeeze_jax.train import checkpoint

    return _open_sqz(path) if path.suffix == ".sqz" else checkpoint.load_network(path)


def _open_classifier(path: Path) -> "Classifier":
    """The net at a path: a checkpoint, or an exported file, run by the engine it is for."""
    if path.is_file() and path.suffix != ".sqz":
        from squeeze_jax.convert import export

        return export.open_exported(path)
    return _open_net(path).classifier()


def _open_source(arguments: argparse.Namespace, class_names: "Sequence[str]") -> "Source":
    """The data set that the arguments name, or the one the checkpoint was trained on, under the net's labels."""
    from squeeze_jax.data import load, load_split, relabel

    if arguments.data:
        return relabel(load_split(arguments.data, arguments.data_dir, arguments.split), class_names)
    return relabel(load(_trained_on(arguments, "--data"))[1], class_names)


def _trained_on(arguments: argparse.Namespace, flag: str) -> "DataConfig":
    """The `data` section of the config that the checkpoint was trained with.

    Raises:
      UserError: it was not trained here.
    """
    from squeeze_jax.config_parsing import parse_section
    from squeeze_jax.data import DataConfig

    record = arguments.checkpoint / "config.json"
    data = json.loads(record.read_text())["data"] if record.is_file() else {}
    if "name" not in data:
        raise UserError(f"which data? Give {flag} NAME and --data-dir DIR")
    return parse_section(DataConfig, data, "data")


def _traced(arguments: argparse.Namespace) -> "tuple[list[Layer], int]":
    """The layers and the parameter count of the model that the arguments name."""
    from flax import nnx

    from squeeze_jax import models
    from squeeze_jax.cost import trace

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
    size = arguments.input_size or size or models.find(name)[1].input_size
    try:
        return trace.trace_layers(build, (size, size, 3)), params
    except ValueError as e:
        raise UserError(f"{name} at {size}x{size}: {e}") from e


def _check_at_least_one(arguments: argparse.Namespace, *flags: str) -> None:
    for flag in flags:
        if (value := getattr(arguments, flag)) is not None and value < 1:
            raise UserError(f"--{flag.replace('_', '-')} is at least 1, got {value}")


def _fractions(text: str) -> list[float]:
    """0.1,0.5 -> [0.1, 0.5]"""
    try:
        fractions = sorted({float(part) for part in text.split(",")})
    except ValueError:
        fractions = []
    if not fractions or not 0 < fractions[0] <= fractions[-1] < 1:
        raise UserError(f"--fractions are numbers between 0 and 1 such as 0.2,0.5; got {text!r}")
    return fractions


def _option(text: str) -> tuple[str, Any]:
    """squeeze_ratio=0.5 -> ("squeeze_ratio", 0.5); what is no Python literal is a string."""
    key, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--set takes OPTION=VALUE, got {text!r}")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value
