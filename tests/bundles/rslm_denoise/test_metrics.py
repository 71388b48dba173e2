# SPDX-License-Identifier: Apache-2.0
"""Scores of slices, as the paper prints them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from rslm_denoise_lib.metrics import SliceScore, denoising_metrics


def pair():
    truth = 0.2 + torch.rand(1, 1, 20, 24, 5, generator=torch.Generator().manual_seed(0))
    truth = truth * torch.tensor([0.3, 0.0, 1.0, 0.5, 0.0])  # two slices are all background
    return truth + 0.02 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(1)), truth


def test_each_slice_s_maximum_is_its_range():
    image, truth = pair()
    slices = [(image[0, 0, ..., i].double().numpy(), truth[0, 0, ..., i].double().numpy()) for i in (0, 2, 3)]
    psnr = np.mean([peak_signal_noise_ratio(y, x, data_range=y.max()) for x, y in slices])
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    maps = [structural_similarity(x, y, data_range=y.max(), full=True, **settings)[1] for x, y in slices]
    assert float(SliceScore("psnr")(image, truth)) == pytest.approx(psnr, abs=1e-4)
    assert float(SliceScore("ssim")(image, truth)) == pytest.approx(np.mean([m.mean() for m in maps]), abs=1e-4)


def test_copies_and_empty_volumes():
    _, truth = pair()
    assert float(SliceScore("psnr")(truth, truth)) == pytest.approx(100)
    metric = SliceScore("ssim")
    metric(torch.cat([truth, truth]), torch.cat([truth, torch.zeros_like(truth)]))
    assert float(metric.aggregate()) == pytest.approx(1)  # of the one volume that has slices
    with pytest.raises(ValueError, match="kind must be"):
        SliceScore("ncc")


def test_scores_of_slices_are_those_of_all_methods():
    names = denoising_metrics(others=["nlm"], slices=True).keys() - denoising_metrics(others=["nlm"]).keys()
    assert names == {f"{who}{kind}_slices" for who in ("", "baseline_", "nlm_") for kind in ("psnr", "ssim")}
