# SPDX-License-Identifier: Apache-2.0
"""The loss is the gain in dB, whatever the degradation's strength."""

import math

import pytest
import torch

from common.losses import RelativeError, WeightedLoss

TRUTH = torch.rand(3, 1, 5, 6, 7, generator=torch.Generator().manual_seed(0))


def target(strength):
    degraded = TRUTH + strength * torch.randn(TRUTH.shape, generator=torch.Generator().manual_seed(1))
    return degraded, torch.cat([TRUTH, degraded], dim=1)


@pytest.mark.parametrize("strength", [0.02, 0.2])
def test_half_the_error_is_six_decibels_at_any_strength(strength):
    degraded, both = target(strength)
    loss = RelativeError(eps=0)((TRUTH + degraded) / 2, both)
    assert 10 / math.log(10) * float(-loss) == pytest.approx(6.0206, abs=1e-3)


def test_the_input_itself_gains_nothing():
    degraded, both = target(0.1)
    assert float(RelativeError()(degraded, both)) == pytest.approx(0, abs=1e-6)


def test_samples_count_alike():
    degraded, both = target(0.1)
    made = degraded.clone()
    made[0] = TRUTH[0] + 0.1 * (degraded[0] - TRUTH[0])
    assert float(RelativeError(eps=0)(made, both)) == pytest.approx(math.log(0.01) / 3, rel=1e-4)


def test_an_input_without_error_has_a_finite_loss_and_gradient():
    made = TRUTH.clone().requires_grad_()
    loss = RelativeError()(made, torch.cat([TRUTH, TRUTH], dim=1))
    loss.backward()
    assert math.isfinite(float(loss)) and made.grad.isfinite().all()


def test_a_weighted_loss_gives_it_all_channels():
    degraded, both = target(0.1)
    terms = WeightedLoss({"relative": RelativeError(), "l1": torch.nn.L1Loss()}, {"relative": 1, "l1": 1})
    assert terms(degraded, both).isfinite()


def test_a_target_without_the_input_is_refused():
    with pytest.raises(ValueError, match="2 channels"):
        RelativeError()(TRUTH, TRUTH)
