"""The Python API of networks: open one from a path, and use it as the command line does."""

import functools
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from tqdm import tqdm

from squeeze_jax import models, zoo
from squeeze_jax.config_parsing import Range, parse_section
from squeeze_jax.cost import trace as cost_trace
from squeeze_jax.data import (
    DataConfig,
    Source,
    UnreadableImage,
    decode,
    evaluation_data,
    load_split,
    photographs,
    relabel,
    sample,
    unreadable,
)
from squeeze_jax.data import load as load_data
from squeeze_jax.errors import UserError, nearest
from squeeze_jax.files import check_file, is_sqz, write_atomically
from squeeze_jax.models import conv_backend
from squeeze_jax.network import Classifier, Network, Preprocessing
from squeeze_jax.network.preprocessing import preprocess
from squeeze_jax.report import layer_table
from squeeze_jax.storage import as_path
from squeeze_jax.train import calibrated_export, checkpoint, evaluation
from squeeze_jax.train.weights import known_classes, load_sqz_file

if TYPE_CHECKING:
    from squeeze_jax.cost.trace import Layer


class Prediction(NamedTuple):
    """A class of an image."""

    class_name: str
    label: int
    probability: float


class CompressedFile(NamedTuple):
    """What `LoadedNetwork.compress` wrote."""

    path: Path
    num_bytes: int
    bits_per_weight: float
    # Mean KL divergence of the outputs from the network's own, in nats, on `num_images` images
    # that calibration did not see; None where no images were needed.
    divergence: float | None = None
    num_images: int = 0
    needs_base: bool = False  # whether it is a delta from the base


