"""A teacher: the loss and the step against their definitions, its limits, and what is refused."""

import dataclasses
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from squeeze_jax.data import open_data
from squeeze_jax.errors import UserError
from squeeze_jax.network import Network, Preprocessing, build_model, split_model
from squeeze_jax.network.preprocessing import preprocess, shows_the_same
from squeeze_jax.train import (
    Interrupted,
    TrialConfig,
    check_config,
    compile_trial,
    metrics,
    open_teacher,
    parallel,
    train,
)
from squeeze_jax.train.checkpoint import Checkpoints, save_network
from squeeze_jax.train.compiled import training_pipeline
from squeeze_jax.train.teacher import as_teacher
from tests.train.divided_batches import states

DIGITS = tuple(str(digit) for digit in range(10))
SHUFFLED = tuple("3957120846")
# Neither the mean, nor the deviation, nor the order of the channels of the config.
PREPROCESSING = Preprocessing(
    32, 32, "squash", "bgr", mean=(104.0, 117.0, 123.0), std=(58.0, 57.0, 64.0)
)


@pytest.fixture
def net(config):
    """A teacher of another design: BatchNorm with statistics of its own, dropout, other classes."""
    model = config.model.to_dict() | {"base_e": 12, "batch_norm": True, "dropout": 0.5}
    _, params, stats = split_model(build_model(model, 10, seed=7))
    stats = jax.tree.map(lambda x: x - np.float32(0.25), stats)
    return Network(model, SHUFFLED, PREPROCESSING, params, stats)


@pytest.fixture
def taught(config, net, tmp_path):
    """The config of a net with that teacher, and nothing random but the order of images."""
    save_network(net, tmp_path / "teacher")
    config.train.update(
        teacher=str(tmp_path / "teacher"), teacher_temperature=2.5, teacher_weight=0.7
    )
    return config


def parsed(config):
    return TrialConfig.parse(config)


