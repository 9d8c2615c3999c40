"""Accuracy of a trained net on a data set, against the training loop's own and against NumPy."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from squeeze_jax.data import ArraySource, evaluation_data, load_split, relabel
from squeeze_jax.errors import UserError
from squeeze_jax.network import Network, Preprocessing, build_model, preprocessing, split_model
from squeeze_jax.train import evaluation


@pytest.fixture
def net(config):
    _, params, stats = split_model(build_model(config.model, 10, seed=1))
    return Network(
        config.model.to_dict(),
        tuple(map(str, range(10))),
        Preprocessing.from_metadata(config.data),
        params,
        stats,
    )


@pytest.mark.slow
def test_evaluation_is_numpys(net):
    """Top-1, top-5 and loss of every image, from the module called on one batch."""
    source = load_split("digits", "", None)
    images, labels = zip(*source.read(range(len(source))), strict=True)
    result = evaluation.evaluate(
        net.classifier(), evaluation_data(source, net.preprocessing), batch_size=77
    )
    prepared = np.stack([preprocessing.preprocess(image, net.preprocessing) for image in images])
    logits = np.asarray(jax.jit(net.module())(prepared), np.float64)
    order, labels = np.argsort(-logits, axis=1), np.asarray(labels)
    assert result["images"] == len(labels) == 360
    assert result["top1"] == pytest.approx(100 * np.mean(order[:, 0] == labels))
    assert result["top5"] == pytest.approx(
        100 * np.mean((order[:, :5] == labels[:, None]).any(axis=1))
    )
    log_sums = np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1)
    assert result["eval_loss"] == pytest.approx(
        np.mean(log_sums - logits[np.arange(360), labels]), rel=1e-4
    )


@pytest.mark.slow
def test_evaluation_by_class_is_scikit_learns(net):
    """Of a network that numbers the classes of the set otherwise, whose last batch is padded."""
    names = tuple("7203456189")
    net = dataclasses.replace(net, class_names=names)
    source = relabel(load_split("digits", "", None), names)
    images, labels = zip(*source.read(range(len(source))), strict=True)
    result = evaluation.evaluate(
        net.classifier(), evaluation_data(source, net.preprocessing), batch_size=77
    )
    prepared = np.stack([preprocessing.preprocess(image, net.preprocessing) for image in images])
    expected = confusion_matrix(labels, np.asarray(net.module()(prepared)).argmax(1))
    found = np.zeros((10, 10), int)
    for label, answer, count in result["confusion"]:
        found[label, answer] = count
    np.testing.assert_array_equal(found, expected)
    assert [each["name"] for each in result["classes"]] == list(names)
    assert [each["images"] for each in result["classes"]] == list(expected.sum(1))
    np.testing.assert_allclose(
        [each["top1"] for each in result["classes"]],
        100 * expected.diagonal() / expected.sum(1),
        rtol=1e-6,
    )
    json.dumps(result)


def test_probabilities_sum_to_one(net):
    rows = evaluation.probabilities(
        net.classifier(), [np.full(net.input_shape, value, np.float32) for value in (0, 1)]
    )
    assert rows.shape == (2, 10)
    np.testing.assert_allclose(rows.sum(1), 1, rtol=1e-5)


@pytest.mark.slow
def test_outputs_that_are_not_finite_have_no_accuracy(net):
    params = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), net.params)
    broken = dataclasses.replace(net, params=params).classifier()
    data = evaluation_data(load_split("digits", "", None), net.preprocessing)
    with pytest.raises(UserError, match="outputs are not finite"):
        evaluation.evaluate(broken, data)


def named(*names):
    return ArraySource(
        "set", names, np.zeros((len(names), 4, 4, 3), np.uint8), np.arange(len(names))
    )


def test_a_relabelled_source_has_the_networks_labels():
    net_classes = ("n00000001 tench", "n00000002 goldfish", "n00000003 crane", "n00000004 crane")
    assert [relabel(named("n00000004", "goldfish"), net_classes)[i][1] for i in range(2)] == [3, 1]
    numbered = relabel(named("w", "x", "y", "z"), tuple("0123"), has_class_names=False)
    assert [label for _, label in numbered.read(range(4))] == [0, 1, 2, 3]
    with pytest.raises(UserError, match="the network does not know: 'cat'"):
        relabel(named("tench", "cat"), net_classes)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("digits", "", "val"), "splits train and test, not 'val'"),
        (("folder", "/nowhere", None), "no such image folder"),
    ],
)
def test_bad_data_is_one_clear_line(arguments, words):
    with pytest.raises(UserError, match=words):
        load_split(*arguments)
