"""Tests the Huffman coder."""

import itertools

import numpy as np
import pytest

from squeeze_jax.compress.sqz import huffman
from squeeze_jax.errors import UserError

COUNTS = {
    "uniform": np.full(256, 7),
    "geometric": (1e6 * 0.7 ** np.arange(40)).astype(int) + 1,
    "fibonacci": np.array([1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233]),
    "with gaps": np.where(np.arange(300) % 7 == 0, np.arange(300), 0),
    "two": np.array([0, 1, 0, 1_000_000]),
    "drawn": np.random.default_rng(0).integers(0, 1000, 255),
}


def entropy(counts):
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log2(p)).sum())


@pytest.mark.parametrize("name", COUNTS)
def test_words_are_as_long_as_they_must_be(name):
    counts = COUNTS[name]
    lengths = huffman.word_lengths(counts)
    assert ((lengths > 0) == (counts > 0)).all()
    assert sum(2.0 ** -lengths[lengths > 0].astype(float)) == 1  # Kraft
    mean = (counts * lengths).sum() / counts.sum()
    assert entropy(counts) <= mean < entropy(counts) + 1
    order = np.argsort(counts[counts > 0], kind="stable")
    assert (np.diff(lengths[counts > 0][order].astype(int)) <= 0).all() or len(set(counts)) < len(
        counts
    )  # rarer, longer


@pytest.mark.parametrize("name", COUNTS)
def test_no_word_begins_another(name):
    lengths = huffman.word_lengths(COUNTS[name])
    words = sorted(
        f"{word:0{length}b}"
        for word, length in zip(huffman.assign_words(lengths), lengths, strict=True)
        if length
    )
    assert not any(second.startswith(first) for first, second in itertools.pairwise(words))


@pytest.mark.parametrize("name", COUNTS)
def test_symbols_come_back(name):
    counts = np.minimum(COUNTS[name], 500)
    lengths = huffman.word_lengths(counts)
    symbols = np.random.default_rng(1).permutation(np.repeat(np.arange(len(counts)), counts))
    data = huffman.pack(symbols, lengths)
    assert len(data) == -(-int((counts * lengths).sum()) // 8)
    assert (huffman.unpack(data, len(symbols), lengths) == symbols).all()
    for wrong in (data[:-1], data + b"\0"):
        with pytest.raises(UserError):
            huffman.unpack(wrong, len(symbols), lengths)


def test_one_symbol_takes_a_bit():
    lengths = huffman.word_lengths(np.array([0, 9]))
    assert lengths.tolist() == [0, 1] and len(huffman.pack(np.ones(9, int), lengths)) == 2
    assert (huffman.unpack(bytes(2), 9, lengths) == 1).all()


@pytest.mark.parametrize("lengths", [[1, 1, 1], [2, 2, 2], [0, 0, 2], [0, 0, 0], [57] * 2])
def test_lengths_of_no_huffman_code_are_refused(lengths):
    with pytest.raises(UserError, match="not those of a Huffman code"):
        huffman.unpack(b"\0", 2, np.array(lengths, np.uint8))


def test_entries_are_those_of_the_published_format():
    """In the order [out, in]; a filler stands for the zeros that its gap skips, and its own."""
    levels = np.zeros((20, 2), np.int32)
    levels[3, 0], levels[2, 1], levels[19, 1] = 5, -6, 7  # at 3, 22 and 39 in that order
    stored = huffman.make_entries(levels, 4)
    assert list(zip(stored.codes, stored.gaps, strict=True)) == [
        (5, 3),
        (0, 15),
        (-6, 2),
        (0, 15),
        (7, 0),
    ]
    assert list(huffman.make_entries(levels, 5).gaps) == [3, 18, 16]
