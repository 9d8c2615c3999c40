"""Batches for training and evaluation, from memory or a stream, pure functions of (seed, step)."""

import dataclasses
import functools
import itertools
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from squeeze_jax.config_parsing import parse_section, plain_section
from squeeze_jax.data import sources, unreadable
from squeeze_jax.data.augment import augment
from squeeze_jax.data.boxes import RANDOM_RESIZED_CROP, crop_decoded
from squeeze_jax.data.checks import check_config, check_scale
from squeeze_jax.data.config import DataConfig
from squeeze_jax.data.decode import UnreadableImage
from squeeze_jax.data.source import Example, Source, fingerprint
from squeeze_jax.errors import UserError
from squeeze_jax.network import Preprocessing, preprocessing
from squeeze_jax.network.preprocessing import preprocess

# Bytes of resized images, of all splits together, that placement "auto" keeps in memory.
MEMORY_LIMIT = 2**30

Arrays = dict[str, np.ndarray]


def open_data(config: DataConfig) -> "Data":
    """Opens the data set that the config names, and decodes all of it if it is to live in memory.

    The files of a folder are decoded once before they are streamed, too, so that unreadable ones
    are found now.

    Raises:
      UserError: a setting makes no sense, or the data cannot be read.
    """
    parse_section(DataConfig, plain_section(config), "data")  # ranges, if it was not parsed yet
    check_config(config)
    check_scale(config)
    splits = sources.load(config)
    total = sum(map(len, splits))
    size = total * math.prod(_resized_shape(config))
    in_memory = config.placement == "memory" or (
        config.placement == "auto" and size <= MEMORY_LIMIT
    )
    random_crops = RANDOM_RESIZED_CROP in config.augment and not in_memory
    opened = []
    for source in splits:
        source.check_resize(config.resize, config.resize_mode, random_crops)
        arrays, failures = {}, {}
        if in_memory:
            arrays, failures = _decode_all(source, config)
        elif config.skip_unreadable or not source.is_prepared():
            failures = unreadable.read_all(source)
        opened.append((source, arrays, failures))
    every = [failure for *_, failures in opened for failure in failures.values()]
    unreadable.reject(every, total, config.skip_unreadable)
    unreadable.reject_lost(splits, [failures for *_, failures in opened])
    (train, train_data), (evaluation, eval_data), *rest = [_without(*split) for split in opened]
    test, test_data = rest[0] if rest else (None, {})
    return Data(config, train, evaluation, train_data, eval_data, test, test_data)


def evaluation_data(
    source: Source, preprocessing: Preprocessing, skip_unreadable: bool = False
) -> "Data":
    """Returns one source alone, streamed through a network's own preprocessing.

    Raises:
      UserError: images cannot be decoded, and are not to be skipped.
    """
    config = DataConfig(
        name=source.name,
        placement="stream",
        workers=os.cpu_count() or 1,
        **dataclasses.asdict(preprocessing),
    )
    check_config(config)
    source.check_resize(config.resize, config.resize_mode)
    if skip_unreadable or not source.is_prepared():
        failures = unreadable.read_all(source)
        unreadable.reject(list(failures.values()), len(source), skip_unreadable)
        source, _ = _without(source, {}, failures)
    return Data(config, source, source, {}, {})


