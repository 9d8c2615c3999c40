"""Measures what storing resized images as JPEG costs a net, by quality and chroma subsampling.

    python -m experiments.prepare.quality NETWORK DATA --data-dir DIR

Each image is resized as the net expects, encoded, decoded and classified. Writes results.csv beside
this file. The top-1 of a thousand images moves in steps, so that the table also has the mean
probability of the true class, whose paired difference has a smaller error.
"""

import argparse
import csv
from pathlib import Path

import jax
import numpy as np
import simplejpeg
from tqdm import tqdm

from squeeze_jax import api
from squeeze_jax.data.prepare import encode
from squeeze_jax.models import conv_backend
from squeeze_jax.network.preprocessing import preprocess, resize

WAYS = [(95, "4:4:4"), (98, "4:4:4"), (95, "4:2:0"), (90, "4:4:4"), (90, "4:2:0"), (98, "4:2:0")]
BATCH = 50


def probabilities(network: api.LoadedNetwork, images: list[np.ndarray]) -> np.ndarray:
    """Returns the probabilities of resized images, [N, classes]."""
    found = []
    for start in range(0, len(images), BATCH):
        part = images[start : start + BATCH]
        batch = np.stack([preprocess(image, network.preprocessing) for image in part])
        backend = conv_backend.default_conv_backend(jax.default_backend(), batch[..., 0].size)
        with conv_backend.conv_backend(backend):
            found.append(np.asarray(jax.nn.softmax(network.classifier.run(batch))))
    return np.concatenate(found)


def main() -> None:
    """Writes a row for each way to store images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network")
    parser.add_argument("data")
    parser.add_argument("--data-dir", default="")
    parser.add_argument("--split")
    arguments = parser.parse_args()
    network = api.load(arguments.network)
    source = network.open_data(arguments.data, arguments.data_dir, arguments.split)
    size, mode = network.preprocessing.resize, network.preprocessing.resize_mode
    examples = [source[index] for index in range(len(source))]
    images = [resize(image, size, mode) for image, _ in examples]
    labels = np.array([label for _, label in examples])

    def measure(outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        order = np.argsort(-outputs, axis=1, kind="stable")[:, :5]
        hits = order == labels[:, None]
        true = outputs[np.arange(len(labels)), labels]
        return 100 * hits[:, 0], 100 * hits.any(1), 100 * true

    before = measure(probabilities(network, images))
    rows = [
        {"quality": "", "subsampling": "", "kilobytes": size * size * 3 / 1e3}
        | {
            name: values.mean()
            for name, values in zip(("top1", "top5", "true"), before, strict=True)
        }
    ]
    for quality, sampling in tqdm(WAYS, disable=None):
        encoded = [encode(image, quality, sampling) for image in images]
        after = measure(probabilities(network, [simplejpeg.decode_jpeg(each) for each in encoded]))
        row = {"quality": quality, "subsampling": sampling}
        row["kilobytes"] = np.mean([len(each) for each in encoded]) / 1e3
        for name, new, old in zip(("top1", "top5", "true"), after, before, strict=True):
            change = new - old
            row |= {name: new.mean(), f"{name}_change": change.mean()}
            row[f"{name}_error"] = change.std(ddof=1) / np.sqrt(len(change))
        rows.append(row)
        print(
            ", ".join(f"{key} {value:.3f}" for key, value in row.items() if key != "subsampling"),
            flush=True,
        )
    with Path(__file__).with_name("results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[-1]))
        writer.writeheader()
        writer.writerows(
            {key: f"{v:.3f}" if isinstance(v, float) else v for key, v in row.items()}
            for row in rows
        )


if __name__ == "__main__":
    main()
