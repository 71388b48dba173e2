# SPDX-License-Identifier: Apache-2.0
"""The loss that weighs all noise levels alike."""

import pytest
import torch

from rslm_denoise_lib.losses import PSNRLoss


def test_decibels_are_averaged_over_samples():
    truth = torch.zeros(2, 1, 4, 4, 4)
    image = torch.stack([torch.full((1, 4, 4, 4), 0.1), torch.full((1, 4, 4, 4), 0.01)])
    assert float(PSNRLoss(1e-12)(image, truth)) == pytest.approx(-30, abs=1e-4)  # 20 and 40 dB


def test_a_perfect_copy_has_a_finite_loss_and_gradient():
    image = torch.rand(2, 1, 4, 4, requires_grad=True)
    loss = PSNRLoss()(image, image.detach())
    loss.backward()
    assert float(loss) == pytest.approx(-50)
    assert torch.isfinite(image.grad).all()


def test_floor_must_be_positive():
    with pytest.raises(ValueError, match="floor must be positive"):
        PSNRLoss(0)
