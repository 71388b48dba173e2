# SPDX-License-Identifier: Apache-2.0
"""MS-SSIM as a loss: values against scikit-image, gradients everywhere, thin patches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from common.losses import MultiScaleSSIMLoss, ScaleSpaceSSIMLoss, WeightedLoss
from common.losses.structural import gaussian_window

LOSSES = [MultiScaleSSIMLoss(), MultiScaleSSIMLoss(weights=(0.3, 0.3, 0.4)), ScaleSpaceSSIMLoss()]


def pair(*shape, noise=0.1):
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(shape, generator=generator)
    return truth + noise * torch.randn(shape, generator=generator), truth


def reference(image, truth):
    return structural_similarity(
        image.numpy(), truth.numpy(), gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1
    )


@pytest.mark.parametrize("shape", [(31, 24), (17, 20, 13)])
def test_one_scale_is_what_scikit_image_computes(shape):
    image, truth = pair(1, 1, *shape)
    assert 1 - float(MultiScaleSSIMLoss(scales=1)(image, truth)) == pytest.approx(reference(image[0, 0], truth[0, 0]))


def test_scales_are_multiplied():
    image, truth = pair(1, 1, 40, 44)
    halves = [torch.nn.functional.avg_pool2d(x, 2)[0, 0] for x in (image, truth)]
    expected = reference(image[0, 0], truth[0, 0]) * reference(*halves)
    assert 1 - float(MultiScaleSSIMLoss(scales=2)(image, truth)) == pytest.approx(expected)


def test_weights_take_the_contrast_but_for_the_coarsest_scale():
    # a constant offset changes luminance only: with all weight on the finer scale it costs nothing
    _, truth = pair(1, 1, 32, 32)
    loss = MultiScaleSSIMLoss(weights=(1.0, 0.0))
    assert float(loss(truth + 0.3, truth)) == pytest.approx(0, abs=1e-4)
    assert float(MultiScaleSSIMLoss(weights=(0.0, 1.0))(truth + 0.3, truth)) > 0.01


def test_scale_space_form_against_its_formula():
    image, truth = pair(1, 1, 9, 8)
    loss = ScaleSpaceSSIMLoss(sigmas=(1.0,), c1=0.01, c2=0.02)
    rows, columns = (gaussian_window(n, 7, 1.0, same=True).numpy() for n in (9, 8))

    def smooth(x):
        return rows @ np.asarray(x, dtype=float) @ columns.T

    x, y = image[0, 0].numpy(), truth[0, 0].numpy()
    mean_x, mean_y = smooth(x), smooth(y)
    var_x, var_y = smooth(x * x) - mean_x**2, smooth(y * y) - mean_y**2
    contrast = (2 * (smooth(x * y) - mean_x * mean_y) + 0.02) / (var_x + var_y + 0.02)
    luminance = (2 * mean_x * mean_y + 0.01) / (mean_x**2 + mean_y**2 + 0.01)
    assert float(loss(image, truth)) == pytest.approx(1 - (luminance * contrast).mean(), abs=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("shape", [(2, 1, 33, 28), (2, 1, 24, 19, 21), (1, 1, 16, 16, 3), (1, 1, 12, 14, 1)])
def test_a_copy_costs_nothing_and_thin_patches_work(loss, shape):
    image, truth = pair(*shape)
    assert float(loss(truth, truth)) == pytest.approx(0, abs=1e-5)
    image.requires_grad_()
    value = loss(image, truth)
    value.backward()
    assert 0 < float(value) <= 1
    assert torch.isfinite(image.grad).all()
    assert image.grad.abs().sum() > 0


@pytest.mark.parametrize("loss", LOSSES)
def test_objective_has_a_finite_gradient_on_anticorrelated_input(loss):
    _, truth = pair(2, 1, 24, 24, 24)
    image = (1 - truth).requires_grad_()
    objective = WeightedLoss({"ms_ssim": loss, "l1": torch.nn.L1Loss()}, {"ms_ssim": 0.89, "l1": 0.11})
    objective(image, truth).backward()
    assert torch.isfinite(image.grad).all()
    assert (image.grad != 0).all()


def test_constant_images_have_finite_gradients():
    for loss in LOSSES:
        image = torch.zeros(1, 1, 16, 16, requires_grad=True)
        loss(image, torch.zeros(1, 1, 16, 16)).backward()
        assert torch.isfinite(image.grad).all()


def test_scales_are_those_of_the_data_range():
    image, truth = pair(1, 1, 24, 24)
    wide = MultiScaleSSIMLoss(data_range=1000)(1000 * image, 1000 * truth)
    assert float(wide) == pytest.approx(float(MultiScaleSSIMLoss()(image, truth)), rel=1e-4)


@pytest.mark.parametrize("kwargs", [{"scales": 0}, {"window": 4}, {"data_range": 0}])
def test_settings_that_cannot_work(kwargs):
    with pytest.raises(ValueError, match="need scales"):
        MultiScaleSSIMLoss(**kwargs)
    with pytest.raises(ValueError, match="sigmas"):
        ScaleSpaceSSIMLoss(sigmas=())


def test_shapes_must_agree():
    for loss in LOSSES:
        with pytest.raises(ValueError, match="differ in shape"):
            loss(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 9))
        with pytest.raises(ValueError, match="expected"):
            loss(torch.zeros(8, 8), torch.zeros(8, 8))