def spread(size: int, count: int) -> list[int]:
    """Returns `count` indices evenly spread over range(size), or all where it has fewer."""
    count = min(count, size)
    return [size * i // count for i in range(count)]


def sample(
    source: Source, preprocessing: Preprocessing, count: int, skip_unreadable: bool = False
) -> np.ndarray:
    """Returns images of a source as a network sees them, float32 [N, H, W, C].

    Args:
      source: where to read; its images may be sorted by class, so the sample is spread over it.
      preprocessing: the network's.
      count: images to take, or all where the source has fewer.
      skip_unreadable: whether to take fewer where some cannot be decoded.

    Raises:
      UserError: images cannot be decoded, and are not to be skipped.
    """
    source.check_resize(preprocessing.resize, preprocessing.resize_mode)
    chosen = source.subset(spread(len(source), count))
    count = len(chosen)
    images: list[np.ndarray | None] = [None] * count

    def use(index: int, example: Example) -> None:
        images[index] = preprocess(example[0], preprocessing)

    failures = unreadable.read_all(chosen, use)
    unreadable.reject(list(failures.values()), count, skip_unreadable)
    return np.stack([image for image in images if image is not None])


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """A data set: its sources, and its resized images where they live in memory, {} where not."""

    config: DataConfig
    train_source: Source
    eval_source: Source
    train_device_data: Arrays
    eval_device_data: Arrays
    # A set that neither trains nor chooses, where the data have one.
    test_source: Source | None = None
    test_device_data: Arrays = dataclasses.field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        """Returns how many classes there are."""
        return self.train_source.num_classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """Returns the meaning of each label."""
        return self.train_source.class_names

    @property
    def num_train(self) -> int:
        """Returns how many training images there are."""
        return len(self.train_source)

    @property
    def num_eval(self) -> int:
        """Returns how many evaluation images there are."""
        return len(self.eval_source)

    def on_test(self) -> "Data | None":
        """Returns the same data with the test set to evaluate on; None where there is none."""
        if self.test_source is None:
            return None
        return dataclasses.replace(
            self, eval_source=self.test_source, eval_device_data=self.test_device_data
        )

    def record(self) -> dict[str, Any]:
        """Returns what tells this version of the data from another, ready for JSON."""
        splits = {"train": self.train_source, "eval": self.eval_source}
        splits |= {"test": self.test_source} if self.test_source else {}
        return {
            "data_dir": self.config.data_dir,
            "class_names": list(self.class_names),
            "images": {name: len(source) for name, source in splits.items()},
            "fingerprint": fingerprint([source.fingerprint() for source in splits.values()]),
        }

    def train(
        self, batch_size: int, seed: int, process_index: int = 0, process_count: int = 1
    ) -> "Pipeline":
        """Returns endless shuffled batches; an epoch drops some examples where batches do not fit.

        Args:
          batch_size: of all processes together.
          seed: of the order, which is another one in each epoch.
          process_index: which of the processes this is.
          process_count: how many processes share each batch.

        Raises:
          UserError: the batch is larger than the training set, or does not divide over the
            processes.
        """
        if batch_size > self.num_train:
            raise UserError(
                f"batch size {batch_size} is larger than the {self.num_train} training images"
            )
        if seed < 0:
            raise UserError(f"the seed must not be negative: {seed}")
        steps_per_epoch = self.num_train // batch_size
        positions = _positions(batch_size, process_index, process_count)
        # An epoch's order takes O(n) to draw: keep this one's and, to read ahead, the next one's.
        order = functools.lru_cache(maxsize=2)(functools.partial(_order, self.num_train, seed))

        def plan(step: int) -> Arrays:
            epoch, step_in_epoch = divmod(step, steps_per_epoch)
            return {
                "index": order(epoch)[step_in_epoch * batch_size + positions],
                "position": positions,
            }

        return Pipeline(
            self.num_train,
            batch_size,
            steps_per_epoch,
            self.train_device_data,
            self.config,
            self.train_source,
            plan,
            len(positions),
            seed,
        )

    def evaluation(
        self, batch_size: int, process_index: int = 0, process_count: int = 1
    ) -> "Pipeline":
        """Returns every evaluation image once, in order; the last batch ends in weights of 0.

        Raises:
          UserError: the batch does not divide over the processes.
        """
        positions = _positions(batch_size, process_index, process_count)

        def plan(step: int) -> Arrays:
            index = step * batch_size + positions
            real = index < self.num_eval
            return {
                "index": np.where(real, index, 0).astype(np.int32),
                "position": positions,
                "weight": real.astype(np.float32),
            }

        steps = -(-self.num_eval // batch_size)
        return Pipeline(
            self.num_eval,
            batch_size,
            steps,
            self.eval_device_data,
            self.config,
            self.eval_source,
            plan,
            len(positions),
            None,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Pipeline:
    """The two halves of a batch.

    `batches` says on the host what a batch holds, and `fetch` makes the network's input of it
    inside the compiled step.

    Attributes:
      num_examples: of the split.
      batch_size: of all processes together.
      steps_per_epoch: whole batches in an epoch (training), or batches that cover every example
        (evaluation).
      device_data: what must live on the devices: {"image": uint8 [N, R, R, 3], "label": int32 [N]},
        or {} when streamed. R x R stands for the height and width of `config.resize`, S x S for
        those of `config.image_size`, and 3 is 1 for grey.
      config: the data's settings.
      source: where the stream reads.
      plan: step -> which examples this process's share holds: "index" and "position" int32 [b], in
        evaluation "weight" float32 [b].
      share: b, the size of this process's share of a batch.
      seed: of training's draws; None in evaluation.
    """

    num_examples: int
    batch_size: int
    steps_per_epoch: int
    device_data: Arrays
    config: DataConfig
    source: Source
    plan: Callable[[int], Arrays]
    share: int
    seed: int | None

    def batches(self, start_step: int = 0) -> Iterator[Arrays]:
        """Yields this process's share of each batch from `start_step` on.

        Batches are endless in training, and go once through the examples in evaluation.

        Yields:
          "position" int32 [b], the examples' places in the whole batch; "index" int32 [b] into
          `device_data`, or, streamed, "image" uint8 [b, R, R, 3] (of random resized crops
          [b, S, S, 3]) and "label" int32 [b]; in evaluation "weight" float32 [b], 0 on padding and
          1 elsewhere.

        Raises:
          UserError: an image that is streamed cannot be decoded.
        """
        if self.device_data:
            return map(
                self.plan,
                itertools.count(start_step)
                if self._trains
                else range(start_step, self.steps_per_epoch),
            )
        import grain  # takes a while, and images in memory do without

        end = sys.maxsize if self._trains else self.steps_per_epoch * self.share
        examples = grain.MapDataset.range(start_step * self.share, end).map(self._example)
        read_ahead = grain.ReadOptions(
            num_threads=self.config.workers,
            prefetch_buffer_size=2 * self.share if self.config.workers else 0,
        )
        return iter(examples.to_iter_dataset(read_ahead).batch(self.share))

    def fetch(
        self, device_data: dict[str, jax.Array], batch: dict[str, jax.Array], keys: jax.Array | None
    ) -> dict[str, jax.Array]:
        """Returns the network's input of a batch, or of one device's slice of it; pure.

        Args:
          device_data: `self.device_data`, on the device.
          batch: from `batches`.
          keys: of each image's augmentation, [b]; None takes centre crops and augments nothing.

        Returns:
          "image" float32 [b, S, S, 3], "label" int32 [b], "weight" float32 [b], "position" int32
          [b].
        """
        config, position = self.config, batch["position"]
        if device_data:
            batch = batch | {
                name: jnp.take(values, batch["index"], axis=0, mode="clip")
                for name, values in device_data.items()
            }
        images = preprocessing.normalise(
            batch["image"], config.mean, config.std, config.channel_order
        )
        if keys is None:
            images = preprocessing.centre_crop(images, config.image_size)
        else:
            images = augment(images, keys, config, self._crops_when_read)
        weight = batch.get("weight", jnp.ones(position.shape, jnp.float32))
        return {"image": images, "label": batch["label"], "weight": weight, "position": position}

    @property
    def _trains(self) -> bool:
        """Returns whether batches are for training, and endless."""
        return self.seed is not None

    @property
    def _crops_when_read(self) -> bool:
        """Returns whether a stream's workers take random resized crops of the decoded images."""
        random = RANDOM_RESIZED_CROP in self.config.augment
        return random and self._trains and not self.device_data

    def _example(self, number: int) -> Arrays:
        """Returns an example of this process's share of all batches, counted from step 0."""
        step, place = divmod(number, self.share)
        example = {name: values[place] for name, values in self.plan(step).items()}
        image, label = self.source[example.pop("index")]
        if self.seed is not None and self._crops_when_read:
            image = preprocessing.to_channels(
                crop_decoded(image, self.seed, step, int(example["position"]), self.config),
                self.config.channel_order,
            )
            return example | {"image": image, "label": np.asarray(label, np.int32)}
        return example | _prepare((image, label), self.config)


def _order(num_examples: int, seed: int, epoch: int) -> np.ndarray:
    """Returns the order of an epoch's examples, int32 [num_examples]."""
    return (
        np.random.Generator(np.random.Philox(key=[seed, epoch]))
        .permutation(num_examples)
        .astype(np.int32)
    )


def _positions(batch_size: int, process_index: int, process_count: int) -> np.ndarray:
    """Returns this process's places in the whole batch, int32 [batch_size / process_count]."""
    if batch_size < 1 or batch_size % process_count:
        raise UserError(f"batch size {batch_size} does not divide over {process_count} processes")
    share = batch_size // process_count
    return np.arange(process_index * share, (process_index + 1) * share, dtype=np.int32)


def _resized_shape(config: DataConfig) -> tuple[int, int, int]:
    """Returns the height, width and channels of a resized image."""
    channels = preprocessing.CHANNELS[config.channel_order]
    return (*preprocessing.height_width(config.resize), channels)


def _prepare(example: Example, config: DataConfig) -> Arrays:
    """Returns the image, resized and in the net's channels, and the label."""
    image, label = example
    image = preprocessing.to_channels(image, config.channel_order)
    return {
        "image": preprocessing.resize(image, config.resize, config.resize_mode),
        "label": np.asarray(label, np.int32),
    }


def _without(
    source: Source, arrays: Arrays, failures: Mapping[int, UnreadableImage]
) -> tuple[Source, Arrays]:
    """Returns a source and its arrays without the images that cannot be read."""
    if not failures:
        return source, arrays
    gone = list(failures)
    return source.without(gone), {
        name: np.delete(values, gone, axis=0) for name, values in arrays.items()
    }


def _decode_all(source: Source, config: DataConfig) -> tuple[Arrays, dict[int, UnreadableImage]]:
    """Reads a whole source: {"image": uint8 [N, R, R', C], "label": int32 [N]}, and what it cannot.

    The rows of unreadable images are undefined.
    """
    arrays = {
        "image": np.zeros((len(source), *_resized_shape(config)), np.uint8),
        "label": np.zeros(len(source), np.int32),
    }

    def use(index: int, example: Example) -> None:
        for name, value in _prepare(example, config).items():
            arrays[name][index] = value

    return arrays, unreadable.read_all(source, use)