def assert_close(a, b, rtol=2e-4):
    """Equal to rounding, relative to each array's largest entry."""
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol * max(1e-6, float(np.abs(y).max())))


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_loss_is_pytorchs_kl_div(temperature):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    net, teacher = rng.normal(0, 5, (2, 64, 10)).astype(np.float32)
    softened = [
        torch.log_softmax(torch.tensor(x, dtype=torch.float64) / temperature, 1)
        for x in (net, teacher)
    ]
    expected = torch.nn.functional.kl_div(*softened, reduction="none", log_target=True).sum(1)
    np.testing.assert_allclose(
        metrics.distillation(jnp.asarray(net), jnp.asarray(teacher), temperature),
        temperature**2 * expected,
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.slow
def test_a_step_follows_the_gradient_of_the_definition(taught, net, digits):
    """The teacher is called as a module, on coloured images that it preprocesses itself.

    With one micro-batch and with four.
    """
    colours = np.random.default_rng(0).uniform(0.2, 1, (digits.num_train, 1, 1, 3))
    coloured = (digits.train_device_data["image"] * colours).astype(np.uint8)
    digits = dataclasses.replace(
        digits, train_device_data=digits.train_device_data | {"image": coloured}
    )
    taught.train.update(momentum=0.0, weight_decay=0.0, clip_norm=0.0, warmup=0.0)
    config = parsed(taught)
    start = compile_trial(config, digits, jax.devices()[:1]).initial_state(config)
    (batch,) = zip(digits.train(32, 0).batches(), range(1), strict=False)
    index = batch[0]["index"]
    raw, labels = (digits.train_device_data[name][index] for name in ("image", "label"))
    bgr = (raw[..., ::-1].astype(np.float64) - net.preprocessing.mean) / net.preprocessing.std
    found = np.asarray(jax.jit(net.module())(bgr.astype(np.float32)))
    logits = found[:, [SHUFFLED.index(name) for name in DIGITS]]
    model = Network(taught.model.to_dict(), DIGITS, net.preprocessing, start.params, start.stats)
    images = (raw.astype(np.float32) - taught.data.mean[0]) / np.float32(taught.data.std[0])

    def loss(params):
        own = dataclasses.replace(model, params=params).module()(jnp.asarray(images), train=True)
        right = jnp.take_along_axis(jax.nn.softmax(own), jnp.asarray(labels)[:, None], 1)
        p, q = jax.nn.softmax(logits / 2.5), jax.nn.softmax(own / 2.5)
        divergence = jnp.sum(p * jnp.log(p / q), 1)
        return 0.3 * jnp.mean(-jnp.log(right)) + 0.7 * 2.5**2 * jnp.mean(divergence)

    value, gradient = jax.jit(jax.value_and_grad(loss))(start.params)
    expected = jax.tree.map(lambda w, g: w - 0.05 * g, start.params, gradient)
    moved = jax.tree.map(lambda a, b: a - b, expected, start.params)
    for parts in (1, 4):
        taught.train.grad_accum_steps = parts
        (state,) = states(taught, digits, jax.devices()[:1], steps=1)
        assert float(state.running["loss"]) == pytest.approx(float(value), rel=1e-5)
        assert_close(jax.tree.map(lambda a, b: a - b, state.params, start.params), moved, 2e-3)


@pytest.mark.parametrize("size", [48, 24, (40, 24)])
def test_a_teacher_sees_the_images_at_its_own_resolution(taught, net, digits, size):
    """As Pillow resizes them, to the rounding of its bytes."""
    own = dataclasses.replace(PREPROCESSING, image_size=size, resize=size)
    resized = dataclasses.replace(net, class_names=DIGITS, preprocessing=own)
    teacher = as_teacher(resized, digits, "it")
    raw = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    images = (raw.astype(np.float32) - taught.data.mean[0]) / np.float32(taught.data.std[0])
    found = teacher.logits(teacher.weights, jnp.asarray(images))
    expected = resized.module()(jnp.stack([preprocess(image, own) for image in raw]))
    np.testing.assert_allclose(found, expected, atol=0.02 * float(np.ptp(expected)))


@pytest.mark.parametrize(
    ("own", "given", "same"),
    [
        (dict(resize=64, image_size=64), dict(resize=32, image_size=32), True),
        (dict(resize=256, image_size=227), dict(resize=144, image_size=128), True),
        (dict(resize=144, image_size=128), dict(resize=112, image_size=100), True),
        (dict(resize=256, image_size=224), dict(resize=112, image_size=100), False),  # it has 98
        (dict(resize=256, image_size=256), dict(resize=144, image_size=128), False),
        (dict(resize=64, image_size=(64, 48)), dict(resize=32, image_size=32), False),
        (dict(resize=(64, 48), image_size=(64, 48)), dict(resize=32, image_size=32), True),
        (
            dict(resize=(64, 48), image_size=(64, 48), resize_mode="short"),
            dict(resize=32, image_size=32, resize_mode="short"),
            False,  # a picture's sides are cut off for one of them
        ),
        (dict(resize_mode="short"), {}, False),
    ],
)
def test_a_part_of_a_picture_is_the_same_at_any_resolution(own, given, same):
    one, other = (dataclasses.replace(PREPROCESSING, **changes) for changes in (given, own))
    assert shows_the_same(one, other) == same


@pytest.mark.slow
def test_a_weight_of_0_is_no_teacher_and_1_no_labels(taught, digits):
    def last(data=digits):
        *_, state = states(taught, data, jax.devices())
        return state.params

    other = dict(digits.train_device_data)
    other["label"] = np.random.default_rng(0).permutation(other["label"])
    relabelled = dataclasses.replace(digits, train_device_data=other)
    taught.train.teacher_weight = 1.0
    assert_equal(last(), last(relabelled))
    taught.train.teacher_weight = 0.0
    without = last()
    taught.train.teacher = ""
    assert_close(without, last(), 1e-6)


@pytest.mark.slow
def test_two_devices_equal_one(taught):
    """The net's dropout, crops and flips on; the teacher sees the same images without dropout."""
    taught.model.dropout = 0.5
    taught.data.update(pad=2, mirror=True)
    data = open_data(parsed(taught).data)
    for one, two in zip(
        states(taught, data, jax.devices()[:1]), states(taught, data, jax.devices()), strict=True
    ):
        assert_close(two.params, one.params)
        assert_close(two.running, one.running)


@pytest.mark.slow
def test_bfloat16_is_near(taught, digits):
    losses = []
    for dtype in ("float32", "bfloat16"):
        taught.train.dtype = dtype
        (state,) = states(taught, digits, jax.devices(), steps=1)
        losses.append(float(state.running["loss"]))
    assert losses[1] == pytest.approx(losses[0], rel=0.02) and losses[0] != losses[1]


@pytest.mark.slow
@pytest.mark.parametrize("views", [0, 1])
def test_a_stopped_run_continues_to_the_same_bits(taught, digits, tmp_path, views):
    """With an average of the weights, which is a part of the state, and remembered logits."""
    taught.model.dropout = 0.5
    taught.train.update(checkpoint_every=2, ema_decay=0.9, teacher_views=views, batch_size=512)

    def run(name, **options):
        compiled = compile_trial(parsed(taught), digits, jax.devices())
        result = train(compiled, parsed(taught), digits, tmp_path / name, **options)
        with Checkpoints(tmp_path / name / "checkpoints") as checkpoints:
            return result, jax.device_get(checkpoints.restore(compiled.initial_shapes))

    unbroken, final = run("unbroken")
    with pytest.raises(Interrupted):
        run("broken", asked_to_stop=lambda step: signal.SIGTERM if step == 4 else None)
    resumed, state = run("broken")
    assert_equal(state, final)
    assert (resumed["loss"], resumed["top1"]) == (unbroken["loss"], unbroken["top1"])


@pytest.mark.slow
def test_remembered_logits_are_the_teachers(taught, digits):
    """Without augmentation each view is the image: a teacher that is asked each time says the same.

    Two batches are an epoch, which leaves some images out.
    """

    def order(epoch, part):
        batches = digits.train(512, taught.seed).batches(2 * epoch + part)
        return next(iter(batches))["index"]

    taught.train.batch_size = 512
    asked = list(states(taught, digits, jax.devices(), steps=6))
    taught.train.teacher_views = 2
    remembered = list(states(taught, digits, jax.devices(), steps=6))
    for one, other in zip(asked, remembered, strict=True):
        assert_close(other.params, one.params)
        assert_close(other.running, one.running)
    known = [~np.isnan(state.teacher_views).any(2) for state in remembered]
    assert [[int(view.sum()) for view in state] for state in known[:4]] == [
        *([512, 0], [1024, 0]),
        *([1024, 512], [1024, 1024]),
    ]
    # The third epoch asks for those alone that both left out.
    third = jnp.concatenate([order(2, part) for part in (0, 1)])
    left_out = ~known[3][:, third].any(0)
    assert 0 < left_out.sum() == known[5].sum() - known[3].sum()
    both = known[5].all(0)
    assert_close(*(remembered[5].teacher_views[view][both] for view in (0, 1)))


@pytest.mark.slow
def test_a_teacher_is_asked_once_for_each_view(taught):
    """With crops and flips, and batches that leave 29 of the 1,437 images out of each epoch."""
    taught.data.update(pad=2, mirror=True)
    taught.train.update(batch_size=704, teacher_views=3)
    trial = parsed(taught)
    data = open_data(trial.data)
    compiled = compile_trial(trial, data, jax.devices()[:1])
    state, batches = compiled.initial_state(trial), training_pipeline(trial, data).batches()
    weights = compiled.teacher_weights(trial)
    for step in range(10):
        batch = parallel.divide(next(batches), jax.devices()[:1])
        if step == 6:  # the fourth epoch, without a teacher
            weights = jax.tree.map(lambda x: x * jnp.nan, weights)
            before = state.teacher_views.copy()
            assert np.isnan(before).any(2).sum() == 3 * 29
            # Two views of an image are alike in one case of fifty.
            assert 0.9 < (before[0] != before[1]).any(1).mean() < 1
        state = compiled.train_step(
            state, compiled.train_device_data, batch, np.float32(0.01), weights
        )
    assert_equal(state.teacher_views, before)
    assert np.isfinite(state.running["loss"])


@pytest.mark.slow
def test_two_devices_remember_what_one_does(taught):
    taught.data.update(pad=2, mirror=True)
    taught.train.update(batch_size=512, teacher_views=1)
    data = open_data(parsed(taught).data)
    one, two = (list(states(taught, data, jax.devices()[:count], steps=4))[-1] for count in (1, 2))
    for name in ("params", "running", "teacher_views"):
        assert_close(getattr(two, name), getattr(one, name))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data.placement": "stream"}, "the training images in memory, and they are streamed"),
        ({"train.mixup": 0.2}, "remembers single images, and train.mixup mixes them"),
        ({"train.cutmix": 1.0}, "and train.cutmix mixes them"),
    ],
)
def test_views_of_which_nothing_could_be_remembered_are_refused(taught, changes, words):
    taught.train.teacher_views = 4
    taught.update_from_flattened_dict(changes)
    data = open_data(parsed(taught).data)
    with pytest.raises(UserError, match=words):
        check_config(parsed(taught), data, jax.devices()[:1])


