# SPDX-License-Identifier: Apache-2.0
"""Scaling is robust, stored with the image, and undone on the way out."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor, decollate_batch, list_data_collate
from monai.transforms import MapTransform

from common.transforms.intensity import RestoreIntensityd, ScaleIntensityRobustd, foreground_mask, robust_range

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
