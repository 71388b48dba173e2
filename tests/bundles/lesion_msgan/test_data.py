# SPDX-License-Identifier: Apache-2.0
"""Slices through lesions for training and validation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from common.errors import InputError
from lesion_msgan_lib.cases import evaluation_entries, training_entries
from lesion_msgan_lib.data import LesionCrops, LesionSlices, lesion_slices, region_of
from lesion_msgan_lib.networks import interpolate
from lesion_msgan_lib.slices import downsample, foreground, slice_axis, statistics


def volume(seed=0, shape=(66, 72, 9), lesion=(20, 40, 30, 41), name="case-t1c.nii.gz"):
    random = torch.Generator().manual_seed(seed)
    image = torch.zeros(shape)
    image[8:60, 6:66] = 500 + 100 * torch.randn(52, 60, shape[2], generator=random)
    mask = torch.zeros(shape)
    if lesion:
        mask[lesion[0] : lesion[1], lesion[2] : lesion[3], 3:6] = 1
    return {"image": MetaTensor(torch.stack([image, mask]), meta={"filename_or_obj": name})}


@pytest.fixture
def volumes():
    return [volume(0), volume(1, lesion=(50, 58, 60, 64), name="other-t1c.nii.gz")]


def test_samples_follow_from_seed_epoch_and_index_alone(volumes):
    first, second = (LesionCrops(volumes, 12, 32, seed=3) for _ in range(2))
    for data in (first, second):
        data.set_epoch(4)
    backwards = [second[i] for i in range(11, -1, -1)][::-1]
    for i in range(12):
        one = first[i]
        assert all(torch.equal(one[key], backwards[i][key]) for key in one)
    first.set_epoch(5)
    assert any(not torch.equal(first[i]["label"], backwards[i]["label"]) for i in range(12))


def test_crops_are_a_pair_inside_the_lesion_s_region(volumes):
    data = LesionCrops(volumes, 20, 16, orient=False)
    regions = []
    for number in range(2):
        truth, mask = data.slice(number, 4)
        regions.append(region_of(truth, mask, True))
    for i in range(20):
        item = data[i]
        assert item["image"].shape == (1, 4, 4) and item["label"].shape == (1, 16, 16)
        # the crop's place: where its standardised truth lies in one of the slices
        found = []
        for number, region in enumerate(regions):
            for place in (3, 4, 5):
                truth, _ = data.slice(number, place)
                low = downsample(truth)
                mean, spread = statistics(low)
                wanted = item["label"][0] * spread + mean
                for top in range(region[0][0], region[0][1] - 3):
                    for left in range(region[1][0], region[1][1] - 3):
                        part = truth[4 * top : 4 * top + 16, 4 * left : 4 * left + 16]
                        if torch.allclose(part, wanted, atol=0.05):
                            found.append((low[top : top + 4, left : left + 4] - mean) / spread)
        assert len(found) == 1
        torch.testing.assert_close(item["image"][0], found[0], atol=1e-4, rtol=0)


def test_orientation_turns_both_images_alike(volumes):
    plain, turned = LesionCrops(volumes, 8, 32, orient=False), LesionCrops(volumes, 8, 32)
    changed = 0
    for i in range(8):
        one, other = plain[i], turned[i]
        turns = [
            lambda x, k=k, t=t: (x.transpose(1, 2) if t else x).flip(k) for k in ([], [1], [2], [1, 2]) for t in (0, 1)
        ]
        same = [t for t in turns if torch.equal(t(one["label"]), other["label"])]
        assert len(same) == 1 and torch.equal(same[0](one["image"]), other["image"])
        changed += not torch.equal(one["label"], other["label"])
    assert changed > 3


def test_slices_with_lesion_and_without(volumes, capsys):
    assert lesion_slices(volumes[0]["image"], "a") == ([3, 4, 5], True)
    empty = volume(lesion=None)
    empty["image"][0, :, :, :2] = 0
    places, lesion = lesion_slices(empty["image"], "a.nii")
    assert places == list(range(2, 9)) and not lesion
    assert "a.nii: no lesion in its mask; the foreground's box is the region" in capsys.readouterr().out
    truth = torch.as_tensor(empty["image"])[0, :64, :, 4]
    (top, bottom), (left, right) = region_of(truth, torch.zeros_like(truth), False)
    assert top <= 2 and bottom >= 15 and left <= 1 and right >= 16


def test_validation_items(volumes):
    data = LesionSlices(volumes, slices=2, others={"twice": lambda image: 2 * interpolate(image)})
    assert len(data) == 4
    item = data[1]
    assert item["case"] == "case-t1c_5" and item["setting"] == "x4 bicubic"
    (top, bottom), (left, right) = item["image"].meta["region"].tolist()
    truth, mask = data.slice(0, 5)
    torch.testing.assert_close(item["label"][0], truth[4 * top : 4 * bottom, 4 * left : 4 * right])
    assert mask.sum() == mask[4 * top : 4 * bottom, 4 * left : 4 * right].sum()
    low = downsample(truth)
    inside = low[low > 100]  # the background is 0, the brain about 500
    mean, spread = (float(item["image"].meta[name]) for name in ("slice_mean", "slice_std"))
    assert mean == pytest.approx(float(inside.mean()), rel=1e-4) and spread == pytest.approx(
        float(inside.std()), rel=1e-4
    )
    torch.testing.assert_close(item["image"].as_tensor()[0] * spread + mean, low, atol=1e-2, rtol=0)
    whole = interpolate(low[None, None])[0]
    torch.testing.assert_close(item["bicubic"], whole[:, 4 * top : 4 * bottom, 4 * left : 4 * right])
    torch.testing.assert_close(item["twice"], 2 * item["bicubic"] - mean, atol=0.05, rtol=0)
    assert len(LesionSlices(volumes)) == 6


class Spot:
    """Finds a lesion where it is told, in low-resolution pixels; counts how often it is asked."""

    def __init__(self, *places):
        self.places, self.asked = places, 0

    def __call__(self, slices):
        self.asked += 1
        assert abs(float(slices[3:12, 3:12].mean())) < 1  # standardised: the brain has 500
        mask = torch.zeros(slices.shape, dtype=torch.bool)
        if self.places:
            mask[tuple(slice(*place) for place in self.places)] = True
        return mask


def test_crops_lie_where_the_detector_finds_a_lesion(volumes):
    finder = Spot((9, 12), (8, 11), (1, 2))
    data = LesionCrops(volumes, 6, 16, detector="network", orient=False, finder=finder)
    assert finder.asked == 2 and data.known == [([1], True)] * 2
    for i in range(6):
        label = data[i]["label"][0]
        number = [n for n in range(2) if _place(data, n, 1, label) is not None]
        assert len(number) == 1
        top, left = _place(data, number[0], 1, label)
        assert 4 * 6 <= top <= 4 * 11 and 4 * 5 <= left <= 4 * 10  # in the square region and its margin
    assert LesionCrops(volumes, 6, 16, detector="network", finder=Spot()).known == [(list(range(9)), False)] * 2


def _place(data, number, place, label):
    """Where a standardised crop comes from in a slice, or None."""
    truth, _ = data.slice(number, place)
    mean, spread = statistics(downsample(truth))
    windows = ((truth - mean) / spread).unfold(0, 16, 4).unfold(1, 16, 4)
    found = torch.nonzero((windows - label).abs().amax(dim=(2, 3)) < 1e-3)
    return [4 * n for n in found[0].tolist()] if len(found) else None


def test_detector_and_super_resolution_are_judged_together(volumes):
    finder = Spot((9, 12), (8, 11), (3, 5))
    data = LesionSlices(volumes[:1], detector="network", finder=finder, ways=["bicubic", "block"])
    plain = LesionSlices(volumes[:1], ways=["bicubic", "block"])
    assert len(data) == len(plain) == 6
    regions = []
    for i in range(6):
        item, meta = data[i], data[i]["image"].meta
        assert torch.equal(item["label"], plain[i]["label"])  # the lesion's own region is scored
        assert torch.equal(meta["scored_region"], plain[i]["image"].meta["region"])
        regions.append(meta["region"].tolist())
    # as in inference, one square for all slices that show the lesion; nothing beyond them
    assert regions == 4 * [[[6, 14], [5, 13]]] + 2 * [[[0, 0], [0, 0]]]
    assert finder.asked == 2  # once for each way
    none = LesionSlices(volumes[:1], detector="network", finder=Spot())
    assert none[0]["image"].meta["region"].tolist()[0][1] >= 15  # the foreground's box


@pytest.mark.parametrize("evaluated", [False, True])
def test_masks_are_taken_where_there_are_some(tiny_brains, evaluated):
    find = evaluation_entries if evaluated else training_entries
    keys = {"dataset_dir": str(tiny_brains), "pattern": "**/*.nii*", "mask_name": "seg", "val_fraction": 0.5, "seed": 0}
    for sequence, detector in (("t1c", "mask"), ("t1c", "any"), ("t1c", "network"), ("t1c", "foreground")):
        parts = find(sequence=sequence, detector=detector, **keys)
        entries = parts["train"] + parts["validate"]
        masks = {Path(entry["image"]).name: [Path(path).name for path in entry["guide"]] for entry in entries}
        assert len(masks) == 4 and (len(parts["train"]) == 2 or evaluated)
        wanted = [] if detector == "foreground" else ["sample-000-seg.nii.gz"]
        assert masks["sample-000-t1c.nii.gz"] == wanted
    with pytest.raises(InputError, match="guide sequence 'lesion' not found"):
        find(sequence="t1c", detector="mask", **{**keys, "mask_name": "lesion"})
    found = find(sequence="t1c", detector="any", **{**keys, "mask_name": "lesion"})
    assert not any(entry["guide"] for entry in found["train"] + found["validate"])
    with pytest.raises(InputError, match="detector must be one of mask, any, network, foreground"):
        find(sequence="t1c", detector=None, **keys)


def test_each_way_of_down_sampling_is_an_item_of_its_own(volumes):
    data, one = LesionSlices(volumes, slices=2, ways=["block", "kspace"]), LesionSlices(volumes, slices=2)
    assert len(data) == 8 and len(one) == 4
    block, kspace = data[2], data[3]
    assert (block["setting"], kspace["setting"]) == ("x4 block", "x4 kspace") and block["case"] != kspace["case"]
    assert torch.equal(block["label"], kspace["label"]) and torch.equal(block["label"], one[1]["label"])
    assert block["image"].meta["region"].tolist() == kspace["image"].meta["region"].tolist()
    assert not torch.equal(block["image"], kspace["image"])
    # block means of the truth
    mean, spread = (float(block["image"].meta[name]) for name in ("slice_mean", "slice_std"))
    truth = data.slice(0, 5)[0]
    blocks = torch.nn.functional.avg_pool2d(truth[None], 4)[0]
    torch.testing.assert_close(block["image"].as_tensor()[0] * spread + mean, blocks, atol=1e-2, rtol=0)


def test_crops_are_degraded_in_all_ways_named(volumes):
    named = {way: LesionCrops(volumes, 12, 32, orient=False, ways=way) for way in ("bicubic", "block", "kspace")}
    mixed = LesionCrops(volumes, 12, 32, orient=False, ways=list(named))
    seen = set()
    for i in range(12):
        seen |= {way for way, data in named.items() if torch.equal(data[i]["image"], mixed[i]["image"])}
    assert seen == set(named)


def test_without_a_lesion_crops_lie_anywhere_on_the_brain():
    image = torch.zeros(2, 96, 104, 4)
    image[0, 4:92, 40:100] = 100 + torch.randn(88, 60, 4)
    data = LesionCrops([{"image": MetaTensor(image)}], 40, 32, "any", orient=False)
    shares, tops = [], set()
    for i in range(40):
        label = data[i]["label"]
        shares.append(float((label > -20).float().mean()))  # standardised over the brain
        tops.add(round(shares[-1], 3))
    assert min(shares) > 0.2 and len(tops) > 5  # the middle of each crop is brain


def test_zoom_resamples_the_slice_and_keeps_the_size(volumes):
    plain, zoomed = (LesionCrops(volumes, 16, 32, orient=False, zoom=z) for z in (1, 1.25))
    differ = 0
    for i in range(16):
        one, other = plain[i], zoomed[i]
        assert one["label"].shape == other["label"].shape and one["image"].shape == other["image"].shape
        differ += one["label"].std() > 1.05 * other["label"].std()  # resampled noise is smoother
    assert 3 < differ < 13
    LesionCrops(volumes, 4, 64, zoom=4)[0]  # never smaller than a crop


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["in/a/x-t1c.nii.gz", "in/b/y-t1c.nii.gz"], ["x-t1c", "y-t1c"]),
        (["in/a/t1c.nii.gz", "in/b/t1c.nii.gz"], ["a_t1c", "b_t1c"]),
        (["in/1/mr/t1c.nii.gz", "in/2/mr/t1c.nii.gz"], ["mr_t1c_1", "mr_t1c_2"]),
    ],
)
def test_no_two_cases_are_called_alike(paths, names):
    data = LesionSlices([volume(name=path) for path in paths], slices=1)
    assert [data[i]["case"] for i in range(2)] == [f"{name}_4" for name in names]


def test_what_cannot_work(volumes):
    with pytest.raises(InputError, match=r"case-t1c.nii.gz: slices of 66 x 72 pixels are smaller than a patch_size"):
        LesionCrops(volumes, 4, 68)
    with pytest.raises(InputError, match="multiple of 4"):
        LesionCrops(volumes, 4, 30)
    with pytest.raises(InputError, match="degradation must be one or several of"):
        LesionCrops(volumes, 4, 32, ways="stretch")


def test_without_a_number_there_are_as_many_crops_as_slices(volumes):
    assert len(LesionCrops(volumes, None, 32)) == 6


@pytest.mark.parametrize("constant", [0.0, 7.0])
def test_statistics_of_a_slice_without_anything(constant):
    assert statistics(torch.full((5, 6), constant)) == (constant, 1.0)


def test_slice_axis_follows_the_affine():
    affine = np.array([[0, 0, 2, 0], [-1, 0, 0, 0], [0, 1.5, 0, 0], [0, 0, 0, 1.0]])
    assert [slice_axis(affine, name) for name in ("sagittal", "coronal", "axial")] == [2, 0, 1]
    assert slice_axis(affine, "1") == 1
    assert slice_axis(affine, "axial", (30, 40, 1)) == 2  # one slice, however it lies
    with pytest.raises(InputError, match="axis must be one of"):
        slice_axis(affine, "oblique")


def test_the_rim_of_a_masked_brain_is_no_foreground():
    image = torch.zeros(64, 64)
    image[16:48, 16:48] = 100
    low = downsample(image)
    assert (low[3, 4:12] != 0).any()  # what anti-aliasing leaves around it
    assert foreground(low).sum() == 64 and foreground(low)[4:12, 4:12].all()
    assert foreground(torch.full((3, 4), 2.0)).all()
