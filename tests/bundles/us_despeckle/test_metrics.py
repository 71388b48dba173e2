# SPDX-License-Identifier: Apache-2.0
"""Distances and speckle against values known by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from common.errors import InputError
from us_despeckle_lib.metrics import (
    FlooredKL,
    HistogramKL,
    PatchScore,
    cnr,
    histogram,
    kl_divergence,
    speckle_metrics,
    speckle_width,
    ssnr,
)


def item(image, rois=None):
    """A frame ``(1, H, W)`` and its label ``(4, H, W)``."""
    image = torch.as_tensor(image, dtype=torch.float32)
    labels = torch.zeros_like(image) if rois is None else torch.as_tensor(rois, dtype=torch.float32)
    return image[None], torch.stack([image, torch.ones_like(image), labels, image])


def test_a_level_falls_into_its_own_bin():
    image = torch.tensor([[0.0, 1.0, 2.0, -1.0], [10 / 255, 10 / 255, 200 / 255, 0.5]])
    counts = histogram(image, torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0]]))
    assert counts.sum() == 6
    assert [float(counts[k]) for k in (0, 10, 200, 255)] == [2, 1, 1, 2]


def test_a_network_that_gives_nan_has_diverged():
    with pytest.raises(InputError, match="its training has diverged; a lower --learning_rate may help"):
        histogram(torch.tensor([[0.5, torch.nan]]), torch.ones(1, 2))


def test_divergence_by_hand_and_by_scipy():
    p, q = torch.zeros(256), torch.zeros(256)
    p[3], p[4], q[3], q[4] = 1, 3, 2, 2
    by_hand = 0.25 * np.log(0.25 / 0.5) + 0.75 * np.log(0.75 / 0.5)
    assert float(kl_divergence(p, q)) == pytest.approx(by_hand, abs=1e-6)
    assert float(kl_divergence(p, p)) == 0
    random = np.random.default_rng(0)
    first, second = random.integers(1, 900, (2, 256)).astype(float)
    expected = stats.entropy(first, second)
    assert float(kl_divergence(torch.tensor(first), torch.tensor(second))) == pytest.approx(expected, rel=1e-6)
    assert float(kl_divergence(p, torch.ones(256) * (torch.arange(256) == 9))) > 20  # empty bins, as in the paper


def test_divergence_is_pooled_over_frames_and_told_for_each():
    dark, bright = (item(torch.full((4, 4), level)) for level in (0.2, 0.8))
    reference = torch.zeros(256)
    reference[51], reference[204] = 1, 1  # half dark, half bright: as both frames together
    metric = HistogramKL(reference)
    for pred, label in (dark, bright):
        metric(pred[None], label[None])
    assert float(metric.aggregate()) == pytest.approx(0, abs=1e-6)
    assert metric.get_buffer().shape == (2, 1)
    assert float(metric.get_buffer().min()) > 5
    own = HistogramKL()
    own(dark[0][None], dark[1][None])
    assert float(own.aggregate()) == 0


def test_ratio_and_contrast_by_hand():
    patch = np.array([[1.0, 3.0], [1.0, 3.0]])
    assert ssnr(patch) == 2
    assert cnr(patch, np.array([6.0, 10.0])) == pytest.approx(6 / np.sqrt(1 + 4))


def test_rayleigh_speckle_has_its_known_ratio():
    random = np.random.default_rng(0)
    envelope = np.abs(random.standard_normal((400, 400)) + 1j * random.standard_normal((400, 400)))
    assert ssnr(envelope) == pytest.approx(1.91, abs=0.02)


@pytest.mark.parametrize("sigma", [1.5, 3.0])
def test_width_of_smoothed_noise_is_known(sigma):
    noise = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((300, 300)), (1.0, sigma))
    noise += np.linspace(0, 3, 300)  # a slope of brightness does not count
    expected = 2 * np.sqrt(2 * np.log(2)) * np.sqrt(2) * sigma
    assert speckle_width(noise, 1) == pytest.approx(expected, rel=0.08)
    assert speckle_width(noise, 0) == pytest.approx(2 * np.sqrt(2 * np.log(2)) * np.sqrt(2), rel=0.08)
    assert speckle_width(np.ones((9, 7)), 0) == 9


def test_scores_of_a_frame():
    random = np.random.default_rng(0)
    image = random.normal(0.5, 0.1, (40, 40)).clip(0, 1)
    rois = np.zeros((40, 40))
    rois[2:12, 2:12], rois[20:30, 20:30], rois[34:39, 2:8] = 1, 2, -1
    pred, label = item(image, rois)
    metric = PatchScore("ssnr")
    metric(pred[None], label[None])
    expected = (ssnr(image[2:12, 2:12]) + ssnr(image[20:30, 20:30])) / 2
    assert float(metric.aggregate()) == pytest.approx(expected, rel=1e-4)
    same = PatchScore("ssim_input")
    same(pred[None], label[None])
    assert float(same.aggregate()) == pytest.approx(1)
    empty = PatchScore("cnr")
    empty(*(x[None] for x in item(image)))
    assert torch.isnan(empty.aggregate())
    empty(pred[None], label[None])
    assert torch.isfinite(empty.aggregate())  # of the frames that have one
    with pytest.raises(ValueError, match="kind must be"):
        PatchScore("sharpness")


def test_below_the_floor_everything_is_worse_than_above():
    random = np.random.default_rng(0)
    image = random.normal(0.5, 0.1, (64, 64)).clip(0, 1)
    pred, label = item(image)
    blurred = torch.from_numpy(ndimage.gaussian_filter(image, 2.0)).to(pred)[None]
    reference = histogram(blurred[0], label[1])
    scores = {}
    for name, made in (("same", pred), ("blurred", blurred)):
        for floor in (-1, 0.8):
            metric = FlooredKL(reference, floor)
            metric(made[None], label[None])
            metric(made[None], label[None])
            scores[name, floor] = float(metric.aggregate())
            assert float(metric.get_buffer().mean()) == pytest.approx(scores[name, floor], rel=1e-5)
    plain = HistogramKL(reference)
    plain(pred[None], label[None])
    assert scores["same", 0.8] == scores["same", -1] == pytest.approx(float(plain.aggregate()))
    assert scores["blurred", -1] < 0.01 < scores["same", -1] < scores["blurred", 0.8]


def test_divergence_in_tissue_is_that_of_its_patches_alone():
    rois = torch.zeros(6, 6)
    rois[1:3, 1:3], rois[4, 4], rois[0, 0] = 1, 2, -1  # two patches of tissue, and what they are contrasted with
    image = torch.where(rois > 0, 0.2, 0.8)
    pred, label = item(image, rois)
    reference = torch.zeros(256)
    reference[51] = 7
    tissue, whole = HistogramKL(reference, tissue=True), HistogramKL(reference)
    for metric in (tissue, whole):
        metric(pred[None], label[None])
    assert float(tissue.aggregate()) == pytest.approx(0, abs=1e-6)
    assert float(whole.aggregate()) > 1
    without = item(image)
    tissue(without[0][None], without[1][None])
    assert tissue.get_buffer().isnan().flatten().tolist() == [False, True]
    assert float(tissue.aggregate()) == pytest.approx(0, abs=1e-6), "a frame without patches adds nothing"


def test_all_scores_have_a_baseline():
    names = speckle_metrics(torch.ones(256), torch.ones(256)).keys()
    assert {"kl_reference", "kl_tissue", "mean", "ssnr"} <= names and "ssim_clean" not in names
    assert {f"baseline_{n}" for n in names if not n.startswith("baseline_")} <= names
    assert "ssim_clean" in speckle_metrics(torch.ones(256), torch.ones(256), clean=True)
