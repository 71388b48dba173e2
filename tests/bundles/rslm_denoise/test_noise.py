# SPDX-License-Identifier: Apache-2.0
"""Rician noise in patches and volumes, its estimate, and the methods to compare with."""

from __future__ import annotations

import math
import os

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from common.data.sample_data import write_brain_cases
from common.engine.domain import estimate_level
from common.errors import InputError
from common.metrics import RegionNCC
from common.samplers import RandomPatches
from common.transforms.intensity import ScaleIntensityRobustd
from rslm_denoise_lib import classical, data
from rslm_denoise_lib.classical import best_gaussian, block_matching, non_local_means
from rslm_denoise_lib.data import with_coarser
from rslm_denoise_lib.noise import Noise, NoisyPatches, parse_levels
from rslm_denoise_lib.transforms import Coarsend


def ball(edge=24):
    axis = torch.arange(edge) - (edge - 1) / 2
    radius = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt()
    mask = (radius < edge / 3).float()
    return torch.stack([mask * (0.8 + 0.2 * torch.sin(0.4 * radius)), mask])


def sampler(**kwargs):
    return RandomPatches([{"image": ball()}], NoisyPatches(**kwargs), 12, 64, seed=3)


def test_noise_is_rician():
    sigma = 0.05
    background = Noise()(torch.zeros(40, 40, 40), 100 * sigma, seed=0)
    assert float(background.mean()) == pytest.approx(sigma * np.sqrt(np.pi / 2), rel=0.02)  # Rayleigh
    bright = Noise()(torch.ones(40, 40, 40), 100 * sigma, seed=0)
    assert float(bright.std()) == pytest.approx(sigma, rel=0.02)
    assert float((bright**2).mean()) == pytest.approx(1 + 2 * sigma**2, rel=0.001)


def test_noise_repeats_with_its_seed():
    image = torch.rand(5, 6, 7)
    assert torch.equal(Noise()(image, 3, 1), Noise()(image, 3, 1))
    assert not torch.equal(Noise()(image, 3, 1), Noise()(image, 3, 2))


@pytest.mark.parametrize("coils", [1, 2, 8])
@pytest.mark.parametrize("signal", [0.0, 0.3])
def test_noncentral_chi_noise_has_the_moments_of_its_distribution(coils, signal):
    sigma = 0.05
    noisy = Noise("noncentral_chi", coils)(torch.full((60, 60, 60), signal), 100 * sigma, seed=0).double()
    squares = noisy**2  # sigma^2 times a noncentral chi-squared variable of 2 L degrees of freedom
    assert float(squares.mean()) == pytest.approx(signal**2 + 2 * coils * sigma**2, rel=0.01)
    assert float(squares.var()) == pytest.approx(4 * sigma**2 * signal**2 + 4 * coils * sigma**4, rel=0.03)
    if not signal:  # central: sqrt(2) sigma Gamma(L + 1/2) / Gamma(L)
        mean = math.sqrt(2) * sigma * math.gamma(coils + 0.5) / math.gamma(coils)
        assert float(noisy.mean()) == pytest.approx(mean, rel=0.01)


def test_one_coil_is_rician_and_rician_noise_has_one():
    image = torch.rand(9, 8, 7)
    assert torch.equal(Noise("noncentral_chi", 1)(image, 5, 3), Noise()(image, 5, 3))
    assert torch.equal(Noise("rician", 8)(image, 5, 3), Noise()(image, 5, 3))


def test_noise_of_parallel_imaging_follows_a_smooth_map():
    noise = Noise(peak=3)
    factors = noise.factors((48, 40, 32), seed=5)
    assert 1 <= float(factors.min()) < 1.6 and 2.2 < float(factors.max()) <= 3
    assert max(float(factors.diff(dim=axis).abs().max()) for axis in range(3)) < 0.12
    assert float(noise.factors((48, 40, 32), seed=6).sub(factors).abs().max()) > 0.3  # another scan, another map
    rest = noise(torch.full((48, 40, 32), 10.0), 2, seed=5) - 10  # Gaussian, so far from 0
    assert float((rest / factors).std()) == pytest.approx(0.02, rel=0.02)
    assert float(rest[factors > 2].std()) > 1.5 * float(rest[factors < 1.6].std())


def test_a_patch_has_its_place_in_the_map():
    whole = Noise(peak=2).factors((30, 24, 20), seed=1)
    patch = Noise(peak=2).factors((8, 8, 8), 1, (4, 16, 0), (30, 24, 20))
    torch.testing.assert_close(patch, whole[4:12, 16:24, :8])


@pytest.mark.parametrize("wrong", [{"kind": "gaussian"}, {"coils": 0}, {"peak": 0.5}])
def test_noise_that_cannot_be(wrong):
    with pytest.raises(ValueError, match="must be"):
        Noise(**wrong)