class LoadedNetwork:
    """A network opened from a path, ready to use.

    Attributes:
      path: where it was opened.
      network: model, weights and metadata; None for an exported file, which can only be run.
    """

    def __init__(self, path: Path, network: Network | None, classifier: Classifier | None = None):
        """Wraps a network, or the classifier of an exported file."""
        self.path = path
        self.network = network
        self._classifier = classifier

    def __repr__(self) -> str:
        """Returns the path and the model's name."""
        name = self.network.model["name"] if self.network else "exported"
        return f"LoadedNetwork({str(self.path)!r}, {name}, {len(self.class_names)} classes)"

    @functools.cached_property
    def classifier(self) -> Classifier:
        """The network compiled by JAX, or run by the engine that the exported file is for."""
        return self._classifier or self.whole().classifier()

    @property
    def class_names(self) -> Sequence[str]:
        """The names of the classes, by label."""
        return self.network.class_names if self.network else self.classifier.class_names

    @property
    def has_class_names(self) -> bool:
        """Whether the classes have names; those of an import may only be numbered."""
        return (self.network or self.classifier).has_class_names

    @property
    def preprocessing(self) -> Preprocessing:
        """What the network expects of its images."""
        return self.network.preprocessing if self.network else self.classifier.preprocessing

    @property
    def training_data(self) -> dict[str, Any] | None:
        """The data section of the config that the network was trained with, if it was, here."""
        record = self.path / checkpoint.CONFIG_FILE
        data = json.loads(record.read_text())["data"] if record.is_file() else {}
        return data if "name" in data else None

    def predict(
        self,
        images: str | Path | Iterable[str | Path | np.ndarray],
        top: int = 5,
        on_unreadable: Callable[[UnreadableImage], None] | None = None,
    ) -> list[list[Prediction]]:
        """Returns the `top` likeliest classes of each image, the likeliest first.

        Args:
          images: paths, or RGB images uint8 [H, W, 3] of any size; or one path.
          top: how many classes.
          on_unreadable: receives what keeps an image from being read, which then has no classes;
            None: it is raised.

        Raises:
          UserError: an image cannot be read, and none is to be left out.
        """
        images = [images] if isinstance(images, str | Path) else list(images)
        height, width, _ = self.preprocessing.input_shape
        pixels = len(images) * height * width
        found: list[list[Prediction]] = []
        failures: list[UnreadableImage] = []
        with conv_backend.conv_backend(
            conv_backend.default_conv_backend(jax.default_backend(), pixels)
        ):
            for image in images:  # one at a time: photographs are large
                try:
                    if not isinstance(image, np.ndarray):
                        image = decode(as_path(image), str(image), self.preprocessing.background)
                except UnreadableImage as e:
                    failures.append(e)
                    found.append([])
                    continue
                batch = preprocess(image, self.preprocessing)[None]
                [probabilities] = evaluation.probabilities(self.classifier, batch)
                found.append(self._likeliest(probabilities, top))
        for failure in failures:
            if on_unreadable is None:
                raise unreadable.as_one(failures)
            on_unreadable(failure)
        return found

    def _likeliest(self, probabilities: np.ndarray, top: int) -> list[Prediction]:
        return [
            Prediction(self.class_names[label], label, float(probabilities[label]))
            for label in map(int, np.argsort(-probabilities, kind="stable")[:top])
        ]

    def open_data(
        self,
        data: str | Source | None = None,
        data_dir: str = "",
        split: str | None = None,
        labels_by_position: bool = False,
    ) -> Source:
        """Returns a data set under the network's labels.

        Classes are matched by name, and by position where the network's have no names; then a line
        on stderr says so.

        Args:
          data: digits, folder, a prepared TFDS data set, or a source; None: the evaluation images
            of the data set that the network was trained on.
          data_dir: where the data set is; for a folder, DIR/class/image.jpg, perhaps under train,
            val and test.
          split: of the data set, or of the one that the network was trained on; None: test,
            validation, or the only one.
          labels_by_position: match the classes by position, whatever their names.

        Raises:
          UserError: the data set cannot be read, or has classes that the network does not know.
        """
        source = self._named_split(data, data_dir, split)
        source = relabel(
            self.training_sources()[1] if source is None else source,
            self.class_names,
            self.has_class_names,
            labels_by_position,
        )
        if source.note:
            print(source.note, file=sys.stderr)
        return source

    def evaluate(
        self,
        data: str | Source | None = None,
        data_dir: str = "",
        split: str | None = None,
        batch_size: int = 32,
        labels_by_position: bool = False,
        skip_unreadable: bool = False,
    ) -> dict[str, Any]:
        """Returns the accuracy on a data set, as a whole and by class; see `evaluation.evaluate`.

        Args:
          data: see `open_data`.
          data_dir: likewise.
          split: likewise.
          batch_size: images at a time.
          labels_by_position: see `open_data`.
          skip_unreadable: whether to go on without images that cannot be decoded.

        Raises:
          UserError: images cannot be decoded, and are not to be skipped; see also `open_data`.
        """
        data = self.open_data(data, data_dir, split, labels_by_position)
        with tqdm(total=len(data), unit="image", delay=1, leave=False, disable=None) as bar:
            return evaluation.evaluate(
                self.classifier,
                evaluation_data(data, self.preprocessing, skip_unreadable),
                batch_size,
                advance(bar, batch_size),
            )

    def export(
        self,
        path: str | Path,
        format: str | None = None,
        data: str | Source | None = None,
        data_dir: str = "",
        split: str | None = None,
        calibration_images: int = 200,
        **options: Any,
    ) -> calibrated_export.ExportedFile:
        """Writes the network for another engine, and checks that the file computes the same.

        The accuracy of an int8 or int16 file is measured beside the network's own, on up to four
        times as many images as calibrate it, and on none of those.

        Args:
          path: the file, or the folder of c.
          format: onnx, tflite, c, stablehlo, safetensors or pth; None: by the path's suffix.
          data: images that int8 and int16 are calibrated on, without labels: digits, folder, or a
            prepared TFDS data set; None: the training images of what it was trained on, whose
            evaluation images then measure the accuracy.
          data_dir: see `open_data`.
          split: see `open_data`.
          calibration_images: how many of them.
          **options: of the format: opset, batch, precision, float_io, weights, pixels.

        Raises:
          UserError: no such format or option; data for a file that needs no calibration; the path
            is a folder, or not a new one for c; or the file deviates, and is not written.
          WriteError: it cannot be written.
        """
        from squeeze_jax.convert import exporters

        path, accuracy = as_path(path), None
        format = format or path.suffix.removeprefix(".")
        exporters.check_output(path, format)
        if exporters.needs_calibration(format, options):
            content, deviation, accuracy = self.calibrated_bytes(
                format, data, data_dir, split, calibration_images, **options
            )
        elif data or data_dir or split:
            raise UserError(
                "float32 and float16 are not calibrated: data go with precision int8 and int16"
            )
        else:
            content, deviation = self.export_bytes(format, **options)
        exporters.save(content, path, format)
        return calibrated_export.ExportedFile(path, len(content), deviation, accuracy)

    def calibrated_bytes(
        self,
        format: str,
        data: str | Source | None = None,
        data_dir: str = "",
        split: str | None = None,
        calibration_images: int = 200,
        measured: Source | None = None,
        **options: Any,
    ) -> tuple[bytes, float, calibrated_export.Accuracy | None]:
        """Returns the content of a calibrated file, its deviation and its accuracy; see `export`.

        The accuracy is measured on `measured`, if it is given.
        """
        source = self._named_split(data, data_dir, split)
        if source is None:
            source, evaluation_source = self.training_sources()
            measured = measured or evaluation_source
        with tqdm(unit="image", delay=1, leave=False, disable=None) as bar:
            return calibrated_export.export_calibrated(
                self.whole(), format, options, source, calibration_images, measured, bar.update
            )

    def training_sources(self) -> tuple[Source, Source]:
        """Returns the training and the evaluation images of the data the network was trained on.

        Raises:
          UserError: it does not tell, or they cannot be read.
        """
        train, evaluated, *_ = load_data(self._training_data())
        return train, evaluated

    def export_bytes(self, format: str, **options: Any) -> tuple[bytes, float]:
        """Returns the content of a file that needs no calibration, and its deviation.

        See `export`.
        """
        from squeeze_jax.convert import export_network

        network = self.whole()
        images = np.stack([preprocess(image, network.preprocessing) for image in photographs()])
        return export_network(network, format, options, images)

    def compress(
        self,
        path: str | Path,
        *,
        bits: int | None = None,
        target_bytes: int | None = None,
        max_loss: float | None = None,
        data: str | None = None,
        data_dir: str = "",
        split: str | None = None,
        calibration_images: int = 200,
        coder: str = "arithmetic",
        base: "LoadedNetwork | None" = None,
    ) -> CompressedFile:
        """Writes a .sqz file: lossless, unless one of the first three says otherwise.

        Args:
          path: the file.
          bits: 2^bits - 1 values a layer; calibrated where data are named.
          target_bytes: the largest size; the file is the best that fits.
          max_loss: the largest KL divergence of the outputs, nats; the file is the smallest.
          data: images to calibrate on, without labels; None: the images it was trained on.
          data_dir: see `open_data`.
          split: see `open_data`.
          calibration_images: how many; as many others measure the divergence.
          coder: a key of `compress.sqz.CODERS`.
          base: a network that readers have; the file holds what differs. Where nothing is gained
            by that, the file is one that needs no base.

        Raises:
          UserError: a value out of range, a size or loss that cannot be reached, data for a file
            that needs none, or the path is a folder.
          WriteError: the file cannot be written.
        """
        # Only here: they take numba along.
        from squeeze_jax.compress import calibrate, quantize, rate_search
        from squeeze_jax.compress.sqz import container

        for name, value in (("target_bytes", target_bytes), ("max_loss", max_loss)):
            if value is not None:
                Range(above=0).check(name, value)
        goals = {"bits": bits, "target_bytes": target_bytes, "max_loss": max_loss}
        if len(given := [name for name, value in goals.items() if value is not None]) > 1:
            raise UserError(f"{' and '.join(given)} contradict each other: give one of them")
        check_file(as_path(path))
        network = self.whole()
        if given and not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(network.params)):
            raise UserError(f"{self.path}: its weights are not all finite numbers")
        options: dict[str, Any] = dict(coder=coder, known_classes=known_classes())
        calibrated, others = None, None
        names_data = bool(data or data_dir or split)
        is_searched = target_bytes is not None or max_loss is not None
        if names_data and not is_searched and bits is None:
            raise UserError(
                "a lossless file is not calibrated: data go with target_bytes, max_loss or bits"
            )
        if is_searched or names_data:
            images, others = self._calibration_images(data, data_dir, split, calibration_images)
            print(f"calibrating on {len(images)} images", file=sys.stderr)
            with tqdm(
                total=calibrate.count_batches(len(images)),
                desc="calibrating",
                unit="batch",
                leave=False,
                disable=None,
            ) as bar:
                calibrated = calibrate.calibrate(network, images, on_batch=advance(bar))

        def tell(text: str) -> None:
            tqdm.write(f"tried: {text}", file=sys.stderr)

        def encode(base: Network | None) -> bytes:
            with tqdm(desc="rounding", unit="layer", delay=1, leave=False, disable=None) as bar:
                step, to = advance(bar), {**options, "base": base, "on_try": tell}
                if target_bytes is not None and calibrated:
                    return rate_search.to_size(
                        network, calibrated, target_bytes, on_layer=step, **to
                    )
                if max_loss is not None and calibrated and others is not None:
                    return rate_search.to_loss(
                        network, calibrated, max_loss, others, on_layer=step, **to
                    )
                if bits is not None:
                    return rate_search.to_bits(network, calibrated, bits, base, **options)
                return container.lossless(network, base=base, **options)

        def divergence(content: bytes, base: Network | None) -> float | None:
            if others is None:
                return None
            decoded = container.read(content, options["known_classes"], base)
            return float(quantize.divergence_from(network, others)(decoded))

        before = base and base.whole()
        content = encode(before)
        loss = divergence(content, before)
        if before:
            with suppress(UserError):  # the size may be out of reach without the base
                plain = encode(None)
                plain_loss = divergence(plain, None)
                is_smaller = len(plain) <= len(content)
                # As many levels of the weights are coarser than of their differences.
                is_finer = loss is not None and plain_loss is not None and plain_loss <= loss
                if is_finer if target_bytes else is_smaller and (is_finer or not bits):
                    content, loss, before = plain, plain_loss, None
        write_atomically(as_path(path), content)
        weights = sum(leaf.size for leaf in container.paths(network.params, network.stats).values())
        return CompressedFile(
            as_path(path),
            len(content),
            8 * len(content) / weights,
            loss,
            0 if others is None else len(others),
            before is not None,
        )

    def save(self, folder: str | Path) -> None:
        """Writes a checkpoint that every command opens; the folder must not exist."""
        checkpoint.save_network(self.whole(), as_path(folder))

    def summary(self) -> dict[str, Any]:
        """Returns params, macs, RAM and flash on a device, and a record for each layer.

        See `cost.design_costs` for what they count.
        """
        network = self.whole()
        return layer_table.summary(cost_trace.trace_module(network.module(), network.input_shape))

    def whole(self) -> Network:
        """Returns the network with its weights.

        Raises:
          UserError: it was opened from an exported file.
        """
        if self.network is None:
            raise UserError(
                f"{self.path} is an exported file, which can only be run: "
                "open the checkpoint that it was made of"
            )
        return self.network

    def _named_split(
        self, data: str | Source | None, data_dir: str, split: str | None
    ) -> Source | None:
        """Returns what is named, under its own labels: a data set, or a split of the training data.

        None where nothing is; see `open_data`.
        """
        if isinstance(data, Source):
            return data
        if not data:
            _check_data_named(data_dir)
            if not split:
                return None
            training = self._training_data()
            data, data_dir = training.name, training.data_dir
        return load_split(data, data_dir, split, self.preprocessing.background)

    def _training_data(self) -> DataConfig:
        if (data := self.training_data) is None:
            raise UserError(f"{self.path} does not tell what it was trained on: name the data")
        return parse_section(DataConfig, data, "data")

    def _calibration_images(
        self, data: str | None, data_dir: str, split: str | None, count: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns preprocessed images to calibrate on, and as many others."""
        source = self._named_split(data, data_dir, split)
        if source is None:
            source = self.training_sources()[0]
        images = sample(source, self.preprocessing, 2 * count)
        if len(images) < 2:
            raise UserError(
                f"{source.name} has {len(images)} image(s); compression needs at least 2, "
                "some for calibration and others to measure the loss"
            )
        return images[::2], images[1::2]


def _check_data_named(data_dir: str) -> None:
    """Rejects, with a UserError, a place without the name of what is there."""
    if data_dir:
        raise UserError(
            f"which data are in {data_dir}? Name them too: --data folder, prepared, or a TFDS set"
        )


def load(path: str | Path, base: "str | Path | LoadedNetwork | None" = None) -> LoadedNetwork:
    """Opens a network.

    Args:
      path: a trial's folder, a folder that `squeeze-jax import` wrote, a .sqz file, an exported
        .onnx, .tflite or .stablehlo file, or the name of a bundled network, such as "cifar10-48k".
      base: the network that a .sqz file is a delta from.

    Raises:
      UserError: there is none, or it cannot be read.
    """
    path = zoo.locate(as_path(path))
    if not path.exists():
        if str(path) in models.model_names():
            raise UserError(
                f"{path} is a model without weights: train it (squeeze-jax launch squeezenet "
                f"--config.model.name={path}) or import some; {', '.join(zoo.names())} has some"
            )
        hint = nearest(str(path), zoo.names())
        raise UserError(
            f"{path}: no such file or folder"
            + (f", nor a bundled network; did you mean {hint}?" if hint else "")
        )
    if is_sqz(path) and not path.is_dir():
        if base is not None and not isinstance(base, LoadedNetwork):
            base = load(base)
        return load_sqz(path, base)
    if path.is_file():
        from squeeze_jax.convert import open_exported

        return LoadedNetwork(path, None, open_exported(path))
    return LoadedNetwork(path, checkpoint.load_network(path))


def build(name: str, *, seed: int = 0, **options: Any) -> nnx.Module:
    """Returns a registered model with freshly drawn weights.

    Args:
      name: a name that `squeeze-jax summary --list` prints.
      seed: of the weights.
      **options: of the model, such as num_classes=10 or squeeze_ratio=0.5.

    Raises:
      UserError: no such model or option, or a value out of range.
    """
    return models.create(name, rngs=nnx.Rngs(seed), **options)


def trace(
    module: nnx.Module | Callable[[], nnx.Module], input_shape: tuple[int, int, int]
) -> "list[Layer]":
    """Returns the layers of any Flax NNX module, with shapes, parameters and MACs.

    Args:
      module: maps images [N, H, W, C] to anything; or a function that builds it, which is only
        traced, so that no weight is allocated.
      input_shape: height, width and channels of one image.

    Raises:
      ValueError: the images are too small for the module.
    """
    build_module = (lambda: module) if isinstance(module, nnx.Module) else module
    return cost_trace.trace_layers(build_module, input_shape)


def advance(bar: tqdm, count: int = 1) -> Callable[[], None]:
    """Returns a callback that moves a progress bar on by `count`, at most to its total."""

    def advance() -> None:
        bar.update(count if bar.total is None else min(count, bar.total - bar.n))

    return advance


def load_sqz(path: Path, base: LoadedNetwork | None = None) -> LoadedNetwork:
    """Opens a .sqz file, whatever its suffix; see `load`."""
    return LoadedNetwork(path, load_sqz_file(path, base.whole() if base else None))
