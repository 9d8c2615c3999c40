"""Tests calibration and quantization.

Compares curvatures with automatic differentiation and with exact divergences.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from squeeze_jax.compress import adaround, calibrate, gptq, quantize, rate_search
from squeeze_jax.compress.sqz import container
from squeeze_jax.compress.sqz.quantized_tensor import QuantizedTensor
from squeeze_jax.errors import UserError
from squeeze_jax.models import layers
from squeeze_jax.network import Network, Preprocessing, build_model, forward, split_model

PREPROCESSING = Preprocessing(32, 32, "squash", "rgb", (127.5,) * 3, (127.5,) * 3)
SMALL = dict(
    name="squeezenet_v1_0",
    base_e=8,
    incr_e=8,
    conv1_filters=8,
    conv1_kernel=3,
    squeeze_ratio=0.5,
    conv10_relu=False,
    init="he",
)


def make_net(model, classes=5, seed=0) -> Network:
    _, params, stats = split_model(build_model(model, classes, seed))
    return Network(model, [f"class {i}" for i in range(classes)], PREPROCESSING, params, stats)


@pytest.fixture(scope="module")
def images():
    # Smooth like photographs: GPTQ needs correlated inputs.
    noise = np.random.default_rng(0).normal(size=(48, 8, 8, 3)).astype(np.float32)
    return np.asarray(jax.image.resize(noise, (48, 32, 32, 3), "linear"))


@pytest.fixture(scope="module")
def net():
    return make_net(SMALL)


@pytest.fixture(scope="module")
def calibrated(net, images):
    return calibrate.calibrate(net, images[:24], samples=2)


def random_problem(k=3, outputs=2, seed=0):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(1, k, k))
    return (
        rng.normal(size=(1, k, outputs)),
        root @ root.transpose(0, 2, 1) + 0.1 * np.eye(k),
        rng.uniform(0.5, 2, size=(1, outputs)),
    )


def distortion(targets, hessians, importance, levels, step):
    errors = levels * step - targets
    return 0.5 * float(np.einsum("bo,bko,bkl,blo->", importance, errors, hessians, errors))


@pytest.mark.parametrize("seed", range(5))
def test_rounding_reports_the_distortion_it_causes_and_nears_the_best_there_is(seed):
    given = random_problem(seed=seed)
    step = 0.4
    rounded = gptq.quantize_at(gptq.make_problem(*given), step)
    found = distortion(*given, rounded.levels, rounded.step)
    assert found == pytest.approx(rounded.distortion, rel=1e-6)
    plain = np.rint(given[0] / step)
    choices = [
        plain + np.reshape(moves, (1, 3, 1)) for moves in itertools.product((-1, 0, 1), repeat=3)
    ]
    best = sum(  # outputs don't interact
        min(
            distortion(
                given[0][..., o : o + 1], given[1], given[2][:, o : o + 1], c[..., o : o + 1], step
            )
            for c in choices
        )
        for o in (0, 1)
    )
    assert best <= found * (1 + 1e-5)
    assert found <= 2 * best


@pytest.mark.parametrize("seed", range(5))
def test_no_other_level_of_one_weight_is_better(seed):
    given = random_problem(seed=seed)
    rounded = gptq.quantize_at(gptq.make_problem(*given), 0.4)
    for at in np.ndindex(rounded.levels.shape):
        for change in (-1, 1):
            levels = rounded.levels.copy()
            levels[at] += change
            assert distortion(*given, levels, 0.4) >= rounded.distortion * (1 - 1e-6)


def test_error_feedback_beats_the_nearest_levels_on_correlated_inputs():
    targets, hessians, importance = random_problem(k=40, outputs=30)
    rounded = gptq.quantize_at(gptq.make_problem(targets, hessians, importance), 0.5)
    assert rounded.distortion < 0.5 * distortion(
        targets, hessians, importance, np.rint(targets / 0.5), 0.5
    )


def test_without_correlations_the_nearest_level_is_taken_and_no_level_exceeds_the_limit():
    targets, _, importance = random_problem(k=20, outputs=10)
    given = gptq.make_problem(targets, np.eye(20)[None], importance)
    np.testing.assert_array_equal(gptq.quantize_at(given, 0.1).levels, np.rint(targets / 0.1))
    assert np.abs(gptq.quantize_at(given, 0.1, limit=3).levels).max() == 3


def test_a_dearer_bit_takes_fewer_of_them_at_more_distortion():
    given = gptq.make_problem(*random_problem(k=60, outputs=50))
    results = [gptq.search_step(given, multiplier) for multiplier in (1e-4, 1e-3, 1e-2, 1e-1)]
    assert [r.bits for r in results] == sorted((r.bits for r in results), reverse=True)
    assert [r.distortion for r in results] == sorted(r.distortion for r in results)
    assert results[0].bits > 2 * results[-1].bits


@pytest.mark.parametrize("blocks", [1, 2])
def test_soft_choices_cost_less_than_one_at_a_time(blocks):
    multiplier = 3.0  # two bits a weight, half of them zeros
    problems = [random_problem(k=40, outputs=50, seed=seed) for seed in range(blocks)]
    targets, hessians, importance = (np.concatenate(each) for each in zip(*problems, strict=True))
    given = gptq.make_problem(targets, hessians, importance)
    found = gptq.search_step(given, multiplier)
    refined = adaround.refine(given, found, multiplier)
    assert refined.step == found.step
    # What it says of itself is so.
    told = distortion(targets, hessians, importance, refined.levels, refined.step)
    assert told == pytest.approx(refined.distortion, rel=1e-6)
    costs = [each.distortion + multiplier * each.bits for each in (found, refined)]
    assert costs[1] < 0.95 * costs[0]


def test_soft_choices_of_levels_that_cost_nothing_stay():
    targets, hessians, importance = random_problem(k=6, outputs=4)
    given = gptq.make_problem(targets, hessians, importance * 1e-300)
    found = gptq.search_step(given, 1e-3)
    assert adaround.refine(given, found, 1e-3) is found


def test_a_layer_of_zeros_stays_one():
    _, hessians, importance = random_problem(k=6, outputs=4)
    rounded = gptq.search_step(gptq.make_problem(np.zeros((1, 6, 4)), hessians, importance), 1e-3)
    assert not rounded.levels.any() and rounded.bits == 0 and rounded.step > 0


def test_a_layer_that_no_output_depends_on_costs_nothing():
    targets, hessians, importance = random_problem(k=6, outputs=4)
    unused = gptq.make_problem(targets, hessians, importance * 1e-300)
    rounded = gptq.search_step(unused, 1e-3)
    assert not rounded.levels.any() and rounded.bits == 0 and 0 <= rounded.distortion < 1e-250


@pytest.mark.slow
@pytest.mark.parametrize(
    "layer, size",
    [
        (dict(kernel_size=3, stride=2, padding=1), 9),
        (dict(kernel_size=(1, 3), padding=(0, 1), groups=2), 6),
        (dict(kernel_size=1), 4),
        (None, 4),
    ],
)
def test_patches_times_matrices_are_the_layer(layer, size):
    rng = np.random.default_rng(0)
    rngs = jax.random.key(0)
    options = dict(kernel_init=lambda key, shape, dtype: jax.random.normal(rngs, shape, dtype))
    if layer is None:
        module, x = (
            layers.Dense(12, 6, rngs=nnx.Rngs(0), **options),
            rng.normal(size=(2, 12)).astype(np.float32),
        )
    else:
        module, x = (
            layers.Conv(4, 6, rngs=nnx.Rngs(0), **layer, **options),
            rng.normal(size=(2, size, size + 2, 4)).astype(np.float32),
        )
    seen, matrices = (
        calibrate.im2col(module, x),
        calibrate.to_matrices(module, np.asarray(module.kernel[...])),
    )
    outputs = jnp.einsum("npbk,bko->npbo", seen, matrices)
    np.testing.assert_allclose(
        np.asarray(outputs).reshape(-1), np.asarray(module(x)).reshape(-1), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_array_equal(calibrate.from_matrices(module, matrices), module.kernel[...])
    if layer is not None:  # some of the positions are gathered
        for step in (2, 5):
            np.testing.assert_array_equal(calibrate.im2col(module, x, step), seen[:, ::step])


def test_a_large_fully_connected_layer_comes_in_equal_blocks():
    assert calibrate.dense_blocks(4096) == 1
    assert calibrate.dense_blocks(9216) == 2
    assert calibrate.dense_blocks(25088) == 7  # VGG's fc6


@pytest.mark.parametrize(
    "make, shape",
    [
        (functools.partial(layers.Conv, 4, 6, 3, groups=2), (3, 3, 4)),  # one position
        (functools.partial(layers.Conv, 4, 6, 3), (5, 4, 4)),
        (functools.partial(layers.Dense, 12, 6), (12,)),
        (functools.partial(layers.Dense, 8_000, 3), (8_000,)),  # two blocks
    ],
)
def test_moments_are_those_of_each_images_gradient_by_the_kernel(make, shape):
    rng = np.random.default_rng(0)
    module = make(rngs=nnx.Rngs(0), kernel_init=jax.nn.initializers.lecun_normal())
    x = rng.normal(size=(3, *shape)).astype(np.float32)
    slopes = rng.normal(size=module(x).shape).astype(np.float32)
    kernels = [
        jax.grad(lambda kernel: (module.linear(x[i : i + 1], kernel) * slopes[i : i + 1]).sum())(  # noqa: B023
            module.kernel[...]
        )
        for i in range(3)
    ]
    each = np.stack([calibrate.to_matrices(module, np.asarray(kernel)) for kernel in kernels])
    gradients, outputs, *_ = calibrate._gradient_moments(calibrate.im2col(module, x), slopes)
    np.testing.assert_allclose(
        gradients, np.einsum("nbko,nblo->bkl", each, each, optimize=True), rtol=1e-4, atol=1e-3
    )
    np.testing.assert_allclose(outputs, (each**2).sum(axis=(0, 2)), rtol=1e-4, atol=1e-3)


@pytest.mark.slow
def test_gradients_are_those_of_the_fisher_information(net, images):
    """Compares with the exact sum over labels of p times the gradient of log p, by autodiff."""
    few = images[:2]
    found = calibrate.calibrate(net, np.tile(few, (64, 1, 1, 1)), samples=4).layers[
        "fire9/squeeze"
    ]  # 256 directions of each
    graphdef, params, stats = split_model(net.module())

    @jax.jit
    def log_p(params, image):
        return jax.nn.log_softmax(forward(graphdef, params, stats, image[None])[0][0])

    exact, jacobian = 0.0, jax.jit(jax.jacrev(log_p))
    for image in few:
        kernels = jacobian(params, image)["fire9"]["squeeze"]["kernel"]
        gradients = np.asarray(kernels)[:, 0, 0]  # [labels, in, out]
        p = np.exp(np.asarray(log_p(params, image)))
        exact = exact + np.einsum("l,lko,ljo->kj", p, gradients, gradients) / len(few)
    assert np.abs(found.gradients[0] - exact).max() < 0.15 * np.abs(exact).max()
    assert found.outputs.sum() == pytest.approx(np.trace(exact), rel=0.1)


@pytest.mark.slow
def test_calibrated_files_lose_less_than_plain_ones_of_their_size(net, calibrated, images):
    held_out = images[24:]
    plain = rate_search.to_bits(net, None, 5)
    calibrated_file = rate_search.to_size(net, calibrated, len(plain))
    assert 0.9 * len(plain) < len(calibrated_file) <= len(plain)
    losses = [
        quantize.divergence_from(net, held_out)(container.read(content))
        for content in (plain, calibrated_file)
    ]
    assert losses[1] < 0.5 * losses[0]


@pytest.mark.slow
def test_the_drift_of_rounded_layers_is_made_up_for(net, calibrated, images, monkeypatch):
    """`quantize` comes closer to the network than rounding each layer alone, as `estimate` does."""
    together = quantize.quantize(net, calibrated, 3e-5)
    monkeypatch.setattr(
        quantize, "_measure_inputs", lambda layer, own, rounded, weights: next(still)
    )
    names = calibrate.find_layers(net.module())
    still = iter(
        [
            quantize._assume_exact_inputs(calibrated.layers[path])
            for path in calibrate._find_output_shapes(net)
        ]
    )
    alone = quantize.quantize(net, calibrated, 3e-5)
    assert names.keys() == calibrated.layers.keys()
    losses = [
        quantize.divergence_from(net, images[24:])(container.read(container.write(net, coded)))
        for coded in (together, alone)
    ]
    assert losses[0] < losses[1]


@pytest.mark.slow
def test_a_loss_is_kept_to(net, calibrated, images):
    content = rate_search.to_loss(net, calibrated, 1e-3, images[24:])
    assert 0.5e-3 < quantize.divergence_from(net, images[24:])(container.read(content)) <= 1e-3
    assert len(content) < len(container.lossless(net)) / 3


@pytest.mark.slow
def test_a_loss_below_what_rounding_reaches_is_none(net, calibrated, images):
    assert rate_search.to_loss(net, calibrated, 1e-30, images[24:]) == container.lossless(net)


@pytest.mark.slow
def test_what_fits_anyway_is_lossless_and_what_cannot_fit_is_an_error(net, calibrated):
    whole = container.lossless(net)
    assert rate_search.to_size(net, calibrated, len(whole)) == whole
    assert rate_search.to_bits(container.read(whole), None, 16) != whole
    with pytest.raises(UserError, match="without its kernels"):
        rate_search.to_size(net, calibrated, 100)
    with pytest.raises(UserError, match="2 to 16"):
        rate_search.to_bits(net, None, 1)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_bits_bound_the_levels(net, bits):
    coded = quantize.to_bits(net, None, bits)
    levels = [tensor.levels for tensor in coded.values() if isinstance(tensor, QuantizedTensor)]
    assert all(np.abs(level).max() == 2 ** (bits - 1) - 1 for level in levels)
    whole = container.paths(net.params, net.stats)
    for path, tensor in coded.items():
        if isinstance(tensor, QuantizedTensor):
            assert np.abs(tensor.values() - whole[path]).max() <= tensor.dequantiser.step * 0.5001


@pytest.mark.slow
def test_a_net_of_few_values_is_not_made_larger(net, calibrated, images):
    few = container.read(container.write(net, quantize.to_bits(net, None, 3)))
    whole = container.lossless(few)
    again = calibrate.calibrate(few, images[:24])
    assert rate_search.to_bits(few, None, 8) == whole
    assert len(rate_search.to_loss(few, again, 1e-6, images[24:])) <= len(whole)


@pytest.mark.slow
def test_an_update_is_much_smaller_than_the_whole_net(net, calibrated, images):
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda x: x + (0.02 * x.std() * rng.normal(size=x.shape)).astype(np.float32), net.params
    )
    changed = Network(net.model, net.class_names, net.preprocessing, params, net.stats)
    again = calibrate.calibrate(changed, images[:24])
    held_out = images[24:]
    whole, update = (
        rate_search.to_loss(changed, again, 1e-3, held_out),
        rate_search.to_loss(changed, again, 1e-3, held_out, base=net),
    )
    assert len(update) < 0.6 * len(whole)
    assert quantize.divergence_from(changed, held_out)(container.read(update, base=net)) <= 1e-3


def test_a_kernel_of_the_base_takes_no_levels(net, calibrated):
    params = jax.tree.map(np.copy, net.params)
    params["conv10"]["kernel"] *= 1.1
    changed = Network(net.model, net.class_names, net.preprocessing, params, net.stats)
    for coded in (
        quantize.to_bits(changed, calibrated, 4, base=net),
        quantize.quantize(changed, calibrated, 1e-5, base=net),
    ):
        moved = {
            path
            for path, tensor in coded.items()
            if isinstance(tensor, QuantizedTensor) and tensor.levels.any()
        }
        assert moved == {"params/conv10/kernel"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        dict(name="squeezenext_23", width=0.25, blocks=(1, 1, 1, 1)),
        dict(name="mobilenet_v1", width=0.125),
        dict(
            name="squeezenet_v1_0",
            base_e=8,
            incr_e=8,
            conv1_filters=8,
            conv1_kernel=3,
            pct3x3=0.0,
            bypass="complex",
            batch_norm=True,
        ),
    ],
)
def test_every_kind_of_layer_is_rounded(model, images):
    net = make_net(model)
    calibrated = calibrate.calibrate(net, images[:8], samples=1)
    coded = quantize.quantize(net, calibrated, 1e-6)
    kernels = [path for path in container.paths(net.params, net.stats) if path.endswith("kernel")]
    assert all(isinstance(coded[path], QuantizedTensor) for path in kernels)
    read = container.read(container.write(net, coded))
    assert quantize.divergence_from(net, images[8:16])(read) < 0.05


def biased(net) -> Network:
    """Returns the net with biases that are not 0, as a trained one has."""
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda x: rng.normal(size=x.shape).astype(np.float32) / 4 if x.ndim == 1 else x, net.params
    )
    return Network(net.model, net.class_names, net.preprocessing, params, net.stats)


@pytest.mark.slow
def test_biases_are_rounded_and_take_fewer_bytes(net, calibrated, images):
    net = biased(net)
    coded = quantize.quantize(net, calibrated, 1e-4)
    own = container.paths(net.params, net.stats)
    biases = {path: np.float16(own[path]) for path in coded if path.endswith("bias")}
    assert len(biases) == len(calibrated.layers)
    assert all(coded[path].dtype == np.float16 for path in biases)
    assert len(container.write(net, coded)) < len(container.write(net, coded | biases))


@pytest.mark.slow
def test_the_moment_of_a_bias_is_that_of_its_gradient(net, images):
    """Compares with the exact Fisher information of conv10's biases, which the mean divides."""
    found = calibrate.calibrate(net, np.tile(images[:1], (64, 1, 1, 1)), samples=4)
    p = np.exp(np.asarray(jax.nn.log_softmax(net.module()(images[:1]))[0], np.float64))
    np.testing.assert_allclose(found.layers["conv10"].biases, p * (1 - p), rtol=0.2)


def test_a_bias_corrects_the_weighted_mean_error():
    own, rounded = np.random.default_rng(0).normal(size=(2, 3, 2, 2, 5)).astype(np.float32)
    weights = np.random.default_rng(1).uniform(size=(3, 4)).astype(np.float32)
    batches = (np.split(each, [2]) for each in (own, rounded, weights))
    error = quantize._average_error(*batches)
    expected = np.average((own - rounded).reshape(12, 5), axis=0, weights=weights.reshape(-1))
    np.testing.assert_allclose(error, expected, rtol=1e-5, atol=1e-6)


def test_no_images_is_an_error(net, images):
    with pytest.raises(UserError, match="at least one image"):
        calibrate.calibrate(net, images[:0])
