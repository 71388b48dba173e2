# SPDX-License-Identifier: Apache-2.0
"""Scores by region, against scikit-image and by hand; the simple methods to compare with."""

from __future__ import annotations

import math
import os

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import CacheDataset, Dataset, PersistentDataset
from monai.transforms import Transform

from brasyn_synthesis_lib.metrics import SynthesisScore, roughness, scores_of, synthesis_metrics
from brasyn_synthesis_lib.regression import linear_regression, regression_of
from brasyn_synthesis_lib.volumes import decoded_cases, on_disk
from common.metrics import ssim_map

SHAPE = (24, 22, 20)


def case(seed=0):
    random = torch.Generator().manual_seed(seed)
    brain = torch.zeros(SHAPE)
    brain[4:20, 4:18, 4:16] = 1
    tumour = torch.zeros(SHAPE)
    tumour[8:12, 8:12, 8:12] = 1
    truth = brain * (0.4 + 0.2 * torch.rand(SHAPE, generator=random) + tumour)
    return truth + 0.03 * torch.randn(SHAPE, generator=random) * brain, torch.stack([truth, tumour, brain])


def test_ssim_is_scikit_image_s_mean_over_the_region():
    metrics = pytest.importorskip("skimage.metrics")
    image, label = case()
    brain, tumour = label[2] > 0, label[1] > 0
    low, high = np.percentile(label[0][brain].numpy(), (0.5, 99.5))
    both = [((x.numpy() - low) / (high - low)).clip(0, 1).astype(float) for x in (image, label[0])]
    _, found = metrics.structural_similarity(
        *both, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    assert scores_of(image, label, "ssim") == pytest.approx(found[(brain & ~tumour).numpy()].mean(), abs=1e-4)
    assert scores_of(image, label, "ssim", "tumour") == pytest.approx(found[tumour.numpy()].mean(), abs=1e-4)


def test_psnr_by_hand_and_perfect_copies():
    _, label = case()
    brain = label[2] > 0
    low, high = np.percentile(label[0][brain].numpy(), (0.5, 99.5))
    inside = brain & (label[1] == 0) & (label[0] > low + 0.1) & (label[0] < high - 0.1)
    image = label[0] + 0.05 * inside
    share = float(inside.sum() / (brain & (label[1] == 0)).sum())
    expected = -20 * math.log10(0.05 / (high - low)) - 10 * math.log10(share)
    assert scores_of(image, label, "psnr") == pytest.approx(expected, abs=0.02)
    assert scores_of(label[0], label, "psnr") == pytest.approx(100)
    assert scores_of(label[0], label, "ssim", "tumour") == pytest.approx(1)


def test_a_score_does_not_depend_on_the_units_but_on_brightness():
    image, label = case()
    scaled = label.clone()
    scaled[0] *= 70
    assert scores_of(70 * image, scaled, "ssim") == pytest.approx(scores_of(image, label, "ssim"), abs=1e-4)
    assert scores_of(0.7 * image, label, "psnr") < scores_of(image, label, "psnr") - 3


def test_the_challenge_s_convention_by_hand():
    image, label = case()
    tumour = label[1] > 0
    both = []
    for x in (image, label[0]):
        low, high = np.percentile(x.numpy(), (0.5, 99.5))
        both.append(((x.double() - max(low, 0)) / (high - max(low, 0))).clamp(0, 1))
    for region, mask in (("tumour", tumour), ("healthy", ~tumour)):
        error = ((both[0] - both[1])[mask] ** 2).mean()
        assert scores_of(image, label, "psnr", region, True) == pytest.approx(float(-10 * error.log10()), abs=1e-4)
        expected = float(ssim_map(both[0] * mask, both[1] * mask)[mask].mean())
        assert scores_of(image, label, "ssim", region, True) == pytest.approx(expected, abs=1e-4)


def test_the_challenge_s_convention_hides_brightness_and_counts_the_background():
    image, label = case()
    ours, theirs = ([scores_of(x, label, "ssim", challenge=c) for x in (image, 0.7 * image)] for c in (False, True))
    assert theirs[0] == pytest.approx(theirs[1], abs=1e-6) and ours[0] > ours[1] + 0.01
    wider = [torch.nn.functional.pad(x, (20,) * 6) for x in (image, label)]
    assert scores_of(*wider, "ssim") == pytest.approx(ours[0], abs=1e-6)
    assert scores_of(*wider, "ssim", challenge=True) > theirs[0]


def test_no_tumour_is_left_out_of_the_mean():
    image, label = case()
    healthy = label.clone()
    healthy[1] = 0
    assert math.isnan(scores_of(image, healthy, "ssim", "tumour"))
    metric = SynthesisScore("ssim", "tumour")
    metric(torch.stack([image, image])[:, None], torch.stack([label, healthy]))
    assert float(metric.aggregate()) == pytest.approx(scores_of(image, label, "ssim", "tumour"), abs=1e-6)


def test_roughness_tells_slices_that_do_not_fit_together():
    brain = torch.ones(20, 20, 20, dtype=torch.bool)
    torch.manual_seed(0)
    noise = torch.randn(20, 20, 20)
    assert roughness(noise, brain) == pytest.approx(1, abs=0.05)  # noise has no direction
    assert roughness(0.1 * noise, brain) == pytest.approx(roughness(noise, brain))
    assert roughness(noise + 2 * torch.randn(20), brain) > 1.5
    assert roughness(noise + 2 * torch.randn(20, 1, 1), brain) < 0.9
    image, label = case()
    assert scores_of(label[0], label, "roughness") == pytest.approx(1)
    assert scores_of(image + 0.1 * (torch.arange(20) % 2), label, "roughness") > 1


def test_regression_finds_a_linear_truth():
    torch.manual_seed(0)
    image, brain = torch.rand(3, *SHAPE), case()[1][2]
    truth = (0.5 * image[0] - 0.2 * image[1] + 0.1 * image[2] + 0.3) * brain
    label = torch.stack([truth, torch.zeros(SHAPE), brain])
    torch.testing.assert_close(linear_regression(image, label)[0], truth, atol=1e-5, rtol=0)
    found = regression_of([{"image": image, "label": label}] * 2)
    assert found == pytest.approx([0.5, -0.2, 0.1, 0.3], abs=1e-5)
    twins = image[[0, 0, 0]]
    assert torch.isfinite(linear_regression(twins, label)).all()


def test_names_and_settings():
    names = synthesis_metrics("ssim_healthy", ["regression"], rough=True)
    assert "ssim_healthy" not in names and "regression_psnr_tumour" in names and "baseline_roughness" in names
    with pytest.raises(ValueError, match="kind must be"):
        SynthesisScore("mse")


def test_a_region_that_no_volume_has_is_no_score_of_0():
    image, label = case()
    without = label * torch.tensor([1, 0, 1]).view(3, 1, 1, 1)
    metric = SynthesisScore("ssim", "tumour")
    metric(image[None, None], without[None])
    assert math.isnan(metric.aggregate())
    metric(image[None, None], label[None])
    assert float(metric.aggregate()) == pytest.approx(scores_of(image, label, "ssim", "tumour"))


def test_a_changed_file_is_decoded_anew(tmp_path):
    path, folder = tmp_path / "a.nii", tmp_path / "series"
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 8), np.float32), np.eye(4)), path)
    folder.mkdir()
    (folder / "0.dcm").write_bytes(b"0")
    calls = []

    class Load(Transform):
        def __call__(self, entry):
            calls.append(entry["image"])
            return {"image": torch.zeros(1)}

    entries = [{"image": str(path), "t1n": str(path), "t2w": str(folder), "case": "a"}]
    for changed in (None, None, path, folder / "0.dcm"):
        if changed is not None:
            os.utime(changed, ns=(10**18, 10**18))
        decoded_cases(entries, Load(), 0, tmp_path / "cache")[0]
    assert len(calls) == 3


