# SPDX-License-Identifier: Apache-2.0
"""Held-out volumes are degraded whole at every scale, and cut afterwards."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader
from monai.transforms import Compose, LoadImaged, Transform

from common.errors import InputError
from common.transforms.degradation import degrade
from common.transforms.intensity import ScaleIntensityRobustd
from mri_sr3d_lib import data as module
from mri_sr3d_lib.data import DegradedVolumes, parse_scales, sample_scan, setting_name

SHAPE = (26, 31, 22)
BOX = (slice(6, 20), slice(8, 25), slice(5, 17))
SCALES = [[2, 2, 2], [1, 1, 4], [2, 2.5, 2]]
LOAD = Compose([LoadImaged("image", ensure_channel_first=True), ScaleIntensityRobustd("image")])


def write(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.zeros(SHAPE, np.float32)
    image[BOX] = 50 + 100 * np.random.default_rng(seed).random(image[BOX].shape)
    nib.save(nib.Nifti1Image(image, np.eye(4)), path)
    return {"image": str(path)}


@pytest.fixture
def entries(tmp_path):
    return [write(tmp_path / f"case-{i}.nii.gz", i) for i in range(2)]


def test_masks_beside_volumes_are_cut_alike_and_must_lie_on_their_grid(entries, tmp_path):
    assert DegradedVolumes(entries, LOAD, SCALES, mask_name="seg").lesion is None  # none there
    mask = np.zeros(SHAPE, np.uint8)
    mask[10:14, 12:16, 8:12] = 4
    nib.save(nib.Nifti1Image(mask, np.eye(4)), tmp_path / "case-0-seg.nii.gz")
    named = [{"image": entry["image"].replace(".nii.gz", "-t1c.nii.gz")} for entry in entries]
    for entry, new in zip(entries, named, strict=True):
        nib.save(nib.load(entry["image"]), new["image"])
    data = DegradedVolumes(named, LOAD, SCALES, crop=12, mask_name="seg", sequence="t1c")
    assert data.lesion == "lesion" and not data[len(SCALES)]["lesion"].any()
    assert data[0]["lesion"].shape == (1, 12, 12, 12) and int(data[0]["lesion"].sum()) == 64
    nib.save(nib.Nifti1Image(mask[1:], np.eye(4)), tmp_path / "case-0-seg.nii.gz")
    with pytest.raises(InputError, match=r"case-0-seg.nii.gz: the lesion's mask lies on another grid"):
        data[0]


def volume(entry):
    return LOAD(dict(entry))["image"].as_tensor()


# scales


@pytest.mark.parametrize("text", ["[[2,2,2],[1,1,4]]", [[2, 2, 2], [1, 1, 4]], ((2.0, 2, 2), (1, 1, 4))])
def test_scales_are_a_list_of_triples(text):
    assert parse_scales(text) == [(2.0, 2.0, 2.0), (1.0, 1.0, 4.0)]


def test_a_single_triple_is_one_scale():
    assert parse_scales("[2,2.5,2]") == parse_scales((2, 2.5, 2)) == [(2.0, 2.5, 2.0)]


@pytest.mark.parametrize(
    "scales", [None, [], [None], "null", "[[1,1,1]]", "[[2,2]]", "[[2,2,0.1]]", "[[2,2,-1]]", "[a,b,c]"]
)
def test_scales_that_degrade_nothing_are_refused(scales):
    with pytest.raises(InputError) as caught:
        parse_scales(scales)
    assert "\n" not in str(caught.value) and "scale" in str(caught.value)


def test_settings_have_short_names():
    assert setting_name((2.0, 2.5, 1.0)) == "2x2.5x1"


# volumes


def test_each_volume_comes_at_each_scale(entries):
    held_out = DegradedVolumes(entries, LOAD, SCALES)
    assert len(held_out) == 6
    items = [held_out[i] for i in range(6)]
    assert [item["case"] for item in items] == ["case-0"] * 3 + ["case-1"] * 3
    assert [item["setting"] for item in items] == ["2x2x2", "1x1x4", "2x2.5x2"] * 2
    for i, item in enumerate(items):
        truth = volume(entries[i // 3])
        low, expected = degrade(truth, SCALES[i % 3])
        assert torch.equal(item["label"], truth)
        torch.testing.assert_close(item["image"], expected)
        assert item["low"].shape == truth.shape and set(item["low"].unique().tolist()) <= set(low.unique().tolist())


def test_the_profile_is_the_one_asked_for(entries):
    for options in ({"sigma": 1.0}, {"thickness": 0.5}):
        item = DegradedVolumes(entries, LOAD, [[3, 3, 3]], **options)[0]
        torch.testing.assert_close(item["image"], degrade(volume(entries[0]), (3, 3, 3), **options)[1])


@pytest.mark.parametrize("scale", [(2, 2, 2), (2.5, 1, 1.7)])
def test_pictures_show_the_low_resolution_voxel_that_each_voxel_lies_in(entries, scale):
    item = DegradedVolumes(entries, LOAD, [scale])[0]
    low, _ = degrade(volume(entries[0]), scale)
    for voxel in ((0, 0, 0), (7, 9, 6), (12, 17, 11), (25, 30, 21)):
        inside = tuple(int((v + 0.5) / f) for v, f in zip(voxel, scale, strict=True))
        assert item["low"][(0, *voxel)] == low[(0, *inside)]


@pytest.mark.parametrize("crop", [9, "[9,9,9]", [9, 40, 5]])
def test_a_crop_is_the_middle_of_the_foreground_cut_after_degrading(entries, crop):
    whole, cut = (DegradedVolumes(entries, LOAD, SCALES, crop=c)[2] for c in (None, crop))
    sizes = (9, 9, 9) if crop != [9, 40, 5] else (9, 31, 5)
    starts = [min(max((b.start + b.stop) // 2 - n // 2, 0), s - n) for b, n, s in zip(BOX, sizes, SHAPE, strict=True)]
    window = (slice(None), *[slice(a, a + n) for a, n in zip(starts, sizes, strict=True)])
    for key in ("image", "label", "low"):
        assert torch.equal(cut[key], whole[key][window])


def test_guides_follow_undegraded(entries):
    def with_guide(item):
        image = LOAD(item)["image"]
        return {"image": torch.cat([image, 1 - image])}

    item = DegradedVolumes(entries, with_guide, [[2, 2, 2]], crop=8)[0]
    assert item["image"].shape == (2, 8, 8, 8) and item["label"].shape == (1, 8, 8, 8)
    torch.testing.assert_close(item["image"][1], 1 - item["label"][0])


def test_equal_names_in_two_folders_are_told_apart(tmp_path):
    entries = [write(tmp_path / subject / "t1.nii.gz") for subject in ("anna", "bert")]
    held_out = DegradedVolumes(entries, LOAD, [[2, 2, 2]])
    assert [item["case"] for item in (held_out[0], held_out[1])] == ["anna_t1", "bert_t1"]


def test_it_goes_through_a_loader(entries):
    batches = list(DataLoader(DegradedVolumes(entries, LOAD, SCALES, crop=8), batch_size=1))
    assert len(batches) == 6 and batches[5]["image"].shape == (1, 1, 8, 8, 8)
    assert batches[5]["case"] == ["case-1"]


def test_volumes_are_decoded_once(entries):
    class Counted(Transform):
        """Loads, and counts."""

        calls = 0

        def __call__(self, item):
            Counted.calls += 1
            return LOAD(item)

    held_out = DegradedVolumes(entries, Compose([Counted()]), SCALES)
    for i in range(6):
        held_out[i]
    assert Counted.calls == 2


# sample


def test_the_sample_scan_is_the_held_out_brain_in_thick_slices(tmp_path, monkeypatch):
    brains = tmp_path / "brains"
    for i in range(4):
        write(brains / f"case-{i}" / f"case-{i}-t1n.nii.gz", i)
    monkeypatch.setattr(module, "sample_brains", lambda: brains)
    path = sample_scan()
    scan = nib.load(path)
    assert scan.shape == (26, 31, 6) and scan.header.get_zooms() == (1, 1, 4)
    assert "not for diagnosis" in scan.header["descrip"].item().decode()
    np.testing.assert_allclose(scan.affine @ [-0.5, -0.5, -0.5, 1], [-0.5, -0.5, -0.5, 1], atol=1e-6)
    truth = torch.as_tensor(nib.load(brains / "case-2" / "case-2-t1n.nii.gz").get_fdata(dtype=np.float32))
    np.testing.assert_allclose(scan.get_fdata(), degrade(truth, (1, 1, 4))[0], atol=1e-3)
    assert sample_scan() == path and len(list(tmp_path.glob("*"))) == 2
