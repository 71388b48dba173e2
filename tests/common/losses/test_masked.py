# SPDX-License-Identifier: Apache-2.0
"""L1 by region, against values computed by hand."""

from __future__ import annotations

import pytest
import torch

from common.losses import MaskedL1Loss, WeightedLoss


def case():
    image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]], [[[1.0, 1.0], [1.0, 1.0]]]])
    truth = torch.tensor([[[[0.0, 0.0], [0.0, 0.0]]], [[[0.0, 0.0], [0.0, 5.0]]]])
    tumour = torch.tensor([[[[0.0, 0.0], [0.0, 1.0]]], [[[0.0, 0.0], [0.0, 0.0]]]])
    return image, torch.cat([truth, tumour], dim=1)


def test_values_by_hand():
    # first image: tumour 4, outside (1 + 2 + 3) / 3 = 2; second: no tumour, outside (1 + 1 + 1 + 4) / 4
    image, target = case()
    assert float(MaskedL1Loss(0.5)(image, target)) == pytest.approx((0.5 * 4 + 0.5 * 2 + 0.5 * 1.75) / 2)
    assert float(MaskedL1Loss(0.25)(image, target)) == pytest.approx((0.25 * 4 + 0.75 * 2 + 0.75 * 1.75) / 2)
    assert float(MaskedL1Loss(1)(image, target)) == pytest.approx(2)


def test_a_tumour_of_any_size_weighs_the_same():
    truth = torch.zeros(1, 1, 8, 8)
    for edge in (1, 4):
        tumour = torch.zeros(1, 1, 8, 8)
        tumour[..., :edge, :edge] = 1
        assert float(MaskedL1Loss()(truth + 0.2 * tumour, torch.cat([truth, tumour], 1))) == pytest.approx(0.1)


@pytest.mark.parametrize("tumour", [0.0, 1.0])
def test_gradient_is_finite_where_one_region_is_empty(tumour):
    image = torch.rand(2, 1, 6, 6, requires_grad=True)
    MaskedL1Loss()(image, torch.cat([-image.detach(), torch.full_like(image, tumour)], 1)).backward()
    assert torch.isfinite(image.grad).all() and (image.grad != 0).all()


def test_weighted_loss_hands_masks_to_those_who_ask():
    image, target = case()
    losses = {"l1": torch.nn.L1Loss(), "masked": MaskedL1Loss()}
    terms = WeightedLoss(losses, {"l1": 1, "masked": 2}).terms(image, target)
    assert float(terms["l1"]) == pytest.approx(float((image - target[:, :1]).abs().mean()))
    assert float(terms["masked"]) == pytest.approx(float(MaskedL1Loss()(image, target)))


def test_settings_and_shapes_that_cannot_work():
    with pytest.raises(ValueError, match="weight must lie"):
        MaskedL1Loss(1.5)
    with pytest.raises(ValueError, match="with its mask"):
        MaskedL1Loss()(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4))
