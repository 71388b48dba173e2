# SPDX-License-Identifier: Apache-2.0
"""Spectra compared: by hand, and where amplitudes vanish."""

from __future__ import annotations

import math

import pytest
import torch

from common.losses import FrequencyLoss


def wave(frequency, edge=32):
    return torch.cos(2 * math.pi * frequency * torch.arange(edge) / edge).expand(1, 1, edge, edge).clone()


def test_values_by_hand():
    # a cosine of amplitude 1 has two entries of edge^2 / 2; discs of radius 4: 49 entries of the lattice
    low, edge = 49, 32
    loss = FrequencyLoss(radius=4, factor=1)
    assert float(loss(wave(2), torch.zeros(1, 1, edge, edge))) == pytest.approx(0.5 * edge**2 / low, rel=1e-4)
    high = edge**2 - low
    assert float(loss(wave(9), torch.zeros(1, 1, edge, edge))) == pytest.approx(0.5 * edge**2 / high, rel=1e-4)
    only_low = FrequencyLoss(4, low=1, high=0, factor=1)
    assert float(only_low(wave(2), 0 * wave(2))) == pytest.approx(edge**2 / low, rel=1e-4)
    ortho = FrequencyLoss(4, norm="ortho", factor=1)(wave(2), 0 * wave(2))
    assert float(ortho) == pytest.approx(0.5 * edge / low, rel=1e-4)


def test_weight_1_is_a_tenth_as_in_the_authors_code():
    image, truth = torch.rand(2, 1, 40, 36), torch.rand(2, 1, 40, 36)
    parts = [FrequencyLoss(5, **{"low": 0, "high": 0, name: 1}, factor=1)(image, truth) for name in ("low", "high")]
    assert float(FrequencyLoss(5)(image, truth)) == pytest.approx(0.1 * float(sum(parts)) / 2, rel=1e-5)


def test_shifted_images_have_one_spectrum():
    image = torch.rand(1, 1, 24, 24)
    assert float(FrequencyLoss(5)(image.roll(3, -1), image)) < 1e-3
    assert float(FrequencyLoss(5)(image, image)) == 0


@pytest.mark.parametrize("start", ["zeros", "opposite", "random"])
def test_gradient_is_finite_everywhere(start):
    truth = torch.rand(2, 1, 20, 16)
    image = {"zeros": torch.zeros_like(truth), "opposite": 0.5 - truth, "random": torch.rand_like(truth)}[start]
    image.requires_grad_(True)
    FrequencyLoss(4)(image, truth).backward()
    assert torch.isfinite(image.grad).all()
    assert start == "zeros" or image.grad.abs().sum() > 0


def test_a_spectrum_that_is_all_low():
    assert float(FrequencyLoss(100, factor=1)(wave(2), 0 * wave(2))) == pytest.approx(0.5, rel=1e-3)


def test_settings_and_shapes_that_cannot_work():
    with pytest.raises(ValueError, match="radius above 0"):
        FrequencyLoss(0)
    with pytest.raises(ValueError, match="radius above 0"):
        FrequencyLoss(norm="none")
    with pytest.raises(ValueError, match="of one shape"):
        FrequencyLoss()(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 5))