def test_patches_have_the_noise_that_is_asked_for():
    usual, strong = (
        sampler(levels=5, masked=0, gain=(1, 1), brightness=(1, 1), noise=noise).batch(range(8))
        for noise in (Noise(), Noise("noncentral_chi", 4, 2))
    )
    assert torch.equal(usual["label"], strong["label"])
    background = usual["label"] == 0
    least = math.sqrt(4 * 2 * 0.05**2)  # root mean square of four coils, where the map is 1
    assert float(usual["image"][background].square().mean().sqrt()) == pytest.approx(0.0707, rel=0.05)
    assert 1.1 * least < float(strong["image"][background].square().mean().sqrt()) < 2 * least


def test_non_local_means_takes_away_the_bias_of_several_coils():
    truth = torch.full((1, 20, 20, 20), 0.5)
    noisy = Noise("noncentral_chi", 4)(truth, 8, 0)
    one, four = (float(non_local_means(noisy, 8, channels).mean()) for channels in (1, 4))
    assert abs(four - 0.5) < 0.01 < abs(one - 0.5)


def test_pairs_keep_their_own_noise():
    truth, mask = ball().split(1)
    noisy = truth + 0.5
    degradation = NoisyPatches(masked=0.5, gain=(0.5, 0.5), brightness=(0.1, 0.2), inverted=1, offset=1)
    batch = RandomPatches([{"image": torch.cat([truth, mask, noisy])}], degradation, 12, 16, seed=3).batch(range(16))
    difference = batch["image"] - batch["label"]
    assert difference.round(decimals=5).unique().tolist() == [0, 0.25]  # masked background, and the rest
    assert float(batch["label"].max()) == pytest.approx(0.5 * float(truth.max()))


def test_half_of_the_patches_are_masked_after_the_noise():
    batch = sampler(gain=(1, 1), brightness=(1, 1)).batch(range(64))
    silent = (batch["image"].flatten(1) == 0).any(dim=1)
    assert 0.3 < float(silent.float().mean()) < 0.7
    noisy = batch["image"][~silent]
    assert (noisy > 0).all()  # noise in the background too
    assert (batch["label"].flatten(1) == 0).any(dim=1).any()


def test_levels_cover_their_range():
    batch = sampler(masked=0, gain=(1, 1), brightness=(1, 1)).batch(range(64))
    inside = batch["label"] > 0.5
    levels = [float((x - y)[m].std()) for x, y, m in zip(batch["image"], batch["label"], inside, strict=True)]
    assert min(levels) < 0.02
    assert 0.05 < max(levels) < 0.1
    fixed = sampler(levels=5, masked=0, gain=(1, 1), brightness=(1, 1)).batch(range(8))
    difference = (fixed["image"] - fixed["label"])[fixed["label"] > 0.5]
    assert float(difference.std()) == pytest.approx(0.05, rel=0.1)


def test_gain_applies_to_both_images():
    batch = sampler(levels=0.01, masked=0, gain=(0.5, 0.5), brightness=(1, 1)).batch(range(4))
    assert float(batch["label"].max()) <= 0.5
    assert float((batch["image"] - batch["label"])[batch["label"] > 0.1].abs().max()) < 0.01


def test_brightness_applies_before_the_noise():
    usual = sampler(levels=5, masked=0, gain=(1, 1), brightness=(1, 1)).batch(range(8))
    dark = sampler(levels=5, masked=0, gain=(1, 1), brightness=(0.5, 0.5)).batch(range(8))
    torch.testing.assert_close(dark["label"], usual["label"] / 2)
    inside = usual["label"] > 0.5
    for batch in (usual, dark):  # noise as strong as ever
        assert float((batch["image"] - batch["label"])[inside].std()) == pytest.approx(0.05, rel=0.1)


def test_offset_applies_to_the_truth_before_the_noise():
    usual = sampler(levels=0.01, masked=0, gain=(1, 1), brightness=(1, 1)).batch(range(8))
    raised = sampler(levels=0.01, masked=0, gain=(1, 1), brightness=(1, 1), offset=0.2).batch(range(8))
    offsets = (raised["label"] - usual["label"]).flatten(1)
    assert (offsets.amax(1) - offsets.amin(1)).max() < 1e-5  # one for each patch
    assert offsets.min() > 0 and 0.1 < offsets.max() < 0.2
    assert float((raised["image"] - raised["label"]).abs().max()) < 0.01
    with pytest.raises(ValueError, match="offset must not be negative"):
        NoisyPatches(offset=-0.1)


def test_inverted_patches_have_dark_and_bright_exchanged_in_the_foreground():
    usual, turned = (sampler(levels=0.01, gain=(1, 1), brightness=(1, 1), inverted=p).batch(range(8)) for p in (0, 1))
    inside = usual["label"] > 0.3
    torch.testing.assert_close(turned["label"][inside], 1 - usual["label"][inside])
    assert (turned["label"][usual["label"] == 0] == 0).all()
    with pytest.raises(ValueError, match="inverted must lie"):
        NoisyPatches(inverted=2)


