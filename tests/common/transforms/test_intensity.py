# SPDX-License-Identifier: Apache-2.0
"""Scaling is robust, stored with the image, and undone on the way out."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor, decollate_batch, list_data_collate
from monai.transforms import MapTransform

from common.transforms.intensity import (
    PERCENTILES,
    RestoreIntensityd,
    ScaleIntensityRobustd,
    fit_landmarks,
    foreground_mask,
    robust_range,
    standardise,
)

SHAPE = (14, 11, 9)


def brain(background=0.0, gain=100.0):
    """A block of foreground on a constant background."""
    torch.manual_seed(0)
    image = torch.full(SHAPE, background)
    image[3:10, 2:9, 2:8] = background + gain * (0.2 + torch.rand(7, 7, 6))
    return image


def head():
    """A bright block in noisy air, no constant background."""
    torch.manual_seed(0)
    image = torch.rand(SHAPE)
    image[3:10, 2:9, 2:8] += 100
    return image


# foreground and range


@pytest.mark.parametrize("background", [0.0, -1024.0, 3.5])
def test_the_foreground_of_a_masked_image_is_all_but_its_background(background):
    mask = foreground_mask(brain(background))
    assert mask[3:10, 2:9, 2:8].all() and int(mask.sum()) == 7 * 7 * 6
    assert robust_range(brain(background))[0] == background


def test_the_foreground_of_a_noisy_image_is_what_stands_out():
    mask = foreground_mask(head())
    assert mask[3:10, 2:9, 2:8].all() and int(mask.sum()) == 7 * 7 * 6


def test_an_image_without_any_contrast_is_all_foreground():
    assert foreground_mask(torch.full(SHAPE, 4.0)).all()
    assert robust_range(torch.full(SHAPE, 4.0)) == (4.0, 5.0)


def test_the_range_ends_at_the_foregrounds_percentile_not_at_the_brightest_voxel():
    image = torch.zeros(20, 24, 18)
    image[5:15, 2:20, 2:16] = 20 + 80 * torch.rand(10, 18, 14)
    inside = np.percentile(image[image > 0], 99.9)
    image[7, 9, 8] = 1e6
    low, high = robust_range(image)
    assert low == 0 and high == pytest.approx(inside, rel=1e-2)


def test_a_saturated_top_is_no_background():
    image = 255 * torch.rand(SHAPE)
    image[:4] = 255.0
    low, high = robust_range(image)
    assert low < 5 and high == 255
    assert foreground_mask(image)[:4].all()


@pytest.mark.parametrize("dtype", [torch.int16, torch.uint8, torch.float64])
def test_any_number_type_works(dtype):
    for image in (brain(), head()):
        whole = image.round()
        low, high = robust_range(whole.to(dtype))
        assert (low, high) == pytest.approx(robust_range(whole), rel=1e-4)
        assert torch.equal(foreground_mask(whole.to(dtype)), foreground_mask(whole))


# scaling


def test_background_becomes_0_and_the_bright_end_1_for_each_channel_by_itself():
    image = torch.stack([brain(-1024.0), brain(0.0, gain=7.0)])
    scaled = ScaleIntensityRobustd("image")({"image": image})["image"]
    for channel in scaled:
        assert channel[0, 0, 0] == 0
        assert robust_range(channel) == pytest.approx((0, 1), abs=1e-4)
    torch.testing.assert_close(scaled[0], scaled[1], atol=1e-4, rtol=0)


def test_values_outside_are_kept():
    image = torch.zeros(1, 20, 24, 18)
    image[0, 5:15, 2:20, 2:16] = 20 + 80 * torch.rand(10, 18, 14)
    image[0, 7, 9, 8], image[0, 7, 9, 9] = 1e4, -50
    scaled = ScaleIntensityRobustd("image")({"image": image})["image"]
    assert scaled.max() > 90 and scaled.min() < -0.4


def test_the_given_image_and_its_meta_data_are_left_alone():
    image = MetaTensor(brain()[None])
    before = image.clone()
    data = {"image": image, "other": 1}
    out = ScaleIntensityRobustd("image")(data)
    assert isinstance(ScaleIntensityRobustd("image"), MapTransform)
    assert torch.equal(image, before) and "intensity_low" not in image.meta and out["other"] == 1
    assert data["image"] is image


@pytest.mark.parametrize("image", [brain(-1024.0), head(), brain(gain=1e-3)], ids=["CT", "head", "faint"])
def test_restoring_undoes_scaling(image):
    source = MetaTensor(image[None], affine=torch.diag(torch.tensor([1.0, 2, 3, 1], dtype=torch.float64)))
    source.meta["filename_or_obj"] = "a.nii"
    data = ScaleIntensityRobustd("image")({"image": source})
    data["pred"] = torch.as_tensor(data["image"]).clone()
    restored = RestoreIntensityd("pred", "image")(data)["pred"]
    spread = float(image.max() - image.min())
    torch.testing.assert_close(restored.as_tensor()[0], image, atol=1e-5 * spread, rtol=0)
    assert torch.equal(restored.affine, source.affine) and restored.meta["filename_or_obj"] == "a.nii"


def test_levels_survive_batching():
    cases = [ScaleIntensityRobustd("image")({"image": MetaTensor(gain * brain()[None])}) for gain in (1.0, 30.0)]
    batch = list_data_collate(cases)
    batch["pred"] = torch.as_tensor(batch["image"]).clone()
    for gain, item in zip((1.0, 30.0), decollate_batch(batch), strict=True):
        restored = RestoreIntensityd("pred", "image")(item)["pred"]
        torch.testing.assert_close(restored.as_tensor()[0], gain * brain(), rtol=1e-4, atol=1e-2)


def histogram(seed, gain=1.0):
    """A masked volume with two tissues and some noise."""
    random = torch.Generator().manual_seed(seed)
    tissue = torch.where(torch.rand(14, 12, 10, generator=random) < 0.4, 300.0, 700.0)
    image = gain * (tissue + 60 * torch.randn(14, 12, 10, generator=random))
    mask = torch.zeros(14, 12, 10, dtype=torch.bool)
    mask[2:12, 2:10, 2:8] = True
    return image * mask, mask


def test_landmarks_make_scans_of_other_units_alike():
    images = [histogram(seed, gain)[0] for seed, gain in ((0, 1.0), (1, 3.0), (2, 0.2))]
    landmarks = fit_landmarks(images)
    assert landmarks[0] == 0 and landmarks[-1] == pytest.approx(100) and landmarks == sorted(landmarks)
    standard = [standardise(image, landmarks) for image in images]
    medians = [float(s[s != 0].median()) for s in standard]
    assert max(medians) - min(medians) < 2
    assert all((s[image == 0] == 0).all() for s, image in zip(standard, images, strict=True))
    own = np.percentile(standard[0][histogram(0)[1]].numpy(), PERCENTILES)
    np.testing.assert_allclose(own, landmarks, atol=0.5)


def test_standard_values_by_hand():
    image = torch.arange(101.0)  # percentile p is p
    landmarks = [0, 20, 25, 30, 35, 40, 45, 50, 55, 60, 100]
    mask = torch.ones(101, dtype=torch.bool)
    result = standardise(image, landmarks, mask)
    assert float(result[1]) == 0 and float(result[10]) == pytest.approx(20) and float(result[99]) == pytest.approx(100)
    assert float(result[15]) == pytest.approx(22.5)
    assert float(result[0]) == pytest.approx(-20 / 9, rel=1e-5)  # the outer pieces go on
    assert float(result[100]) == pytest.approx(100 + 40 / 9, rel=1e-5)


def test_standardising_twice_and_ties():
    image, mask = histogram(0)
    landmarks = fit_landmarks([image], [mask])
    once = standardise(image, landmarks, mask)
    torch.testing.assert_close(standardise(once, landmarks, mask), once, atol=1e-3, rtol=0)
    steps = (image / 400).round() * mask + mask  # many equal values: landmarks coincide
    assert torch.isfinite(standardise(steps, landmarks, mask)).all()


def test_landmarks_and_values_agree_with_torchio(tmp_path):
    torchio = pytest.importorskip("torchio")
    from torchio.transforms.preprocessing.intensity import histogram_standardization

    images, paths = [histogram(seed, 1 + seed) for seed in range(3)], []
    for i, (image, _) in enumerate(images):
        paths.append(tmp_path / f"{i}.nii.gz")
        torchio.ScalarImage(tensor=image[None]).save(paths[-1])
    theirs = histogram_standardization.HistogramStandardization.train(paths, masking_function=lambda x: x != 0)
    ours = fit_landmarks([image for image, _ in images], [image != 0 for image, _ in images])
    used = [0, 1, 2, 4, 5, 6, 7, 8, 10, 11, 12]  # it also has quartiles, which its transform leaves out
    np.testing.assert_allclose(ours, np.asarray(theirs)[used], atol=1e-3)
    for image, _ in images:
        mask = image != 0
        expected = histogram_standardization._normalize(image[None], np.asarray(theirs), mask[None].numpy())[0]
        torch.testing.assert_close(standardise(image, ours, mask)[mask], expected[mask].float(), atol=1e-2, rtol=1e-4)


def test_landmarks_that_cannot_work():
    with pytest.raises(ValueError, match="no image"):
        fit_landmarks([])
    with pytest.raises(ValueError, match="constant"):
        fit_landmarks([torch.ones(4, 4, 4)])
    with pytest.raises(ValueError, match="rising landmarks"):
        standardise(torch.rand(4, 4, 4), [0, 1, 2])
    with pytest.raises(ValueError, match="rising landmarks"):
        standardise(torch.rand(4, 4, 4), [*range(10), 5])
