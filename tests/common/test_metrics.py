# SPDX-License-Identifier: Apache-2.0
"""Scores agree with scikit-image and with hand calculation, and name their region and range."""

import math

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.metrics import CumulativeIterationMetric
from scipy import ndimage
from skimage.metrics import structural_similarity

from common.metrics import (
    LesionDrift,
    RegionGMS,
    RegionPSNR,
    RegionSSIM,
    gradient_similarity_map,
    lesion_drift,
    region_metrics,
    ssim_map,
)
from common.transforms.intensity import foreground_mask, robust_range

NAMES = {f"{kind}_{region}" for kind in ("psnr", "ssim") for region in ("foreground", "whole")}


def pair(*shape, seed=0, noise=0.1):
    rng = np.random.default_rng(seed)
    truth = rng.random(shape)
    return truth + noise * rng.standard_normal(shape), truth


def masked(shape=(20, 18, 16), noise=0.05):
    """A brain-like block that fills an eighth of the volume, its noisy copy, both with background exactly 0."""
    truth = torch.zeros(shape)
    window = tuple(slice(n // 4, n // 4 + n // 2) for n in shape)
    torch.manual_seed(0)
    truth[window] = 0.3 + 0.7 * torch.rand([n // 2 for n in shape])
    image = truth.clone()
    image[window] += noise * torch.randn([n // 2 for n in shape])
    return image[None, None], truth[None, None]


def score(metric, image, truth):
    return float(metric(image, truth))


# ssim_map


@pytest.mark.parametrize("shape", [(37, 25), (21, 16, 18), (11, 12, 13)])
@pytest.mark.parametrize("data_range", [1.0, 2.5])
def test_the_map_equals_skimages_also_at_the_borders(shape, data_range):
    image, truth = pair(*shape)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "full": True}
    mean, expected = structural_similarity(image, truth, data_range=data_range, **options)
    mine = ssim_map(torch.as_tensor(image), torch.as_tensor(truth), data_range).numpy()
    np.testing.assert_allclose(mine, expected, atol=1e-6)
    # skimage's mean leaves out a rim of 5 voxels, ours is over the region: only the maps are the same everywhere
    inner = tuple(slice(5, n - 5) for n in shape)
    assert mine[inner].mean() == pytest.approx(mean, abs=1e-6)


def test_axes_shorter_than_the_window_are_mirrored_again():
    image, truth = pair(3, 12, 2)
    values = ssim_map(torch.as_tensor(image), torch.as_tensor(truth))
    assert torch.isfinite(values).all() and values.abs().max() <= 1
    torch.testing.assert_close(ssim_map(torch.as_tensor(truth), torch.as_tensor(truth)), torch.ones_like(values))


def test_anticorrelated_images_have_negative_similarity():
    _, truth = pair(16, 15)
    truth = torch.as_tensor(truth)
    assert float(ssim_map(1 - truth, truth).mean()) < 0


# RegionPSNR


def test_psnr_by_hand():
    truth = torch.zeros(1, 1, 10, 10, 10)
    truth[..., 5:] = torch.linspace(0.5, 1, 500).reshape(10, 10, 5)
    image = truth.clone()
    image[..., 5:] -= 0.1
    high = robust_range(truth)[1]  # the 99.9 percentile, not the maximum, is the range
    assert 0.99 < high < 1
    clipped = (truth.clamp(max=high) - image.clamp(max=high)) / high
    by_hand = -10 * math.log10(float((clipped[..., 5:].double() ** 2).mean()))
    assert by_hand == pytest.approx(20, abs=0.05)
    assert score(RegionPSNR("foreground"), image, truth) == pytest.approx(by_hand, abs=1e-4)
    assert score(RegionPSNR("whole"), image, truth) == pytest.approx(by_hand + 10 * math.log10(2), abs=1e-4)


def test_clean_background_adds_the_share_of_the_foreground_in_dB():  # noqa: N802 - the unit is written so
    image, truth = masked()
    share = float(foreground_mask(truth).float().mean())
    gain = score(RegionPSNR("whole"), image, truth) - score(RegionPSNR("foreground"), image, truth)
    assert gain == pytest.approx(-10 * math.log10(share), abs=1e-3)


def test_half_the_noise_is_six_decibels_better():
    levels = [score(RegionPSNR(), *masked(noise=n)) for n in (0.02, 0.01)]
    assert levels[1] - levels[0] == pytest.approx(20 * math.log10(2), abs=0.15)


def test_a_voxel_brighter_than_the_range_is_clipped():
    image, truth = masked(noise=0.0)
    image[0, 0, 10, 9, 8] = 1e6
    assert score(RegionPSNR(), image, truth) > 25


@pytest.mark.parametrize("metric", [RegionPSNR, RegionSSIM])
@pytest.mark.parametrize("region", ["foreground", "whole"])
@pytest.mark.parametrize(("gain", "offset"), [(1000.0, 0.0), (0.01, 0.0), (37.0, -1024.0)])
def test_scores_do_not_depend_on_the_intensity_units(metric, region, gain, offset):
    image, truth = masked()
    moved = score(metric(region), gain * image + offset, gain * truth + offset)
    assert moved == pytest.approx(score(metric(region), image, truth), abs=2e-3)


@pytest.mark.parametrize("region", ["foreground", "whole"])
def test_an_exact_copy_gets_100_dB_and_similarity_1(region):  # noqa: N802 - the unit is written so
    _, truth = masked()
    assert score(RegionPSNR(region), truth, truth) == pytest.approx(100)
    assert score(RegionSSIM(region), truth, truth) == pytest.approx(1)


# RegionSSIM


def test_ssim_is_the_maps_mean_over_the_region():
    image, truth = masked()
    low, high = robust_range(truth)
    scaled = [((x[0, 0].double() - low) / (high - low)).clamp(0, 1).numpy() for x in (image, truth)]
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "full": True}
    _, values = structural_similarity(*scaled, data_range=1.0, **options)
    inside = foreground_mask(truth)[0, 0].numpy()
    assert score(RegionSSIM("foreground"), image, truth) == pytest.approx(values[inside].mean(), abs=1e-5)
    assert score(RegionSSIM("whole"), image, truth) == pytest.approx(values.mean(), abs=1e-5)


# as MONAI metrics


@pytest.mark.parametrize("metric", [RegionPSNR, RegionSSIM])
def test_scores_of_several_batches_accumulate(metric):
    image, truth = masked()
    worse, _ = masked(noise=0.2)
    running = metric()
    assert isinstance(running, CumulativeIterationMetric)
    first = running(torch.cat([image, worse]), torch.cat([truth, truth]))
    assert first.shape == (2, 1) and first[0] > first[1]
    running([MetaTensor(worse[0])], [MetaTensor(truth[0])])
    assert running.get_buffer().shape == (3, 1)
    assert float(running.aggregate()) == pytest.approx(float((first[0, 0] + 2 * first[1, 0]) / 3))
    assert float(running.aggregate("sum")) == pytest.approx(float(first[0, 0] + 2 * first[1, 0]), rel=1e-5)
    running.reset()
    running(truth, truth)
    assert running.get_buffer().shape == (1, 1)


def test_images_in_two_dimensions_can_be_scored():
    image, truth = masked((30, 26, 4))
    assert 0 < score(RegionSSIM(), image[..., 2], truth[..., 2]) < 1


def test_an_unknown_region_is_refused():
    with pytest.raises(ValueError, match="region must be one of"):
        RegionPSNR("brain")


def test_region_metrics_score_prediction_and_baseline():
    metrics = region_metrics(but="psnr_foreground")
    assert set(metrics) == (NAMES | {f"baseline_{name}" for name in NAMES}) - {"psnr_foreground"}
    assert set(region_metrics()) == NAMES | {f"baseline_{name}" for name in NAMES}
    image, truth = masked()
    worse, _ = masked(noise=0.2)
    engine = Engine(lambda *_: [{"pred": image[0], "image": worse[0], "label": truth[0]}])
    for name, metric in metrics.items():
        metric.attach(engine, name)
    engine.run([0])
    scores = engine.state.metrics
    assert scores["psnr_whole"] == pytest.approx(score(RegionPSNR("whole"), image, truth))
    assert scores["baseline_psnr_whole"] == pytest.approx(score(RegionPSNR("whole"), worse, truth))
    assert scores["ssim_foreground"] == pytest.approx(score(RegionSSIM("foreground"), image, truth))
    assert scores["baseline_ssim_foreground"] < scores["ssim_foreground"]


def test_gradient_similarity_by_hand():
    ramp = torch.arange(8.0).expand(6, 8) / 8  # a slope of 1/8, of which Prewitt filters divided by 3 give the double
    c = 170 / 255**2
    expected = (2 * 0.25 * 0.5 + c) / (0.25**2 + 0.5**2 + c)
    found = gradient_similarity_map(ramp, 2 * ramp)
    torch.testing.assert_close(found[:, 1:-1], torch.full((6, 6), expected, dtype=torch.float64))
    torch.testing.assert_close(gradient_similarity_map(255 * ramp, 510 * ramp, 255.0), found)
    torch.testing.assert_close(gradient_similarity_map(ramp.T, 2 * ramp.T), found.T)


def test_blur_and_false_structure_lower_gradient_similarity():
    random = np.random.default_rng(0)
    truth = torch.as_tensor(ndimage.gaussian_filter(random.random((60, 60)), 2))
    truth = (truth - truth.min()) / (truth.max() - truth.min())
    blurred = [torch.as_tensor(ndimage.gaussian_filter(truth.numpy(), sigma)) for sigma in (0.5, 1, 2)]
    scores = [RegionGMS("whole")(x[None, None], truth[None, None]).item() for x in (truth, *blurred)]
    assert scores[0] == pytest.approx(1) and scores == sorted(scores, reverse=True)
    noisy = truth + 0.1 * torch.as_tensor(random.standard_normal((60, 60)))
    assert RegionGMS("whole")(noisy[None, None], truth[None, None]).item() < scores[2]


def lesion_case(radius=5.0, contrast=1.0):
    """A textured brain with a ball in it, which is brighter by ``contrast``; and the ball of radius 5."""
    grid = torch.stack(torch.meshgrid(*[torch.arange(32.0)] * 3, indexing="ij"))
    distance = (grid - 16).square().sum(dim=0).sqrt()
    random = torch.Generator().manual_seed(0)
    brain = (distance < 14) * (2 + 0.1 * torch.randn(32, 32, 32, generator=random))
    return brain + contrast * (distance < radius), (distance < 5).float()


@pytest.mark.parametrize("contrast", [1.0, -1.0])
def test_a_lesion_that_grew_shrank_or_faded_drifts(contrast):
    truth, mask = lesion_case(contrast=contrast)
    assert lesion_drift(truth, truth, mask) == 0
    for radius in (4.0, 6.0):
        share = float((lesion_case(radius, 1)[0] - lesion_case(0, 1)[0]).sum() / mask.sum())
        assert lesion_drift(lesion_case(radius, contrast)[0], truth, mask) == pytest.approx(100 * (share - 1), abs=3)
    assert lesion_drift(lesion_case(contrast=0.3 * contrast)[0], truth, mask) < -90


def test_no_lesion_and_one_that_no_threshold_tells_apart_have_no_drift():
    truth, mask = lesion_case(contrast=0.02)
    assert math.isnan(lesion_drift(truth, truth, mask)) and math.isnan(lesion_drift(truth, truth, 0 * mask))
    metric, (clear, ball) = LesionDrift(), lesion_case()
    metric(clear[None, None], torch.stack([clear, ball])[None])
    metric(clear[None, None], torch.stack([clear, 0 * ball])[None])
    assert float(metric.aggregate()) == 0 and metric.get_buffer().shape == (2, 1)
