# SPDX-License-Identifier: Apache-2.0
"""Slices standardised and restored, their grid, the mask as a channel."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from common.errors import InputError
from common.transforms.geometry import spacing_of
from lesion_msgan_lib.detection import FindRegiond
from lesion_msgan_lib.networks import interpolate
from lesion_msgan_lib.savers import SaveSlicesd
from lesion_msgan_lib.slices import foreground
from lesion_msgan_lib.transforms import (
    AddMaskd,
    CheckScand,
    PlainPictured,
    RestoreRegiond,
    RestoreSlicesd,
    StandardiseSlicesd,
    measure_slices,
)

BOX = [[11, 21], [15, 18], [5, 9]]
AFFINE = np.array([[0, -1.1, 0, 5], [0.9, 0, 0.2, -7], [0, 0.1, 2.0, 3], [0, 0, 0, 1.0]])


def scan(shape):
    torch.manual_seed(0)
    image = 400 + 100 * torch.randn(1, *shape)
    image[:, :2] = 0
    return MetaTensor(image, affine=torch.as_tensor(AFFINE), meta={"filename_or_obj": "scan.nii"})


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_every_slice_has_zero_mean_and_unit_variance(axis):
    image = StandardiseSlicesd("image", axis)({"image": scan((12, 11, 10))})["image"]
    assert image.shape[-1] == (12, 11, 10)[axis] and image.meta["slice_axis"] == axis
    plain = scan((12, 11, 10)).as_tensor().movedim(axis + 1, -1)[0]
    for k in range(image.shape[-1]):
        if axis == 0 and k < 2:
            assert (image[..., k] == 0).all()  # a slice without brain
            continue
        inside = image.as_tensor()[0, ..., k][foreground(plain[..., k])]
        assert abs(float(inside.mean())) < 1e-4 and float(inside.std()) == pytest.approx(1, abs=1e-4)


def enlarged(image):
    """What an inferer makes of a standardised scan: slices last."""
    values = image.as_tensor()[None]
    if values.ndim == 4:
        return interpolate(values)[0]
    return interpolate(values[0].movedim(-1, 0)).movedim(0, -1)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_restored_volume_has_units_axes_and_affine(axis):
    original = scan((12, 11, 10))
    item = StandardiseSlicesd("image", axis)({"image": original})
    box = [(3, 7), (2, 5), (1, 4)]
    item["image"].meta["region"] = torch.tensor(box)
    out = RestoreSlicesd("pred")({"image": item["image"], "pred": enlarged(item["image"])})
    shape = [12, 11, 10]
    factors = [1 if i == axis else 4 for i in range(3)]
    assert list(out["pred"].shape[1:]) == [n * f for n, f in zip(shape, factors, strict=True)]
    moved = original.as_tensor().movedim(axis + 1, -1)[0].movedim(-1, 0)[:, None]
    expected = interpolate(moved).movedim(0, -1)[0].movedim(-1, axis)
    torch.testing.assert_close(out["pred"].as_tensor()[0], expected, atol=1e-2, rtol=0)
    # the outer corners of the field of view stay
    small, large = original.affine.numpy(), out["pred"].affine.numpy()
    for corner in np.ndindex(2, 2, 2):
        a = np.array([n if c else 0 for c, n in zip(corner, shape, strict=True)]) - 0.5
        b = np.array([n * f if c else 0 for c, n, f in zip(corner, shape, factors, strict=True)]) - 0.5
        np.testing.assert_allclose(large[:3, :3] @ b + large[:3, 3], small[:3, :3] @ a + small[:3, 3], atol=1e-4)
    np.testing.assert_allclose(spacing_of(large), spacing_of(small) / factors, atol=1e-6)
    # the region alone lies where it lies in the whole
    sides = [*box[:2]]
    sides.insert(axis, box[2])
    start = np.array([a * f for (a, _), f in zip(sides, factors, strict=True)])
    stop = np.array([b * f for (_, b), f in zip(sides, factors, strict=True)])
    part = out["pred_region"]
    window = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    assert torch.equal(part.as_tensor()[0], out["pred"].as_tensor()[0][window])
    np.testing.assert_allclose(part.affine.numpy()[:3, 3], large[:3, :3] @ start + large[:3, 3], atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_sidecar_tells_the_region_along_the_input_s_own_axes(tmp_path, axis):
    shape = (30, 34, 12)
    mask = np.zeros(shape, np.uint8)
    mask[tuple(slice(*side) for side in BOX)] = 1
    image = scan(shape)
    nib.save(nib.Nifti1Image(mask, AFFINE), tmp_path / "m.nii")
    item = StandardiseSlicesd("image", axis)({"image": image, "guide": [str(tmp_path / "m.nii")]})
    item = FindRegiond("image", margin=1, minimum=4)(item)
    item = RestoreSlicesd("pred")({**item, "pred": enlarged(item["image"])})
    postfix = ["sr", "sr_region"]
    SaveSlicesd(["pred", "pred_region"], str(tmp_path / "out"), postfix, {"bundle": "lesion_msgan"})(item)
    for name in postfix:
        sidecar = tmp_path / "out" / f"scan_{name}.nii.gz.provenance.json"
        region = json.loads(sidecar.read_text(encoding="utf-8"))["region"]
        assert all(start <= first < last <= stop for (start, stop), (first, last) in zip(region, BOX, strict=True))
        assert region[axis] == BOX[axis]
    # the region's file lies where its sidecar says
    part = nib.load(tmp_path / "out" / "scan_sr_region.nii.gz")
    steps = [1 if i == axis else 4 for i in range(3)]
    assert part.shape == tuple((stop - start) * step for (start, stop), step in zip(region, steps, strict=True))
    corner = part.affine[:3, :3] @ np.full(3, -0.5) + part.affine[:3, 3]
    first = np.array([start for start, _ in region]) - 0.5
    np.testing.assert_allclose(corner, AFFINE[:3, :3] @ first + AFFINE[:3, 3], atol=1e-4)


def test_restored_picture():
    original = scan((12, 11))
    item = StandardiseSlicesd("image")({"image": original})
    item["image"].meta["region"] = torch.tensor([(3, 7), (2, 6)])
    out = RestoreSlicesd("pred")({"image": item["image"], "pred": enlarged(item["image"])})
    torch.testing.assert_close(out["pred"].as_tensor(), interpolate(original.as_tensor()[None])[0], atol=1e-2, rtol=0)
    assert out["pred_region"].shape == (1, 16, 16)
    assert list(RestoreSlicesd("pred", region=False)({"image": item["image"], "pred": enlarged(item["image"])})) == [
        "image",
        "pred",
    ]
    item["image"].meta["scored_region"] = item["image"].meta["region"]
    part = RestoreRegiond("pred")({"image": item["image"], "pred": enlarged(item["image"])})["pred"]
    torch.testing.assert_close(part, out["pred_region"].as_tensor())


def test_mask_becomes_a_channel_and_slices_lie_last(tmp_path):
    mask = np.zeros((6, 7, 8), np.int16)
    mask[2, 3, 4] = 4
    nib.save(nib.Nifti1Image(mask, AFFINE), tmp_path / "seg.nii.gz")
    entry = {"image": scan((6, 7, 8)), "guide": [str(tmp_path / "seg.nii.gz")]}
    out = AddMaskd("image", "coronal")(entry)["image"]  # the array's first axis lies along y
    assert out.shape == (2, 7, 8, 6) and out[1].sum() == 1 and out[1, 3, 4, 2] == 1
    assert torch.equal(out[0].as_tensor(), entry["image"].as_tensor()[0].movedim(0, -1))
    assert AddMaskd("image")({"image": scan((6, 7, 8))})["image"][1].sum() == 0
    labelled = {"image": scan((6, 7, 8)), "label": str(tmp_path / "seg.nii.gz")}  # as MONAI Label trains
    assert AddMaskd("image", "coronal")(labelled)["image"][1, 3, 4, 2] == 1


@pytest.mark.parametrize(("mode", "kind", "top"), [("L", np.uint8, 255), ("I;16", np.uint16, 65535)])
def test_pictures_become_integers_for_monai_label_and_volumes_stay(mode, kind, top):
    picture = MetaTensor(torch.tensor([[[-3.0, 1.6], [2.4, 1e6]]]), meta={"filename_or_obj": "a.PNG", "mode": mode})
    out = PlainPictured("pred")({"pred": picture})
    assert out["pred"].tolist() == [[0, 2], [2, top]] and out["pred"].dtype == kind
    assert out["result_extension"] == ".png"
    volume = {"pred": scan((6, 7, 8))}
    assert PlainPictured("pred")(volume) == volume


def test_voxels_are_checked_in_pictures_and_volumes():
    for shape in ((6, 7), (6, 7, 8)):
        CheckScand("image")({"image": scan(shape)})
        bad = scan(shape)
        bad[0, 3] = float("nan")
        with pytest.raises(InputError, match="NaN"):
            CheckScand("image")({"image": bad})
        with pytest.raises(InputError, match="constant image"):
            CheckScand("image")({"image": torch.zeros_like(scan(shape))})


@pytest.mark.parametrize("axis", ["coronal", 2])
def test_the_axis_that_was_checked_is_the_one_that_follows(axis):
    given = scan((12, 11, 10))
    checked = CheckScand("image", axis)({"image": given.clone()})["image"]
    assert measure_slices(checked) == measure_slices(given, axis)
    wanted = StandardiseSlicesd("image", axis)({"image": given})["image"]
    assert torch.equal(StandardiseSlicesd("image")({"image": checked})["image"], wanted)
