"""The SVD baseline: the nearest matrix of its rank, in as few parameters as asked for."""

import io

import numpy as np
import pytest

from squeeze_jax.compress.svd import low_rank
from squeeze_jax.network import leaves_by_path

RNG = np.random.default_rng(0)
PARAMS = {
    "conv1": {
        "kernel": RNG.standard_normal((3, 3, 8, 40)).astype(np.float32),
        "bias": np.ones(40, np.float32),
    },
    "fc": {"kernel": RNG.standard_normal((120, 30)).astype(np.float32)},
    "thin": {"kernel": RNG.standard_normal((1, 1, 2, 2)).astype(np.float32)},
}


@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.8])
def test_the_nearest_of_its_rank(fraction):
    """Eckart and Young: what is missing is the sum of squares of the singular values left out."""
    params, stored = low_rank(PARAMS, fraction)
    for name in ("conv1", "fc"):
        kernel, path = PARAMS[name]["kernel"], f"{name}/kernel"
        matrix = kernel.reshape(-1, kernel.shape[-1])
        rank = stored[f"{path}/left"].shape[1]
        assert stored[f"{path}/left"].size + stored[f"{path}/right"].size <= fraction * kernel.size
        assert (rank + 1) * sum(matrix.shape) > fraction * kernel.size
        values = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
        error = np.sum((params[name]["kernel"].astype(np.float64) - kernel) ** 2)
        assert error == pytest.approx(np.sum(values[rank:] ** 2), rel=1e-4)
    np.testing.assert_array_equal(params["thin"]["kernel"], PARAMS["thin"]["kernel"])
    np.testing.assert_array_equal(params["conv1"]["bias"], PARAMS["conv1"]["bias"])


def test_the_file_gives_the_same_kernels():
    params, stored = low_rank(PARAMS, 0.3)
    file = io.BytesIO()
    np.savez(file, **stored)
    read = np.load(io.BytesIO(file.getvalue()), allow_pickle=False)
    assert all(array.dtype == np.float32 for array in read.values())
    for path, kernel in leaves_by_path(params).items():
        found = (
            read[path]
            if path in read
            else (read[f"{path}/left"] @ read[f"{path}/right"]).reshape(kernel.shape)
        )
        np.testing.assert_array_equal(found, kernel)
