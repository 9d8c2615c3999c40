"""The `squeeze-jax` command, and how both commands speak of errors: one line for what the user can mend."""

import argparse
import ast
import errno
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from squeeze_jax.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from squeeze_jax.data import Source
    from squeeze_jax.net import Classifier, Net, Preprocessing
    from squeeze_jax.trace import Layer

CHECKPOINT = "a trial's folder such as runs/.../trials/seed=0, or what `squeeze-jax import` wrote"


def exit_code(run: Callable[[], int]) -> int:
    """Runs a command; what the user can mend becomes one line on stderr and an exit code, other exceptions pass.

    2: UserError, or a disk that is full or can't be written; 128 + signal: asked to stop, everything saved.
    """
    from squeeze_jax.train.interrupt import Interrupted

    try:
        return run()
    except UserError as e:
        return _complain(str(e), 2)
    except Interrupted as e:
        return _complain(str(e), e.exit_code)
    except KeyboardInterrupt:
        return _complain("interrupted; run the same command again to continue from the last checkpoint", 130)
    except OSError as e:
        if e.errno == errno.ENOSPC:
            return _complain("the disk is full; make room and run the same command again to continue, nothing finished is lost", 2)
        if e.errno in (errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EDQUOT):
            return _complain(f"can't write: {e}", 2)
        raise


def _complain(message: str, code: int) -> int:
    print(f"error: {message}" if code == 2 else message, file=sys.stderr)
    return code


def main() -> int:
    """Entry point of `squeeze-jax`."""
    parser = argparse.ArgumentParser(prog="squeeze-jax", description="What a design point costs, and what `launch.py` leaves behind.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    report = commands.add_parser("report", help="draw table, figure and report of a finished or partial sweep again")
    report.add_argument("workdir", type=Path, help="a sweep's workdir, such as runs/sr_sweep-digits")
    report.set_defaults(run=_report)

    summary = commands.add_parser("summary", help="a net's layers with output sizes, parameters and MACs; nothing is allocated")
    summary.add_argument("--list", action="store_true", help="name the registered models, one a line")
    _add_model_arguments(summary)
    summary.set_defaults(run=_summary)

    hardware = commands.add_parser("hardware", help="cycles, energy and DRAM traffic on the SqueezeNext paper's accelerator")
    _add_model_arguments(hardware)
    hardware.add_argument("--array", default="16x16", metavar="ROWSxCOLUMNS", help="multiply-accumulate units (default 16x16)")
    hardware.add_argument("--buffer-kb", type=float, default=128, help="the global buffer (default 128; the paper's 8x8 array has 32)")
    hardware.add_argument(
        "--dataflow", choices=("best", "ws", "os"), default="best", help="weight or output stationary; best: a layer's faster"
    )
    hardware.add_argument("--roofline", type=Path, metavar="FILE", help="also draw the roofline, as .png or .svg")
    hardware.set_defaults(run=_hardware)

    evaluate = commands.add_parser("evaluate", help="top-1 and top-5 of a trained net on a data set, prepared as the net wants it")
    evaluate.add_argument("checkpoint", type=Path, help=f"{CHECKPOINT}, or an exported .onnx, .tflite or .stablehlo file")
    _add_data_arguments(evaluate)
    evaluate.add_argument("--batch-size", type=int, default=32)
    evaluate.add_argument("--format", choices=("text", "json"), default="text")
    evaluate.set_defaults(run=_evaluate)

    predict = commands.add_parser("predict", help="the five likeliest classes of images")
    predict.add_argument("checkpoint", type=Path, help=f"{CHECKPOINT}, or an exported file")
    predict.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    predict.add_argument("--format", choices=("text", "json"), default="text")
    predict.set_defaults(run=_predict)

    importer = commands.add_parser("import", help="a checkpoint from PyTorch's, Caffe's or Deep Compression's weights")
    importer.add_argument("source", type=Path, help=".pth, .safetensors, .caffemodel or .net file")
    importer.add_argument("--model", metavar="NAME", help="a registered model (see summary --list), where the file does not tell")
    _add_option_argument(importer)
    importer.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="receives the checkpoint; must not exist")
    importer.set_defaults(run=_import)

    export = commands.add_parser("export", help="a file for other engines, checked against the net")
    export.add_argument("checkpoint", type=Path, help=CHECKPOINT)
    export.add_argument("--format", choices=("onnx", "tflite", "stablehlo", "safetensors", "pth"), required=True)
    export.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    export.add_argument("--opset", type=int, help="of ONNX (default 17)")
    export.add_argument("--batch", type=int, help="a fixed batch size (default: any; tflite: 1)")
    export.add_argument("--precision", choices=("float32", "float16", "int8"), default="float32", help="of ONNX")
    _add_data_arguments(export)
    export.add_argument("--calibration-images", type=int, default=200, metavar="N", help="of the data, for int8 (default 200)")
    export.set_defaults(run=_export)

    demo = commands.add_parser("serve-demo", help="a web page to try the net: drop an image, see the five likeliest classes")
    demo.add_argument("checkpoint", type=Path, help=CHECKPOINT)
    demo.add_argument("--port", type=int, default=8000)
    demo.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="write the page here, for any web server, and don't serve it")
    demo.add_argument("--runtime", type=Path, metavar="FOLDER", help="node_modules/onnxruntime-web, to work offline (default: from a CDN)")
    demo.set_defaults(run=_serve_demo)

    arguments = parser.parse_args()
    return exit_code(lambda: arguments.run(arguments))


