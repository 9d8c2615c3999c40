"""The plan of the C engine: no two live tensors share a byte, and RAM is what the rules give."""

import numpy as np
import pytest
from flax import nnx

from squeeze_jax.cost import design_costs
from squeeze_jax.cost.arena import ALIGNMENT, Buffer, least_bytes, place
from squeeze_jax.cost.engine import design_graph, make_plan
from squeeze_jax.errors import UserError
from squeeze_jax.network import build_model

CIFAR = dict(
    name="squeezenet_v1_0",
    bypass="complex",
    batch_norm=True,
    base_e=32,
    incr_e=32,
    conv1_filters=32,
    conv1_kernel=3,
    conv1_pad=1,
    conv1_stride=1,
    squeeze_ratio=0.25,
    pool_after=["fire2", "fire5"],
)
NETS = [
    (CIFAR, 32),
    (dict(name="squeezenet_v1_0"), 67),
    (dict(name="squeezenet_v1_1", batch_norm=True), 64),
    (dict(name="squeezenet_simple_bypass"), 64),
    (dict(name="squeezenet_complex_bypass"), 64),
    (dict(name="squeezenext_23"), 64),
    (dict(name="squeezenext_23_ida", groups=2), 64),
    (dict(name="mobilenet_v1"), 64),
]


def plan_of(model, size, coded=True, classes=10):
    module = nnx.eval_shape(lambda: build_model(model, classes))
    return make_plan(design_graph(module, (size, size, 3)), coded)


def check_arena(buffers, arena):
    for i, (first, start) in enumerate(zip(buffers, arena.offsets, strict=True)):
        assert start % ALIGNMENT == 0 and start + first.size <= arena.size
        for second, other in zip(buffers[:i], arena.offsets[:i], strict=True):
            together = first.first <= second.last and second.first <= first.last
            apart = start + first.size <= other or other + second.size <= start
            assert not together or apart or not first.size or not second.size


def test_random_buffers_do_not_overlap():
    random = np.random.default_rng(0)
    for count in (0, 1, 2, 10, 60):
        buffers = [
            Buffer(int(size), int(min(ends)), int(max(ends)))
            for size, *ends in random.integers(0, 40, (count, 3))
        ]
        arena = place(buffers)
        check_arena(buffers, arena)
        assert least_bytes(buffers) <= arena.size <= sum(b.size + 3 for b in buffers)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "size"), NETS, ids=lambda value: str(value)[:40])
def test_tensors_of_a_net_do_not_overlap(model, size):
    """Neither do slices of joined tensors; and every tensor is whole when it is read."""
    plan = plan_of(model, size)
    check_arena(plan.buffers, plan.arena)
    assert plan.arena.size == least_bytes(plan.buffers)
    written: dict[int, set[int]] = {0: set(range(3))}
    for number, step in enumerate(plan.steps):
        source = plan.graph.operators[plan.graph.operators[step.operators[0]].inputs[0]]
        assert {*range(step.reads.offset, step.reads.offset + source.shape[2])} <= written[
            step.reads.buffer
        ]
        for where in (step.reads, step.beside, step.writes):
            if where is not None and where.buffer >= 0:
                assert plan.buffers[where.buffer].first <= number
                assert plan.buffers[where.buffer].last >= number
        depth = plan.graph.operators[step.operators[-1]].shape[2]
        channels = set(range(step.writes.offset, step.writes.offset + depth))
        filled = written.setdefault(step.writes.buffer, set())
        in_place = step.beside is not None and step.beside.buffer == step.writes.buffer
        assert in_place or not filled & channels
        filled |= channels
    assert written[-1] == set(range(10))


def test_a_pool_a_mean_and_a_sum_take_no_tensor():
    """conv1's rows are pooled as they come, a bypass is added in place, conv10 is only counted."""
    plan = plan_of(CIFAR, 32)
    kinds = [tuple(plan.graph.operators[i].kind for i in step.operators) for step in plan.steps]
    assert kinds.count(("conv", "add")) == 12 and kinds.count(("conv", "add", "max_pool")) == 4
    assert kinds[-1] == ("conv", "mean") and {len(kind) for kind in kinds} == {1, 2, 3}
    in_place = [
        step for step in plan.steps if step.beside and step.beside.buffer == step.writes.buffer
    ]
    assert len(in_place) == 12


@pytest.mark.parametrize("bypass", ["none", "simple"])
def test_ram_of_squeezenet_by_hand(bypass):
    """At 227 the fullest step is fire4's squeeze layer beside fire3's output, with any bypass."""
    plan = plan_of(dict(name="squeezenet_v1_0", bypass=bypass), 227, coded=False, classes=1000)
    assert plan.ram_bytes == 55 * 55 * (128 + 32) + 1000


def test_costs_have_the_ram_where_the_engine_runs_the_net():
    assert design_costs(CIFAR, 10, (32, 32, 3))["engine_ram_bytes"] == plan_of(CIFAR, 32).ram_bytes
    assert "engine_ram_bytes" not in design_costs({"name": "alexnet"}, 10, (227, 227, 3))


def test_grows_with_the_image_and_not_with_the_classes():
    small, large = plan_of(CIFAR, 32), plan_of(CIFAR, 64)
    assert 3.5 < large.ram_bytes / small.ram_bytes < 4.5
    assert plan_of(CIFAR, 32, classes=100).arena.size == small.arena.size


@pytest.mark.parametrize(("name", "lacks"), [("alexnet", "square"), ("tiny_darknet", "ge")])
def test_other_operators_are_refused(name, lacks):
    with pytest.raises(UserError, match=f"^the C engine has no {lacks} as this model uses it$"):
        plan_of(dict(name=name), 224)
