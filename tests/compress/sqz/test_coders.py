"""Levels through both coders and back, whatever their shape and distribution."""

import numpy as np
import pytest

from squeeze_jax.compress.sqz import arithmetic, contexts, huffman
from squeeze_jax.compress.sqz.quantized_tensor import (
    LIMIT,
    Codebook,
    QuantizedTensor,
    UniformScale,
    find_codebook,
    tensor_spec,
)
from squeeze_jax.errors import UserError

SHAPES = [
    (0,),
    (1,),
    (7,),
    (5, 9),
    (9, 5),
    (3, 3, 4, 6),
    (1, 1, 20, 3),
    (7, 7, 3, 2),
    (2, 3, 4, 5, 6),
    (3, 0, 4),
    (300, 40),
    (),
    (3, 3, 2, 70),
]
DRAWS = {
    "zeros": lambda random, shape: np.zeros(shape),
    "one value": lambda random, shape: np.full(shape, -3),
    "signs": lambda random, shape: random.choice([-1, 1], shape),
    "sparse": lambda random, shape: (
        random.integers(-100, 101, shape) * (random.random(shape) < 0.1)
    ),
    "dense": lambda random, shape: random.integers(-127, 128, shape),
    "positive": lambda random, shape: random.geometric(0.3, shape),
    "long tail": lambda random, shape: np.clip(random.standard_cauchy(shape) * 50, -LIMIT, LIMIT),
    "extremes": lambda random, shape: random.choice([-LIMIT, LIMIT, 0], shape),
    "few large": lambda random, shape: random.choice([0, 1, 30_000], shape, p=[0.9, 0.09, 0.01]),
}


def draw_levels(draw: str, shape: tuple[int, ...], seed: int = 0) -> QuantizedTensor:
    levels = np.asarray(DRAWS[draw](np.random.default_rng(seed), shape)).astype(np.int32)
    return QuantizedTensor(levels, UniformScale(0.25))


def draw_codebook_levels(draw: str, shape: tuple[int, ...]) -> QuantizedTensor:
    """With a codebook of values in irregular distances, of which not all need occur."""
    levels = draw_levels(draw, shape).levels
    below, above = max(0, -int(levels.min(initial=0))), max(0, int(levels.max(initial=0)))
    random = np.random.default_rng(1)
    negative, positive = (
        np.cumsum(random.exponential(0.01, n).astype(np.float32) + np.float32(1e-6))
        for n in (below, above)
    )
    return QuantizedTensor(
        levels, Codebook(np.concatenate([-negative[::-1], [0], positive]).astype(np.float32))
    )


def same(a, b) -> bool:
    if isinstance(a, QuantizedTensor):
        books = [
            t.dequantiser.codebook
            if isinstance(t.dequantiser, Codebook)
            else np.float32(t.dequantiser.step)
            for t in (a, b)
        ]
        return (
            a.levels.dtype == b.levels.dtype
            and np.array_equal(a.levels, b.levels)
            and books[0].tobytes() == books[1].tobytes()
        )
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def check_arithmetic(tensors, bits=10) -> int:
    specs, payload = arithmetic.encode(tensors, bits)
    decoded = arithmetic.decode(payload, specs, bits)
    assert len(tensors) == len(decoded) and all(map(same, tensors, decoded))
    return len(payload)


@pytest.mark.parametrize("draw", DRAWS)
def test_uniform_levels_through_the_arithmetic_coder(draw):
    check_arithmetic([draw_levels(draw, shape) for shape in SHAPES])


@pytest.mark.parametrize("draw", ["zeros", "one value", "sparse", "dense", "positive"])
def test_shared_levels_through_both_coders(draw):
    tensors = [draw_codebook_levels(draw, shape) for shape in SHAPES]
    check_arithmetic(tensors)
    for bits in (None, *huffman.GAP_BITS):
        specs, payload = huffman.encode(tensors, bits)
        assert all(map(same, tensors, huffman.decode(payload, specs)))


