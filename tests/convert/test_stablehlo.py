"""StableHLO files: that they compute what Flax does, for any batch, where there is only JAX."""

import subprocess
import sys
from dataclasses import replace

import jax
import numpy as np
import pytest

from squeeze_jax.convert import metadata, verify
from squeeze_jax.convert.exporters import stablehlo
from squeeze_jax.errors import UserError
from squeeze_jax.network import imagenet
from tests.convert.random_networks import random_net

# What a program without this package does; any import of it, or of Flax, fails.
ELSEWHERE = """
import json, sys, zipfile
sys.modules.update(dict.fromkeys(("flax", "squeeze_jax")))
import jax, numpy as np
run = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
np.save(sys.argv[3], run.call(np.load(sys.argv[2])))
print(json.loads(zipfile.ZipFile(sys.argv[1]).read("metadata.json"))["class_names"][7])
"""


def small_net(name, **options):
    return random_net(
        {"name": name, **options},
        num_classes=10,
        preprocessing=replace(imagenet.TORCH, image_size=64),
    )


def some_images(net, count):
    return np.random.default_rng(1).normal(0, 1, (count, *net.input_shape)).astype(np.float32)


@pytest.fixture(scope="module")
def net():
    return small_net("squeezenet_v1_1", batch_norm=True)


@pytest.fixture(scope="module")
def data(net):
    return stablehlo.to_stablehlo(net)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("squeezenet_complex_bypass", {}),
        ("squeezenext_23_ida", {"blocks": (1, 1, 1, 1), "groups": 2}),
        ("mobilenet_v1", {}),
    ],
)
def test_computes_what_flax_computes(name, options):
    """With random BatchNorm statistics."""
    net = small_net(name, **options)
    assert (
        verify.check(net, stablehlo.make_runner(stablehlo.to_stablehlo(net)), some_images(net, 1))
        <= 1e-4
    )


@pytest.mark.slow
def test_runs_where_there_is_only_jax(tmp_path, net, data):
    (tmp_path / "net.stablehlo").write_bytes(metadata.attach(data, net))
    images = some_images(net, 2)
    np.save(tmp_path / "images.npy", images)
    files = [str(tmp_path / name) for name in ("net.stablehlo", "images.npy", "logits.npy")]
    result = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *files], cwd=tmp_path, capture_output=True, text=True
    )
    assert (result.returncode, result.stdout) == (0, f"{net.class_names[7]}\n"), result.stderr
    np.testing.assert_allclose(
        np.load(tmp_path / "logits.npy"), verify.logits(net, images), rtol=1e-4, atol=1e-5
    )


@pytest.mark.slow
def test_any_batch_on_any_platform(net, data):
    """One file.

    The shape's first dimension is a name, and the program is made for each platform.
    """
    program = jax.export.deserialize(bytearray(data))
    assert str(program.in_avals[0].shape) == "(batch, 64, 64, 3)" and program.platforms == (
        "cpu",
        "cuda",
        "tpu",
    )
    images = some_images(net, 3)
    run = stablehlo.make_runner(data)
    np.testing.assert_allclose(
        run(images),
        np.concatenate([run(images[i : i + 1]) for i in range(3)]),
        rtol=1e-4,
        atol=1e-5,
    )


def test_a_fixed_batch_is_filled(net, data):
    images = some_images(net, 3)
    fixed = stablehlo.to_stablehlo(net, batch=2)
    assert jax.export.deserialize(bytearray(fixed)).in_avals[0].shape == (2, *net.input_shape)
    np.testing.assert_allclose(
        stablehlo.make_runner(fixed)(images),
        stablehlo.make_runner(data)(images),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: b"junk" * 100, lambda data: data[: len(data) // 2]]
)
def test_other_files_are_refused(data, damage):
    with pytest.raises(UserError, match="not a StableHLO export"):
        stablehlo.make_runner(damage(data))
