"""How a batch is divided over devices, micro-batches and BatchNorm's groups."""

import pytest

from squeeze_jax.errors import UserError
from squeeze_jax.train import TrainConfig
from squeeze_jax.train.batches import BatchDivision, divide_batch, fitting_batch_size


@pytest.mark.parametrize(
    ("batch", "group", "accumulate", "devices", "expected"),
    [
        (128, 16, 0, 1, BatchDivision(128, 16, 1)),
        (128, 16, 4, 2, BatchDivision(64, 16, 1)),
        (128, 16, 0, 8, BatchDivision(16, 16, 1)),
        (32, 16, 0, 8, BatchDivision(4, 4, 4)),  # a group spans four devices
        (128, 0, 0, 2, BatchDivision(64, 64, 2)),  # the whole batch
        (12, 16, 0, 2, BatchDivision(6, 6, 2)),  # the batch is smaller than a group
    ],
)
def test_groups_lie_on_one_device_or_span_whole_ones(batch, group, accumulate, devices, expected):
    recipe = TrainConfig(batch_size=batch, bn_group_size=group, grad_accum_steps=accumulate)
    assert divide_batch(recipe, devices, True) == expected


@pytest.mark.parametrize(
    ("batch", "group", "accumulate", "devices", "message"),
    [
        (40, 16, 0, 1, "1 device.* in groups of train.bn_group_size 16.*: 32 and 48"),
        (48, 16, 0, 8, "8 device.*: 32 and 64"),  # a group would span 2 2/3 devices
        (32, 16, 4, 1, "x train.grad_accum_steps 4 in groups.*: 64"),
        (64, 10**11, 2, 1, "grad_accum_steps 2 in groups.*; set a smaller train.bn_group_size or"),
        (64, 0, 2, 1, "bn_group_size 0.* does not go with train.grad_accum_steps 2; set one"),
    ],
)
def test_what_does_not_divide_is_refused(batch, group, accumulate, devices, message):
    recipe = TrainConfig(batch_size=batch, bn_group_size=group, grad_accum_steps=accumulate)
    with pytest.raises(UserError, match=message):
        divide_batch(recipe, devices, True)


def test_a_net_without_batch_norm_has_no_groups():
    assert divide_batch(TrainConfig(batch_size=40), 2, False) == BatchDivision(20, 1, 1)


def test_a_small_set_has_whole_groups():
    recipe = TrainConfig(batch_size=64)
    assert fitting_batch_size(recipe, 1000, 2, True) == 64
    assert fitting_batch_size(recipe, 55, 2, True) == 32
    assert fitting_batch_size(recipe, 55, 2, False) == 54
    assert fitting_batch_size(recipe, 11, 2, True) == 10
    assert fitting_batch_size(recipe, 1, 2, True) == 64


@pytest.mark.parametrize("mixing", [{"mixup": 0.2}, {"cutmix": 1.0}])
def test_a_devices_share_has_whole_pairs(mixing):
    recipe = TrainConfig(batch_size=36, **mixing)
    assert divide_batch(recipe, 2, False) == BatchDivision(18, 1, 1)
    with pytest.raises(UserError, match="4 device.* with pairs for train.mixup .*: 32 and 40$"):
        divide_batch(recipe, 4, False)
    assert fitting_batch_size(recipe, 35, 1, False) == 34
    assert fitting_batch_size(recipe, 35, 4, False) == 32
