# SPDX-License-Identifier: Apache-2.0
"""Adversarial games and the gradient penalty against values computed by hand."""

from __future__ import annotations

import math

import pytest
import torch
from monai.networks.nets import PatchDiscriminator

from common.losses import CriterionGAN, WassersteinGAN, gradient_penalty, last_logits

REAL, FAKE = torch.tensor([[2.0], [-1.0]]), torch.tensor([[0.5], [-3.0]])


def test_wasserstein():
    game = WassersteinGAN()
    assert float(game.discriminator(REAL, FAKE)) == pytest.approx(-1.25 - 0.5)
    assert float(game.generator(FAKE)) == pytest.approx(1.25)


def test_least_squares_sees_the_logits_themselves():
    game = CriterionGAN("least_squares")
    # MONAI's default would put a LeakyReLU on -1 and -3
    assert float(game.discriminator(REAL, FAKE)) == pytest.approx(0.5 * ((1 + 4) / 2 + (0.25 + 9) / 2))
    assert float(game.generator(FAKE)) == pytest.approx((0.25 + 16) / 2)


def test_cross_entropy_of_logits():
    game = CriterionGAN("bce", factor=1.0)

    def softplus(x):
        return math.log1p(math.exp(x))

    expected = (softplus(-2) + softplus(1)) / 2 + (softplus(0.5) + softplus(-3)) / 2
    assert float(game.discriminator(REAL, FAKE)) == pytest.approx(expected)
    assert float(game.generator(FAKE)) == pytest.approx((softplus(-0.5) + softplus(3)) / 2)
    assert math.isfinite(float(game.generator(torch.tensor([[-200.0]]))))


def test_unknown_criterion():
    with pytest.raises(ValueError, match="criterion"):
        CriterionGAN("hinge")


def test_penalty_norm_goes_over_all_elements_of_a_sample():
    slope = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)

    def critic(x):  # gradient 3 and 4 in the two voxels of a sample: norm 5
        return (x * slope).flatten(1).sum(dim=1, keepdim=True)

    real, fake = torch.rand(3, 2, 1, 1), torch.rand(3, 2, 1, 1)
    assert float(gradient_penalty(critic, real, fake)) == pytest.approx(16)


def test_penalty_is_per_sample_on_interpolates():
    seen = []

    def critic(x):
        seen.append(x)
        return x.square().flatten(1).sum(dim=1, keepdim=True)

    generator = torch.Generator().manual_seed(3)
    gradient_penalty(critic, torch.ones(50, 1, 4), torch.zeros(50, 1, 4), generator)
    between = seen[0].detach()
    assert (between.amax(dim=2) == between.amin(dim=2)).all()  # one share for a whole sample
    assert between.min() < 0.2
    assert between.max() > 0.8
    assert len(between[:, 0, 0].unique()) > 40  # and another for each


def test_penalty_reaches_the_critic_in_float32():
    critic = PatchDiscriminator(2, channels=4, in_channels=1, num_layers_d=1, norm="INSTANCE")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        penalty = gradient_penalty(critic, torch.rand(2, 1, 16, 16), torch.rand(2, 1, 16, 16).bfloat16())
    assert penalty.dtype == torch.float32
    penalty.backward()
    assert all(torch.isfinite(p.grad).all() for p in critic.parameters() if p.grad is not None)


def test_flat_critic_has_a_finite_penalty():
    weight = torch.zeros((), requires_grad=True)
    penalty = gradient_penalty(lambda x: weight * x.flatten(1).sum(1), torch.rand(2, 1, 3), torch.rand(2, 1, 3))
    penalty.backward()
    assert float(penalty) == pytest.approx(1, abs=1e-4)
    assert torch.isfinite(weight.grad)


def test_logits_stand_last_in_a_list():
    assert last_logits([torch.zeros(3), torch.ones(2).bfloat16()]).tolist() == [1.0, 1.0]
    assert last_logits([torch.ones(2).bfloat16()]).dtype == torch.float32