@pytest.mark.parametrize("masked", [False, True])
def test_coarser_voxels_hold_the_same_brain_with_less_noise(masked):
    axis = torch.arange(48) - 23.5
    radius = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt()
    mask = (radius < 18).float()
    noise = 0.05 * torch.randn(48, 48, 48, generator=torch.Generator().manual_seed(0))
    image = (0.7 + noise) * mask if masked else (0.7 * mask + noise).abs()
    affine = torch.diag(torch.tensor([1.0, 1.0, 2.0, 1.0]))
    entry = {"image": MetaTensor(image[None], affine=affine), "coarser": 1.5}
    coarse = Coarsend("image")(entry)["image"]
    assert coarse.shape == (1, 32, 32, 32)
    torch.testing.assert_close(coarse.affine.diagonal(), torch.tensor([1.5, 1.5, 3.0, 1.0], dtype=torch.float64))
    middle = coarse[0, 12:20, 12:20, 12:20]
    assert float(middle.mean()) == pytest.approx(0.7, abs=0.02)
    assert float(middle.std()) == pytest.approx(0.05 / 1.5**1.5, rel=0.35)
    if masked:
        assert (coarse[0, 0] == 0).all()
        assert 0.8 < float((coarse != 0).sum()) * 1.5**3 / float(mask.sum()) < 1.2
    plain = {"image": entry["image"]}
    assert Coarsend("image")(plain)["image"] is plain["image"]


def test_coarser_entries_come_on_top():
    entries = [{"image": "a"}, {"image": "b"}]
    assert with_coarser(entries, None) == entries
    assert with_coarser(entries, 1.4) == [*entries, *({**entry, "coarser": 1.4} for entry in entries)]


@pytest.mark.parametrize("name", ["gain", "brightness"])
@pytest.mark.parametrize("factors", [(0, 1), (1, 0.5), (1,)])
def test_factors_that_are_no_range(name, factors):
    with pytest.raises(ValueError, match=f"{name} must be a range"):
        NoisyPatches(**{name: factors})


@pytest.mark.parametrize("level", [2.0, 8.0])
def test_noise_level_is_estimated(level):
    image = ball(48)[:1]
    assert estimate_level(Noise()(image, level, 0)) == pytest.approx(level, rel=0.15)


def test_classical_methods_come_nearer_to_the_truth():
    truth, mask = ball(24).split(1)
    noisy = Noise()(truth, 6, 0)
    inside = mask > 0
    before = float(((noisy - truth)[inside] ** 2).mean())
    results = [best_gaussian(noisy, truth, mask), non_local_means(noisy, 6)]
    results += [block_matching(noisy, 6)] if classical.has_bm4d else []
    for result in results:
        assert float(((result - truth)[inside] ** 2).mean()) < 0.9 * before


def test_bm4d_is_asked_for_only_by_those_who_have_it(monkeypatch):
    monkeypatch.setattr(classical, "has_bm4d", False)
    with pytest.raises(InputError, match="pip install bm4d"):
        block_matching(torch.rand(1, 8, 8, 8), 3)


def test_cross_correlation():
    image = torch.rand(1, 1, 9, 8, 7)
    metric = RegionNCC("whole")
    assert float(metric(0.4 * image + 0.1, image)) == pytest.approx(1, abs=0.01)
    other = torch.rand(1, 1, 9, 8, 7)
    flat = np.corrcoef(image.flatten(), other.flatten())[0, 1]
    assert float(metric(other, image)) == pytest.approx(flat, abs=0.02)
    assert float(metric(torch.full_like(image, 0.5), image)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("levels", [0, -1, "[1,-2]", "much", [], float("inf")])
def test_levels_that_are_not_positive(levels):
    with pytest.raises(InputError, match="noise_level"):
        parse_levels(levels)


def test_the_sample_scan_has_the_noise_it_claims(tmp_path, monkeypatch):
    write_brain_cases(tmp_path / "brains", 1, (48, 56, 48), progress=False)
    monkeypatch.setattr(data, "sample_brains", lambda: tmp_path / "brains")
    path = data.sample_scan()
    made = os.stat(path).st_mtime_ns
    assert data.sample_scan() == path and os.stat(path).st_mtime_ns == made  # made once
    image = torch.as_tensor(nib.load(path).get_fdata(dtype=np.float32))[None]
    scaled = torch.as_tensor(ScaleIntensityRobustd("image")({"image": image})["image"])
    assert estimate_level(scaled) == pytest.approx(data.SAMPLE_LEVEL, rel=0.25)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("level", [2.0, 6.0])
def test_the_noise_of_a_single_slice_is_told_too(axis, level):
    shape = [120, 120, 120]
    shape[axis] = 1
    noise = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    assert estimate_level(0.7 + noise * level / 100) == pytest.approx(level, rel=0.05)