def test_cases_that_are_used_once_are_kept_nowhere(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 8), np.float32), np.eye(4)), tmp_path / "a.nii")
    volumes = decoded_cases([{"image": str(tmp_path / "a.nii")}], lambda entry: entry, 0, None)
    assert type(volumes) is Dataset and volumes[0]["image"].endswith("a.nii")


def test_many_cases_lie_on_disk(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 8), np.float32), np.eye(4)), tmp_path / "a.nii")
    entries = [{"image": str(tmp_path / "a.nii"), "number": i, "variant": i} for i in range(4)]
    calls = []

    class Load(Transform):
        def __call__(self, entry):
            calls.append(entry["number"])
            return {"image": torch.full((1, 2, 2, 2), float(entry["number"]))}

    load = Load()
    assert not on_disk(entries, 1) and not on_disk([], 1)
    assert isinstance(decoded_cases(entries, load, 1, tmp_path / "cache"), CacheDataset)
    disk = decoded_cases(entries, load, 1e-5, tmp_path / "cache")
    assert isinstance(disk, PersistentDataset)
    calls.clear()
    for _ in range(2):
        assert [float(disk[i]["image"].mean()) for i in range(4)] == [0, 1, 2, 3]
    assert calls == [0, 1, 2, 3]  # decoded once