def _add_model_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "model", nargs="?", help="a registered model (see summary --list), or a trial's folder such as runs/.../trials/seed=0"
    )
    _add_option_argument(command)
    command.add_argument("--input-size", type=int, help="pixels; by default what the model's paper gives it")
    command.add_argument("--format", choices=("text", "json", "csv"), default="text")


def _add_option_argument(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--set", action="append", default=[], metavar="OPTION=VALUE", help="a model option, such as squeeze_ratio=0.5; repeatable"
    )


def _add_data_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--data", metavar="NAME", help="digits, folder, or a prepared TFDS data set; by default what the net was trained on"
    )
    command.add_argument("--data-dir", default="", metavar="DIR", help="where the data set lies; of a folder: DIR/class/image.jpg")
    command.add_argument("--split", help="of a TFDS data set; by default test, validation, or the only one")


def _report(arguments: argparse.Namespace) -> int:
    from squeeze_jax import sweep
    from squeeze_jax.analysis import report

    written = [sweep.write_table(arguments.workdir), *report.draw(arguments.workdir)]
    print("\n".join(map(str, written)))
    return 0


def _summary(arguments: argparse.Namespace) -> int:
    from squeeze_jax import models
    from squeeze_jax.analysis import layers

    if arguments.list:
        print("\n".join(models.REGISTRY))
        return 0
    print(layers.formatted(layers.summary(*_traced(arguments)), arguments.format, layers.summary_text))
    return 0


def _hardware(arguments: argparse.Namespace) -> int:
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


def _evaluate(arguments: argparse.Namespace) -> int:
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


def _predict(arguments: argparse.Namespace) -> int:
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


def _import(arguments: argparse.Namespace) -> int:
    from squeeze_jax.interop import load
    from squeeze_jax.train import checkpoint

    net = load.import_net(arguments.source, arguments.model, dict(_option(text) for text in arguments.set))
    checkpoint.save_net(net, arguments.output)
    print(f"{arguments.output}: {net.model['name']}, {len(net.class_names)} classes, from {net.source}")
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from squeeze_jax.files import write_atomically
    from squeeze_jax.interop import export

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


def _serve_demo(arguments: argparse.Namespace) -> int:
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


def _open_net(path: Path) -> "Net":
    """The net at a path."""
    from squeeze_jax.train import checkpoint

    return checkpoint.load_net(path)


def _open_classifier(path: Path) -> "Classifier":
    """The net at a path: a checkpoint, or an exported file, run by the engine it is for."""
    if path.is_file():
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


if __name__ == "__main__":
    sys.exit(main())