@pytest.mark.parametrize("draw", [draw for draw in DRAWS if draw not in ("long tail", "extremes")])
def test_uniform_levels_through_the_huffman_coder(draw):
    tensors = [draw_levels(draw, shape) for shape in SHAPES]
    specs, payload = huffman.encode(tensors)
    assert all(map(same, tensors, huffman.decode(payload, specs)))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_numbers_go_through_both_coders_as_they_are(dtype):
    """Every exponent, infinities, NaNs with their payload, both zeros."""
    unsigned = f"u{np.dtype(dtype).itemsize}"
    random = (
        np.random.default_rng(0)
        .integers(0, 2 ** (8 * np.dtype(dtype).itemsize), (10, 70), unsigned)
        .view(dtype)
    )
    tensors = [
        random,
        np.array([0.0, -0.0, np.inf, -np.inf, np.nan], dtype),
        np.zeros((0, 3), dtype),
        np.array(1.5, dtype),
    ]
    check_arithmetic(tensors)
    specs, payload = huffman.encode(tensors)
    assert all(map(same, tensors, huffman.decode(payload, specs)))


def test_a_model_forgets_nothing_it_should_not():
    """Codes tensors of all kinds, in any order, also with a table that is far too small."""
    random = np.random.default_rng(3)
    tensors = [
        draw_codebook_levels("dense", (30, 40)),
        draw_levels("long tail", (3, 3, 8, 8)),
        random.normal(0, 1, 99).astype(np.float32),
    ]
    tensors += [
        draw_levels("sparse", (40, 30)),
        random.normal(0, 1, 50).astype(np.float16),
        draw_codebook_levels("sparse", (3, 3, 10, 20)),
    ]
    for order in range(3):
        check_arithmetic(
            [tensors[i] for i in np.random.default_rng(order).permutation(len(tensors))]
        )


