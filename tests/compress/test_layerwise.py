"""A network that runs one layer at a time computes what the whole network computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from squeeze_jax.compress import layerwise
from squeeze_jax.compress.calibrate import find_layers
from squeeze_jax.compress.layerwise import run_layerwise
from squeeze_jax.network import ModelConfig, build_model

SQUEEZENET = dict(base_e=16, incr_e=8, squeeze_ratio=0.25, conv1_filters=8, conv1_kernel=3)

run_whole = jax.jit(lambda model, images: model(images))
run_layer = jax.jit(lambda layer, x, kernel: layer.linear(x, kernel))


def batches_of(images, *ends):
    return [jnp.asarray(part) for part in np.split(images, ends)]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("squeezenet_v1_0", dict(SQUEEZENET, bypass="none")),
        ("squeezenet_v1_0", dict(SQUEEZENET, bypass="complex", batch_norm=True)),
        ("squeezenet_v1_0", dict(SQUEEZENET, bypass="simple")),
        ("squeezenext_23", dict(width=0.25, groups=2)),
    ],
)
def test_layers_one_after_the_other_make_the_network(name, options):
    """With half of each kernel, as a model has it whose kernels are halved."""
    model, halved = (build_model(ModelConfig(name, options), 5, 0) for _ in range(2))
    for layer in find_layers(halved).values():
        layer.kernel[...] = layer.kernel[...] / 2
    images = np.random.default_rng(0).normal(size=(5, 64, 64, 3)).astype(np.float32)
    seen = {}

    def compute(path, layer, inputs):
        assert path not in seen
        seen[path] = [len(x) for x in inputs]
        return [run_layer(layer, x, layer.kernel[...] / 2) for x in inputs]

    outputs = run_layerwise(model, batches_of(images, 2, 4), compute)  # the last one is smaller
    np.testing.assert_allclose(
        np.concatenate(outputs), run_whole(halved, images), rtol=1e-4, atol=1e-5
    )
    assert seen == dict.fromkeys(find_layers(model), [2, 2, 1])


def test_two_models_of_one_design_share_programs_but_not_weights():
    config = ModelConfig("squeezenet_v1_0", SQUEEZENET)
    images = jnp.ones((1, 64, 64, 3))
    traced = []
    for seed in (0, 1):
        model = build_model(config, 5, seed)
        (logits,) = run_layerwise(
            model, [images], lambda path, layer, xs: [run_layer(layer, xs[0], layer.kernel[...])]
        )
        np.testing.assert_allclose(logits, run_whole(model, images), rtol=1e-4, atol=1e-5)
        traced.append(layerwise._compile.cache_info().misses)
    assert traced[0] == traced[1]


def test_a_model_may_have_constant_arrays():
    class Scaled(nnx.Module):
        def __init__(self):
            self.inner = build_model(ModelConfig("squeezenet_v1_0", SQUEEZENET), 5, 0)

        def __call__(self, x):
            return self.inner(x * np.array([1, 2, 3], np.float32).reshape(1, 1, 1, 3))

    model, images = Scaled(), jnp.ones((1, 64, 64, 3))
    (logits,) = run_layerwise(
        model, [images], lambda path, layer, xs: [run_layer(layer, xs[0], layer.kernel[...])]
    )
    np.testing.assert_allclose(logits, run_whole(model, images), rtol=1e-4, atol=1e-5)
