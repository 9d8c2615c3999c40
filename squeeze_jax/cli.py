"""The `squeeze-jax` command, and how both commands speak of errors: one line for what the user can mend."""

import argparse
import errno
import sys
from collections.abc import Callable
from pathlib import Path

from squeeze_jax import commands
from squeeze_jax.errors import UserError

CHECKPOINT = "a trial's folder such as runs/.../trials/seed=0, what `squeeze-jax import` wrote, or a .sqz file"


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
        return _complain(
            "interrupted; run the same command again to continue from the last checkpoint", 130
        )
    except OSError as e:
        if e.errno == errno.ENOSPC:
            return _complain(
                "the disk is full; make room and run the same command again to continue, nothing finished is lost",
                2,
            )
        if e.errno in (errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EDQUOT):
            return _complain(f"can't write: {e}", 2)
        raise


def _complain(message: str, code: int) -> int:
    print(f"error: {message}" if code == 2 else message, file=sys.stderr)
    return code


def main() -> int:
    """Entry point of `squeeze-jax`."""
    parser = argparse.ArgumentParser(
        prog="squeeze-jax",
        description="What a net costs and what it is worth; weights in, models out.",
    )
    added = parser.add_subparsers(required=True, metavar="COMMAND")

    report = added.add_parser(
        "report", help="draw table, figure and report of a finished or partial sweep again"
    )
    report.add_argument(
        "workdir", type=Path, help="a sweep's workdir, such as runs/sr_sweep-digits"
    )
    report.set_defaults(run=commands.report)

    summary = added.add_parser(
        "summary",
        help="a net's layers with output sizes, parameters and MACs; nothing is allocated",
    )
    summary.add_argument(
        "--list", action="store_true", help="name the registered models, one a line"
    )
    _add_model_arguments(summary)
    summary.set_defaults(run=commands.summary)

    hardware = added.add_parser(
        "hardware", help="cycles, energy and DRAM traffic on the SqueezeNext paper's accelerator"
    )
    _add_model_arguments(hardware)
    hardware.add_argument(
        "--array",
        default="16x16",
        metavar="ROWSxCOLUMNS",
        help="multiply-accumulate units (default 16x16)",
    )
    hardware.add_argument(
        "--buffer-kb",
        type=float,
        default=128,
        help="the global buffer (default 128; the paper's 8x8 array has 32)",
    )
    hardware.add_argument(
        "--dataflow",
        choices=("best", "ws", "os"),
        default="best",
        help="weight or output stationary; best: a layer's faster",
    )
    hardware.add_argument(
        "--roofline", type=Path, metavar="FILE", help="also draw the roofline, as .png or .svg"
    )
    hardware.set_defaults(run=commands.hardware)

    evaluate = added.add_parser(
        "evaluate",
        help="top-1 and top-5 of a trained net on a data set, prepared as the net wants it",
    )
    evaluate.add_argument(
        "checkpoint",
        type=Path,
        help=f"{CHECKPOINT}, or an exported .onnx, .tflite or .stablehlo file",
    )
    _add_data_arguments(evaluate)
    evaluate.add_argument("--batch-size", type=int, default=32)
    evaluate.add_argument("--format", choices=("text", "json"), default="text")
    evaluate.set_defaults(run=commands.evaluate)

    sensitivity = added.add_parser(
        "sensitivity", help="top-1 with one layer pruned at a time: how much of each a net needs"
    )
    sensitivity.add_argument("checkpoint", type=Path, help=CHECKPOINT)
    _add_data_arguments(sensitivity)
    sensitivity.add_argument(
        "--fractions",
        default="0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9",
        help="of a layer's weights that are kept (default 0.1 to 0.9)",
    )
    sensitivity.add_argument(
        "--max-loss",
        type=float,
        default=1.0,
        metavar="POINTS",
        help="of top-1 that a layer may cost (default 1)",
    )
    sensitivity.add_argument("--batch-size", type=int, default=256)
    sensitivity.add_argument("--format", choices=("text", "json"), default="text")
    sensitivity.set_defaults(run=commands.sensitivity)

    predict = added.add_parser("predict", help="the five likeliest classes of images")
    predict.add_argument("checkpoint", type=Path, help=f"{CHECKPOINT}, or an exported file")
    predict.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    predict.add_argument("--format", choices=("text", "json"), default="text")
    predict.set_defaults(run=commands.predict)

    importer = added.add_parser(
        "import", help="a checkpoint from PyTorch's, Caffe's or Deep Compression's weights"
    )
    importer.add_argument("source", type=Path, help=".pth, .safetensors, .caffemodel or .net file")
    importer.add_argument(
        "--model",
        metavar="NAME",
        help="a registered model (see summary --list), where the file does not tell",
    )
    _add_option_argument(importer)
    importer.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="receives the checkpoint; must not exist",
    )
    importer.set_defaults(run=commands.import_weights)

    export = added.add_parser("export", help="a file for other engines, checked against the net")
    export.add_argument("checkpoint", type=Path, help=CHECKPOINT)
    export.add_argument(
        "--format", choices=("onnx", "tflite", "stablehlo", "safetensors", "pth"), required=True
    )
    export.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    export.add_argument("--opset", type=int, help="of ONNX (default 17)")
    export.add_argument("--batch", type=int, help="a fixed batch size (default: any; tflite: 1)")
    export.add_argument(
        "--precision", choices=("float32", "float16", "int8"), help="of ONNX (default float32)"
    )
    _add_data_arguments(export)
    export.add_argument(
        "--calibration-images",
        type=int,
        default=200,
        metavar="N",
        help="of the data, for int8 (default 200)",
    )
    export.set_defaults(run=commands.export)

    compress = added.add_parser(
        "compress",
        help="the net in a .sqz file: losslessly, which pays after pruning and weight sharing, or in as many bytes as it may have",
    )
    compress.add_argument("checkpoint", type=Path, help=CHECKPOINT)
    compress.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.sqz")
    how = compress.add_mutually_exclusive_group()
    how.add_argument("--lossless", action="store_true", help="the very same weights (the default)")
    how.add_argument(
        "--bits", type=int, metavar="N", help="2^N - 1 levels a layer; data only make it better"
    )
    how.add_argument(
        "--target-bytes", type=int, metavar="N", help="the best file of at most N bytes"
    )
    how.add_argument(
        "--max-loss",
        type=float,
        metavar="NATS",
        help="the smallest file whose outputs diverge by at most so much (KL) from the net's own: .005 can hardly be measured in top-1",
    )
    compress.add_argument(
        "--calibrate",
        dest="data",
        metavar="NAME",
        help="images that tell what matters, without labels: digits, folder, or a prepared TFDS "
        "data set; by default what the net was trained on",
    )
    _add_place_arguments(compress)
    compress.add_argument(
        "--calibration-images",
        type=int,
        default=200,
        metavar="N",
        help="(default 200) as many others measure the loss",
    )
    compress.add_argument(
        "--coder",
        choices=("arithmetic", "huffman"),
        default="arithmetic",
        help="huffman is Deep Compression's as published; c/sqz.c reads arithmetic only",
    )
    compress.add_argument(
        "--base",
        type=Path,
        metavar="OLD",
        help="a checkpoint or .sqz file that readers have: what differs is written",
    )
    compress.set_defaults(run=commands.compress)

    decompress = added.add_parser("decompress", help="a checkpoint of a .sqz file")
    decompress.add_argument("file", type=Path, metavar="FILE.sqz")
    decompress.add_argument(
        "--base",
        type=Path,
        metavar="OLD",
        help="of an update: the checkpoint or .sqz file it was made for",
    )
    decompress.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="receives the checkpoint; must not exist",
    )
    decompress.set_defaults(run=commands.decompress)

    demo = added.add_parser(
        "serve-demo",
        help="a web page to try the net: drop an image, see the five likeliest classes",
    )
    demo.add_argument("checkpoint", type=Path, help=CHECKPOINT)
    demo.add_argument("--port", type=int, default=8000)
    demo.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FOLDER",
        help="write the page here, for any web server, and don't serve it",
    )
    demo.add_argument(
        "--runtime",
        type=Path,
        metavar="FOLDER",
        help="node_modules/onnxruntime-web, to work offline (default: from a CDN)",
    )
    demo.set_defaults(run=commands.serve_demo)

    arguments = parser.parse_args()
    return exit_code(lambda: arguments.run(arguments))


def _add_model_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "model",
        nargs="?",
        help="a registered model (see summary --list), or a trial's folder such as runs/.../trials/seed=0",
    )
    _add_option_argument(command)
    command.add_argument(
        "--input-size", type=int, help="pixels; by default what the model's paper gives it"
    )
    command.add_argument("--format", choices=("text", "json", "csv"), default="text")


def _add_option_argument(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="OPTION=VALUE",
        help="a model option, such as squeeze_ratio=0.5; repeatable",
    )


def _add_data_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--data",
        metavar="NAME",
        help="digits, folder, or a prepared TFDS data set; by default what the net was trained on",
    )
    _add_place_arguments(command)


def _add_place_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--data-dir",
        default="",
        metavar="DIR",
        help="where the data set lies; of a folder: DIR/class/image.jpg",
    )
    command.add_argument(
        "--split", help="of a TFDS data set; by default test, validation, or the only one"
    )


if __name__ == "__main__":
    sys.exit(main())