def test_teachers_are_equal_but_for_their_weights(taught, net, digits, tmp_path):
    first = open_teacher(parsed(taught), digits)
    others = {
        "weights": dataclasses.replace(net, params=jax.tree.map(lambda x: x + 1, net.params)),
        "classes": dataclasses.replace(net, class_names=DIGITS),
        "mean": dataclasses.replace(
            net, preprocessing=dataclasses.replace(PREPROCESSING, mean=(1.0, 2.0, 3.0))
        ),
    }
    equal = {}
    for name, other in others.items():
        save_network(other, tmp_path / name)
        taught.train.teacher = str(tmp_path / name)
        equal[name] = open_teacher(parsed(taught), digits) == first
    assert equal == {"weights": True, "classes": False, "mean": False}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"preprocessing": {"image_size": 28}},
            r"another part of each picture, data.image_size 28 of data.resize 32 \(squash\), than "
            r"is set here, data.image_size 32 of data.resize 32 \(squash\)",
        ),
        ({"preprocessing": {"resize": 40}}, "data.image_size 32 of data.resize 40"),
        ({"preprocessing": {"image_size": (32, 28)}}, r"data.image_size \(32, 28\) of data.resize"),
        ({"preprocessing": {"image_size": (64, 48), "resize": (64, 64)}}, r"\(64, 48\)"),
        (
            {"preprocessing": {"channel_order": "grey", "mean": (78.0,), "std": (96.0,)}},
            "data.channel_order 'grey', and 'rgb' is set here",
        ),
        ({"preprocessing": {"resize_mode": "short"}}, r"data.resize 32 \(short\), than"),
        (
            {"class_names": (*DIGITS[:9], "ten")},
            r"digits/train has classes that the network does not know: '9'; .* rename the classes$",
        ),
        ({"num_classes": 12}, "has 12 classes, and digits/train 10: a teacher must know the same"),
        ({"teacher": "/nowhere"}, "/nowhere is no checkpoint"),
    ],
)
def test_a_teacher_that_cannot_teach_is_one_clear_line(
    taught, net, digits, tmp_path, changes, words
):
    if path := changes.get("teacher"):
        taught.train.teacher = path
    else:
        count = changes.get("num_classes", 10)
        _, params, stats = split_model(build_model(net.model, count))
        given = dataclasses.replace(PREPROCESSING, **changes.get("preprocessing", {}))
        names = changes.get("class_names", tuple(map(str, range(count))))
        save_network(Network(net.model, names, given, params, stats), tmp_path / "other")
        taught.train.teacher = str(tmp_path / "other")
    with pytest.raises(UserError, match=words) as error:
        check_config(parsed(taught), digits, jax.devices())
    assert "\n" not in str(error.value)
