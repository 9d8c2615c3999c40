"""Times streamed input in squeeze_jax (Grain) and in PyTorch's DataLoader.

Both decode the same folder of JPEG photographs in one thread and resize to 256: the short side, or
squashed. Then squeeze_jax reads what `squeeze-jax prepare` made of the photographs, and PyTorch the
same small JPEGs as files. The clock is the CPU time of this process. PyTorch's data set is written
with PIL, as its users do; it also crops, mirrors and normalises. squeeze_jax does that inside the
compiled step (`Pipeline.fetch`), which is therefore called here too.
"""

import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import torch
from array_record.python.array_record_data_source import ArrayRecordDataSource
from PIL import Image
from sklearn.datasets import load_sample_images

from experiments.benchmarks import interleaved
from squeeze_jax.cli.prepare import QUALITY
from squeeze_jax.configs import squeezenet
from squeeze_jax.data import DataConfig, load, open_data, prepare
from squeeze_jax.data.prepared import LABEL, Settings

PACKAGES = ("torch", "pillow", "simplejpeg")
IMAGES, BATCH, SIDES = 256, 32, (375, 500)  # the usual size of ImageNet's photographs
BATCHES = 8  # in one call
# Seconds in which a reader that reads ahead refills its buffer, within the call that emptied it.
SETTLE = 2.0


def rows() -> list[interleaved.Row]:
    """Measures calls of BATCHES batches each."""
    threads = torch.get_num_threads()
    # A DataLoader's worker has one thread. More threads spin, which CPU time would count.
    torch.set_num_threads(1)
    try:
        return [row for mode in ("squash", "short") for row in rows_of(mode)]
    finally:
        torch.set_num_threads(threads)


def rows_of(mode: str) -> list[interleaved.Row]:
    """Measures one way to resize."""
    with tempfile.TemporaryDirectory() as name:
        originals, prepared, small = (Path(name) / part for part in ("full", "prepared", "small"))
        write_photographs(originals)
        config = data_config("folder", originals, mode)
        settings = Settings(config.resize, mode, config.background, QUALITY)
        prepare.prepare(load(config), settings, prepared)
        write_records(prepared, small)
        runs = {
            "squeeze_jax, prepared": own_batches(data_config("prepared", prepared, mode)),
            "squeeze_jax, originals": own_batches(config),
            "PyTorch DataLoader, PIL, prepared files": torch_batches(small, mode),
            "PyTorch DataLoader, PIL, originals": torch_batches(originals / "train", mode),
        }
        return interleaved.compare(
            f"JPEG 500x375 -> {mode} 256 -> 227x227",
            runs,
            8,
            images=BATCH * BATCHES,
            clock=time.process_time,
        )


def write_photographs(folder: Path) -> None:
    """Writes crops of scikit-learn's two photographs as JPEG files of two classes."""
    random = np.random.default_rng(0)
    for label, photograph in enumerate(load_sample_images().images):
        for split, count in (("train", IMAGES // 2), ("val", 1)):
            target = folder / split / str(label)
            target.mkdir(parents=True)
            for i in range(count):
                y, x = (
                    random.integers(0, size - side + 1)
                    for size, side in zip(photograph.shape[:2], SIDES, strict=True)
                )
                crop = photograph[y : y + SIDES[0], x : x + SIDES[1]]
                Image.fromarray(crop).save(target / f"{i}.jpg", quality=90)


def write_records(prepared: Path, folder: Path) -> None:
    """Writes the JPEGs of a prepared training set as files of two classes."""
    shards = sorted(map(str, prepared.glob("train-*")))
    for number, record in enumerate(ArrayRecordDataSource(shards)):
        path = folder / str(LABEL.unpack_from(record)[0]) / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(record[LABEL.size :])


def data_config(name: str, folder: Path, mode: str) -> DataConfig:
    """Returns the data section of the preset `imagenet` for a folder and one thread."""
    config = squeezenet.get_config("imagenet").data
    config.update(name=name, data_dir=str(folder), resize_mode=mode, workers=1)
    return DataConfig(**config)


def own_batches(config: DataConfig) -> Callable[[], None]:
    """Returns a function that takes BATCHES batches from a stream."""
    pipeline = open_data(config).train(BATCH, 0)
    batches = pipeline.batches()
    keys = jax.random.split(jax.random.key(0), BATCH)
    fetch = jax.jit(lambda batch: pipeline.fetch({}, batch, keys)["image"])

    def run() -> None:
        for batch in itertools.islice(batches, BATCHES):
            fetch(batch).block_until_ready()
        time.sleep(SETTLE)

    return run


class Photographs(torch.utils.data.Dataset):
    """Reads a folder of classes as PyTorch's users do."""

    def __init__(self, folder: Path, mode: str):
        self.mode = mode
        self.paths = sorted(folder.glob("*/*.jpg"))
        self.labels = [int(path.parent.name) for path in self.paths]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = Image.open(self.paths[index]).convert("RGB")
        scale = 256 / min(image.size)
        size = [round(side * scale) for side in image.size] if self.mode == "short" else (256, 256)
        image = image.resize(size, Image.Resampling.BILINEAR)
        array = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        y, x = (int(torch.randint(0, side - 226, ())) for side in array.shape[1:])
        array = array[:, y : y + 227, x : x + 227]
        array = array.flip(2) if torch.rand(()) < 0.5 else array
        return array.float() - torch.tensor([123.0, 117.0, 104.0])[:, None, None], self.labels[
            index
        ]


def torch_batches(folder: Path, mode: str) -> Callable[[], None]:
    """Returns a function that takes BATCHES batches from a DataLoader.

    The loader decodes in this process, so that its CPU time counts.
    """
    loader = torch.utils.data.DataLoader(
        Photographs(folder, mode), BATCH, shuffle=True, drop_last=True
    )

    def run() -> None:
        for images, _ in itertools.islice(loader, BATCHES):
            images.sum()
        time.sleep(SETTLE)

    return run
