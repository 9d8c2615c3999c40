import itertools

import jax
import numpy as np
import pytest
from PIL import Image

from squeeze_jax import data
from squeeze_jax.data import DataConfig
from squeeze_jax.errors import UserError

NUM_TRAIN, NUM_EVAL, BATCH = 21, 9, 4
MEAN = (10.0, 20.0, 30.0)
PLACEMENTS = pytest.mark.parametrize("placement", ["memory", "stream"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split, count in (("train", NUM_TRAIN), ("val", NUM_EVAL)):
        for number in range(count):
            path = root / split / "abc"[number % 3] / f"{number:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (10, 12, 3), np.uint8)).save(path)
    return root


def settings(folder, **changes):
    defaults = dict(
        name="folder",
        data_dir=str(folder),
        resize=10,
        image_size=10,
        mean=MEAN,
        std=(50.0, 60.0, 70.0),
        placement="memory",
        workers=2,
    )
    return DataConfig(**defaults | changes)


def take(pipeline, count, start=0):
    return list(itertools.islice(pipeline.batches(start), count))


def fetched(pipeline, batches, seed=None, start=0):
    """The batches as the training step sees them; keys are functions of (seed, step, position)."""
    fetch = jax.jit(pipeline.fetch)

    def keys(step, batch):
        if seed is None:
            return None
        key = jax.random.fold_in(jax.random.key(seed), step)
        return jax.vmap(jax.random.fold_in, (None, 0))(key, batch["position"])

    return [
        jax.tree.map(np.asarray, fetch(pipeline.device_data, batch, keys(step, batch)))
        for step, batch in enumerate(batches, start)
    ]


def assert_same(left, right):
    assert len(left) == len(right)
    jax.tree.map(np.testing.assert_array_equal, left, right)


@PLACEMENTS
def test_an_epoch_shows_each_example_at_most_once(folder, placement):
    opened = data.open_data(settings(folder, placement=placement))
    train = opened.train(BATCH, seed=3)
    assert (opened.num_train, opened.num_eval, train.num_examples, train.steps_per_epoch) == (
        NUM_TRAIN,
        NUM_EVAL,
        NUM_TRAIN,
        5,
    )
    batches = fetched(train, take(train, 3 * train.steps_per_epoch))
    epochs = [
        np.concatenate([b["image"] for b in batches[e * 5 : e * 5 + 5]]).reshape(20, -1)
        for e in range(3)
    ]
    assert all(len({image.tobytes() for image in epoch}) == 20 for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1]) and not np.array_equal(epochs[1], epochs[2])


def test_a_batch_of_everything_is_a_permutation_that_differs_between_epochs_and_seeds(folder):
    opened = data.open_data(settings(folder))
    orders = [
        tuple(batch["index"].tolist())
        for seed in (0, 1)
        for batch in take(opened.train(NUM_TRAIN, seed), 3)
    ]
    assert all(sorted(order) == list(range(NUM_TRAIN)) for order in orders)
    assert len(set(orders)) == 6


@PLACEMENTS
@pytest.mark.parametrize("start", [1, 5, 13])
def test_starting_at_a_step_equals_skipping_to_it(folder, placement, start):
    train = data.open_data(settings(folder, placement=placement)).train(BATCH, seed=1)
    assert_same(take(train, 3, start), take(train, start + 3)[start:])


def test_starting_late_costs_no_epochs(folder):
    train = data.open_data(settings(folder)).train(BATCH, seed=1)
    assert take(train, 1, start=10**12)[0]["index"].dtype == np.int32


@pytest.mark.slow
@pytest.mark.parametrize("pad, image_size", [(0, 10), (2, 10), (0, 7)])
def test_streaming_changes_nothing_augmentation_included(folder, pad, image_size):
    augmentation = {"pad": pad, "mirror": True, "image_size": image_size}
    memory, stream = (
        data.open_data(settings(folder, placement=placement, **augmentation))
        for placement in ("memory", "stream")
    )
    assert memory.train(BATCH, 0).device_data and not stream.train(BATCH, 0).device_data
    results = [
        fetched(p, take(p, 12), seed=7) for p in (memory.train(BATCH, 5), stream.train(BATCH, 5))
    ]
    assert_same(*results)
    assert_same(
        *[fetched(p, take(p, 99)) for p in (memory.evaluation(BATCH), stream.evaluation(BATCH))]
    )


@pytest.mark.slow
@PLACEMENTS
@pytest.mark.parametrize("split", ["train", "evaluation"])
def test_processes_shares_make_up_the_batch(folder, placement, split):
    opened = data.open_data(settings(folder, placement=placement, pad=1, mirror=True))

    def results(**process):
        pipeline = (
            opened.train(BATCH, 2, **process)
            if split == "train"
            else opened.evaluation(BATCH, **process)
        )
        return fetched(pipeline, take(pipeline, 7), seed=0 if split == "train" else None)

    whole = results()
    shares = [results(process_index=i, process_count=2) for i in range(2)]
    assert_same(
        whole,
        [
            jax.tree.map(lambda a, b: np.concatenate([a, b]), *pair)
            for pair in zip(*shares, strict=True)
        ],
    )
    assert whole[0]["position"].tolist() == [0, 1, 2, 3]


def test_augmentation_is_independent_of_how_the_batch_is_sliced(folder):
    train = data.open_data(settings(folder, pad=2, mirror=True)).train(8, seed=0)
    batch = take(train, 1)[0]
    halves = [jax.tree.map(lambda x: x[half], batch) for half in (slice(0, 4), slice(4, 8))]
    whole = fetched(train, [batch], seed=1)[0]
    parts = [fetched(train, [half], seed=1)[0] for half in halves]
    assert_same(whole, jax.tree.map(lambda a, b: np.concatenate([a, b]), *parts))
    assert not np.array_equal(whole["image"], fetched(train, [batch], seed=2)[0]["image"])


def test_a_stream_crops_the_decoded_image_whoever_reads_it(folder):
    """A crop of as many pixels as the result has is those pixels, of an image that was not resized.

    It depends on the seed, the step and the position alone.
    """
    small = dict(resize=5, image_size=3, mean=(0.0,) * 3, std=(1.0,) * 3, placement="stream")
    crops = dict(augment=("random_resized_crop",), crop_area=(0.075, 0.075), crop_ratio=(1.0, 1.0))
    opened = data.open_data(settings(folder, **small, **crops))
    train = opened.train(BATCH, 3)
    batches = fetched(train, take(train, 8), seed=0)
    originals = [np.asarray(Image.open(path)) for path in opened.train_source.paths]
    windows = {
        image[y : y + 3, x : x + 3].tobytes()
        for image in originals
        for y in range(image.shape[0] - 2)
        for x in range(image.shape[1] - 2)
    }
    images = np.concatenate([batch["image"] for batch in batches]).astype(np.uint8)
    assert {image.tobytes() for image in images} <= windows
    assert len({image.tobytes() for image in images}) > 25  # of 32, some of them the same image
    alone = data.open_data(settings(folder, workers=0, **small, **crops)).train(BATCH, 3)
    assert_same(take(train, 3, start=5), take(alone, 8)[5:])
    halves = [take(opened.train(BATCH, 3, i, 2), 4) for i in range(2)]
    whole = [
        jax.tree.map(lambda *parts: np.concatenate(parts), *both)
        for both in zip(*halves, strict=True)
    ]
    assert_same(whole, take(train, 4))
    evaluation = opened.evaluation(BATCH)
    assert take(evaluation, 1)[0]["image"].shape == (BATCH, 5, 5, 3)


@PLACEMENTS
@pytest.mark.parametrize("batch_size", [1, 4, 9, 16])
def test_evaluation_visits_each_example_once(folder, placement, batch_size):
    opened = data.open_data(settings(folder, placement=placement))
    evaluation = opened.evaluation(batch_size)
    batches = fetched(evaluation, list(evaluation.batches()))
    assert len(batches) == evaluation.steps_per_epoch == -(-NUM_EVAL // batch_size)
    assert all(batch["image"].shape == (batch_size, 10, 10, 3) for batch in batches)
    image, label, weight = (
        np.concatenate([batch[name] for batch in batches]) for name in ("image", "label", "weight")
    )
    assert weight.tolist() == [1] * NUM_EVAL + [0] * (len(weight) - NUM_EVAL)
    assert label[:NUM_EVAL].tolist() == list(opened.eval_source.labels)
    pixels = np.stack(
        [
            np.asarray(Image.open(path).resize((10, 10), Image.Resampling.BILINEAR))
            for path in opened.eval_source.paths
        ]
    )
    np.testing.assert_allclose(
        image[:NUM_EVAL], (pixels - np.array(MEAN)) / [50, 60, 70], rtol=1e-5, atol=1e-5
    )


def test_padding_is_the_mean_pixel(folder):
    train = data.open_data(settings(folder, pad=10, image_size=10)).train(16, seed=0)
    image = fetched(train, take(train, 1), seed=0)[0]["image"]
    assert (np.abs(image).sum(axis=(2, 3)) == 0).any()  # whole rows of padding


def test_dtypes(folder):
    for placement in ("memory", "stream"):
        opened = data.open_data(settings(folder, placement=placement))
        for pipeline in (opened.train(BATCH, 0), opened.evaluation(BATCH)):
            batch = fetched(pipeline, take(pipeline, 1))[0]
            dtypes = {name: str(value.dtype) for name, value in batch.items()}
            assert dtypes == {
                "image": "float32",
                "label": "int32",
                "weight": "float32",
                "position": "int32",
            }


def test_auto_keeps_small_sets_in_memory_and_streams_large_ones(folder, monkeypatch):
    def device_data():
        return data.open_data(settings(folder, placement="auto")).train(BATCH, 0).device_data

    assert device_data()["image"].shape == (NUM_TRAIN, 10, 10, 3)
    monkeypatch.setattr("squeeze_jax.data.pipeline.MEMORY_LIMIT", (NUM_TRAIN + NUM_EVAL) * 300 - 1)
    assert device_data() == {}


@pytest.mark.parametrize("placement, workers", [("memory", 2), ("stream", 2), ("stream", 0)])
def test_a_corrupt_image_is_named(folder, tmp_path, placement, workers):
    for path in folder.glob("*/*/*"):
        target = tmp_path / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes() if path.name != "07.png" else b"broken")
    with pytest.raises(UserError, match="^cannot read 2 of 30 images: .*07.png") as caught:
        data.open_data(settings(tmp_path, placement=placement, workers=workers))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("augmentation", [{"pad": 1}, {"augment": ("trivial_augment",)}])
@pytest.mark.parametrize("order, mean", [("grey", MEAN[:1]), ("bgr", MEAN)])
def test_rectangles_stream_as_they_lie_in_memory(folder, augmentation, order, mean):
    """Of either number of channels; what is stored is the resized image, and Pillow's luma."""
    changes = dict(
        resize=(9, 14),
        image_size=(7, 12),
        channel_order=order,
        mean=mean,
        std=(50.0,) * len(mean),
        mirror=True,
        **augmentation,
    )
    found = []
    for placement in ("memory", "stream"):
        opened = data.open_data(settings(folder, placement=placement, **changes))
        train, evaluation = opened.train(BATCH, seed=3), opened.evaluation(5)
        found.append(
            fetched(train, take(train, 3), seed=1) + fetched(evaluation, take(evaluation, 2))
        )
    assert_same(*found)
    assert found[0][0]["image"].shape == (BATCH, 7, 12, len(mean))
    picture = Image.fromarray(opened.eval_source[0][0])
    picture = picture.convert("L") if order == "grey" else picture
    pixels = np.asarray(picture.resize((14, 9), Image.Resampling.BILINEAR), np.float32)
    pixels = pixels.reshape(9, 14, -1)[1:8, 1:13, ::-1]
    expected = (pixels - np.asarray(mean).reshape(1, 1, -1)) / 50
    np.testing.assert_allclose(found[0][3]["image"][0], expected, atol=1e-5)


def test_random_resized_crops_of_a_stream_have_the_nets_shape(folder):
    changes = dict(resize=(10, 12), image_size=(6, 11), channel_order="grey", mean=(9.0,))
    changes |= dict(std=(50.0,), augment=("random_resized_crop",), placement="stream")
    train = data.open_data(settings(folder, **changes)).train(BATCH, seed=3)
    assert fetched(train, take(train, 1), seed=1)[0]["image"].shape == (BATCH, 6, 11, 1)


def test_progress_stays_off_what_is_no_terminal(folder, capsys):
    data.open_data(settings(folder))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"placement": "disk"}, "data.placement"),
        ({"resize_mode": "long"}, "data.resize_mode"),
        ({"channel_order": "grb"}, "data.channel_order"),
        ({"image_size": 11}, "data.image_size"),
        ({"image_size": (8, 11)}, r"data.image_size \(\(8, 11\)\) must .* not exceed data.resize"),
        ({"image_size": (8,)}, r"data.image_size is one number, or height and width; got \(8,\)"),
        ({"image_size": (8, 0)}, "each item of data.image_size is 1 to 4,096; got 0"),
        ({"image_size": "8x9"}, "data.image_size is a number, or a tuple of numbers; got '8x9'"),
        ({"channel_order": "grey"}, r"need one value each .*grey.* luma are about \(18.15,\)"),
        ({"pad": -1}, "data.pad"),
        ({"augment": ("blur",)}, "data.augment: 'blur' is none of random_crop, mirror"),
        ({"augment": ("mirror",), "mirror": True}, "data.augment: 'mirror' is on already"),
        ({"augment": ("random_resized_crop",), "pad": 2}, "data.pad is 2, .*; set it to 0"),
        ({"crop_area": (0.5, 0.1)}, r"data.crop_area is two values.*; got \(0.5, 0.1\)"),
        ({"erase_ratio": (1.0,)}, "data.erase_ratio is two values"),
        ({"std": (1.0, 1.0, 0.0)}, "data.std"),
    ],
)
def test_senseless_settings(folder, changes, words):
    with pytest.raises(UserError, match=words):
        data.open_data(settings(folder, **changes))


def test_senseless_batches(folder):
    opened = data.open_data(settings(folder))
    with pytest.raises(UserError, match="larger than the 21"):
        opened.train(22, 0)
    with pytest.raises(UserError, match="does not divide over 3 processes"):
        opened.train(4, 0, process_index=0, process_count=3)
    with pytest.raises(UserError, match="negative"):
        opened.train(4, -1)