@pytest.mark.slow
def test_what_can_be_predicted_costs_little():
    """Zeros next to nothing, fair signs a bit, and noise no more than it holds."""
    size = 100_000
    assert check_arithmetic([draw_levels("zeros", (size // 100, 100))]) <= 4
    assert check_arithmetic([draw_levels("one value", (size // 100, 100))]) < 150
    assert check_arithmetic([draw_levels("signs", (size // 100, 100))]) < size / 8 * 1.03
    assert (
        check_arithmetic([draw_levels("dense", (size // 100, 100))])
        < size * np.log2(255) / 8 * 1.03
    )
    mask = np.random.default_rng(0).random((1000, 100)) < np.linspace(
        0.02, 0.6, 100
    )  # columns of their own density
    entropy = (
        -sum(p * np.log2(p) + (1 - p) * np.log2(1 - p) for p in np.linspace(0.02, 0.6, 100))
        * 1000
        / 8
    )
    assert (
        check_arithmetic([QuantizedTensor(mask.astype(np.int32), UniformScale(1.0))])
        < entropy * 1.05
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("columns", [False, True])
def test_zeros_among_plain_numbers_cost_their_places(dtype, columns):
    """Zeros cost the entropy of their places on top of the other numbers.

    They cost less where some columns have more of them.
    """
    random = np.random.default_rng(0)
    numbers = random.normal(0, 0.05, (400, 100)).astype(dtype)
    p = np.linspace(0.02, 0.6, 100) if columns else np.full(100, 0.3)
    kept = random.random(numbers.shape) < p
    entropy = -(p * np.log2(p) + (1 - p) * np.log2(1 - p)).mean() * numbers.size / 8
    pruned = np.where(kept, numbers, numbers.dtype.type(0))
    places = check_arithmetic([pruned]) - check_arithmetic([numbers[kept]])
    assert places < entropy * (1.1 if columns else 1.02)
    shuffled = random.permutation(pruned.reshape(-1)).reshape(pruned.shape)
    assert not columns or check_arithmetic([pruned]) < check_arithmetic([shuffled])


def test_codebooks_cost_less_than_their_values():
    """Ascending values in like distances: log2 of the permutations less, and more."""
    tensor = find_codebook(
        np.repeat(
            np.sort(np.random.default_rng(0).normal(0, 0.1, 250).astype(np.float32)), 5
        ).reshape(125, 10)
    )
    assert (
        check_arithmetic([QuantizedTensor(np.zeros((1, 1250), np.int32), tensor.dequantiser)])
        < 250 * 4 * 0.75
    )


def test_a_code_of_another_length_is_refused():
    """Bytes too many always, too few unless what is left happens to be a code of other tensors."""
    tensors = [draw_levels("dense", (30, 40)), np.ones(5, np.float32)]
    specs, payload = arithmetic.encode(tensors, 10)
    refused = 0
    for size in range(0, len(payload), 50):
        try:
            assert not all(map(same, tensors, arithmetic.decode(payload[:size], specs, 10)))
        except UserError as e:
            refused += "does not end where its tensors do" in str(e)
    assert refused > 0.8 * len(payload) / 50
    with pytest.raises(UserError, match="does not end where its tensors do"):
        arithmetic.decode(payload + b"\0", specs, 10)

    specs, payload = huffman.encode(tensors)
    for wrong in (payload[:-1], payload[:-2], payload[:100], payload + b"\0"):
        with pytest.raises(UserError, match="ends early|does not end"):
            huffman.decode(wrong, specs)


def test_edges_lie_between_the_values_of_a_codebook():
    values = np.cumsum(np.random.default_rng(0).exponential(0.01, 200)).astype(np.float32)
    edges = contexts.find_edges(values.view(np.uint32).astype(np.int64))
    unit = 2.0 ** np.floor(np.log2(values[-1])) / 2**20
    np.testing.assert_allclose(edges[1:-1] * unit, (values[1:] + values[:-1]) / 2, atol=2 * unit)
    assert len(edges) == 201 and (np.diff(edges) >= 0).all()


def test_shared_values_are_found_exactly():
    values = np.array([-0.3, 0.0, 0.1, 1e-40, 7.0], np.float32)
    weights = values[np.random.default_rng(0).integers(0, 5, (3, 3, 4, 8))]
    found = find_codebook(weights)
    assert found.values().tobytes() == weights.tobytes() and (found.below, found.above) == (1, 3)
    assert (found.levels == 0).sum() == (weights == 0).sum()


@pytest.mark.parametrize("odd", [-0.0, np.nan, np.inf])
def test_what_no_codebook_holds_is_not_shared(odd):
    weights = np.ones((10, 10), np.float32)
    weights[3, 4] = odd
    assert find_codebook(weights) is None


def test_many_values_are_not_shared():
    assert find_codebook(np.arange(100, dtype=np.float32)) is None
    assert find_codebook(np.array(0.5, np.float32)) is None


@pytest.mark.parametrize(
    "tensor",
    [
        QuantizedTensor(np.zeros(3, np.int64), UniformScale(1.0)),
        QuantizedTensor(np.full(3, LIMIT + 1, np.int32), UniformScale(1.0)),
        QuantizedTensor(np.full(3, LIMIT, np.int32), UniformScale(1e38)),
        QuantizedTensor(np.zeros(3, np.int32), UniformScale(0.0)),
        QuantizedTensor(np.zeros(3, np.int32), UniformScale(float("nan"))),
        QuantizedTensor(np.zeros(3, np.int32), Codebook(np.array([1, 2], np.float32))),
        QuantizedTensor(np.zeros(3, np.int32), Codebook(np.array([-0.0, 2], np.float32))),
        QuantizedTensor(np.zeros(3, np.int32), Codebook(np.array([0, 2, 1], np.float32))),
        QuantizedTensor(np.zeros(3, np.int32), Codebook(np.array([0, np.inf], np.float32))),
        QuantizedTensor(np.full(3, 2, np.int32), Codebook(np.array([0, 1], np.float32))),
        QuantizedTensor(np.zeros(3, np.int32), Codebook(np.arange(300, dtype=np.float32))),
        QuantizedTensor(np.zeros((1,) * 9, np.int32), UniformScale(1.0)),
        np.zeros(3),
    ],
)
def test_what_no_file_holds_is_refused(tensor):
    with pytest.raises(UserError):
        tensor_spec(tensor)
