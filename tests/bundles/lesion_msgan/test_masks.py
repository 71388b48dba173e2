# SPDX-License-Identifier: Apache-2.0
"""Lesion masks on their images' voxels, however they are stored."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import LoadImage
from PIL import Image

from common.errors import InputError
from common.transforms.geometry import grid_affine
from lesion_msgan_lib.detection import FindRegiond
from lesion_msgan_lib.masks import load_mask, place_of
from lesion_msgan_lib.transforms import AddMaskd, StandardiseSlicesd

AFFINE = np.array([[0, -1.1, 0, 5], [0.9, 0, 0.2, -7], [0, 0.1, 2.0, 3], [0, 0, 0, 1.0]])
SHAPE = (6, 7, 8)


def spot(shape=SHAPE):
    mask = np.zeros(shape, np.uint8)
    mask[1:3, 4, 5:8] = 3
    return mask


def save(path, array, affine=AFFINE):
    nib.save(nib.Nifti1Image(array, affine), path)
    return str(path)


def moved(millimetres):
    affine = AFFINE.copy()
    affine[0, 3] += millimetres
    return affine


def turned(array, affine, orientation):
    """The same mask in space, its axes stored as nibabel's orientation says."""
    image = nib.Nifti1Image(array, affine).as_reoriented(np.array(orientation))
    return np.asarray(image.dataobj), image.affine


@pytest.mark.parametrize("factor", [1, 4])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(
    "orientation",
    [[[0, 1], [1, 1], [2, 1]], [[0, -1], [1, 1], [2, 1]], [[0, -1], [1, -1], [2, -1]], [[2, 1], [0, -1], [1, 1]]],
)
def test_flips_and_permutations_are_undone_on_both_grids(tmp_path, orientation, axis, factor):
    steps = [1 if i == axis else factor for i in range(3)]
    fine = np.kron(spot(), np.ones(steps, np.uint8))
    path = save(tmp_path / "m.nii.gz", *turned(fine, grid_affine(AFFINE, [1 / s for s in steps]), orientation))
    assert np.array_equal(load_mask(path, SHAPE, AFFINE, axis, 4).numpy(), spot() > 0)


def test_a_cube_s_mask_is_turned_by_its_affine_alone(tmp_path):
    mask = spot((8, 8, 8))
    path = save(tmp_path / "m.nii", *turned(mask, AFFINE, [[1, 1], [0, 1], [2, -1]]))
    assert np.array_equal(load_mask(path, (8, 8, 8), AFFINE).numpy(), mask > 0)


def test_one_fine_voxel_is_enough(tmp_path):
    fine = np.zeros((24, 28, 8), np.uint8)
    fine[11, 4, 6] = 1
    mask = load_mask(save(tmp_path / "m.nii", fine, grid_affine(AFFINE, [0.25, 0.25, 1])), SHAPE, AFFINE, 2, 4)
    assert mask.nonzero().tolist() == [[2, 1, 6]]


@pytest.mark.parametrize(
    ("array", "affine", "text"),
    [
        (spot(), moved(500), "m.nii: the mask lies on another grid than its image, at a corner 500 mm away"),
        (spot(), moved(0.6), "0.6 mm away"),  # half a voxel
        (spot(), np.diag([2.0, 2, 2, 1]), "another grid"),
        (np.kron(spot(), np.ones((4, 4, 1), np.uint8)), AFFINE, "another grid"),
        (np.kron(spot(), np.ones((1, 4, 4), np.uint8)), grid_affine(AFFINE, [1, 0.25, 0.25]), "6 x 28 x 32 voxels"),
        (spot((29, 7, 8)), AFFINE, "m.nii: the mask has 29 x 7 x 8 voxels, its image 6 x 7 x 8"),
        (np.stack([spot()] * 3, -1), AFFINE, "m.nii: the mask has 3 channels; one is meant"),
        (np.stack([spot()] * 2, -1)[..., None, :], AFFINE, "m.nii: the mask"),
    ],
)
def test_masks_of_another_grid_are_refused_in_one_line(tmp_path, array, affine, text):
    path = save(tmp_path / "m.nii", array, affine)
    with pytest.raises(InputError) as error:
        load_mask(path, SHAPE, AFFINE, 2, 4)
    assert text in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(InputError):  # as training calls it
        image = MetaTensor(torch.zeros(1, *SHAPE), affine=torch.as_tensor(AFFINE), meta={"filename_or_obj": "a.nii"})
        AddMaskd("image")({"image": image, "guide": [path]})


def test_headers_may_round(tmp_path):
    path = save(tmp_path / "m.nii", spot(), moved(0.05))
    assert np.array_equal(load_mask(path, SHAPE, AFFINE).numpy(), spot() > 0)


def test_a_file_that_is_no_image(tmp_path):
    (tmp_path / "broken.nii").write_bytes(b"no")
    with pytest.raises(InputError, match=r"broken.nii: the mask cannot be read"):
        load_mask(str(tmp_path / "broken.nii"), (30, 34))


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("last", [(), (1,)])
def test_a_slice_in_a_file_of_its_own(tmp_path, ending, last):
    """One slice is stored with two or with three axes; its third axis may have any thickness."""
    flat = spot((6, 7, 8))[:, :, 6]
    thin = AFFINE @ np.diag([1, 1, 0.1, 1])
    path = save(tmp_path / f"m{ending}", flat.reshape(6, 7, *last), thin)
    image = LoadImage(image_only=True, ensure_channel_first=True)(save(tmp_path / "i.nii", flat, AFFINE))
    assert np.array_equal(load_mask(path, (6, 7), place_of(image)).numpy(), flat > 0)
    assert np.array_equal(load_mask(path, (6, 7, 1), AFFINE).numpy()[..., 0], flat > 0)
    with pytest.raises(InputError, match="6 x 7"):
        load_mask(path, (6, 9), AFFINE)


@pytest.mark.parametrize("mode", ["L", "1", "I;16", "LA", "RGB", "RGBA", "P"])
@pytest.mark.parametrize("factor", [1, 4])
def test_a_picture_s_alpha_is_no_lesion(tmp_path, mode, factor):
    grey = np.zeros((12 * factor, 9 * factor), np.uint8)  # rows, columns
    grey[3 * factor : 5 * factor, 6 * factor : 8 * factor] = 255
    picture = Image.fromarray(grey)
    picture = Image.fromarray(grey.astype(np.uint16) * 200) if mode == "I;16" else picture.convert(mode)
    picture.save(tmp_path / "m.png")
    assert Image.open(tmp_path / "m.png").mode == mode
    mask = load_mask(str(tmp_path / "m.png"), (9, 12), None, factor=4)
    assert mask.sum() == 4 and mask[6:8, 3:5].all()
    with pytest.raises(InputError, match=f"{9 * factor} x {12 * factor} voxels, its image 9 x 13"):
        load_mask(str(tmp_path / "m.png"), (9, 13), None, factor=4)


def test_a_picture_s_mask_has_no_place_to_compare(tmp_path):
    """Nor has a picture: a NIfTI mask of its size will do, wherever it lies."""
    Image.fromarray((spot()[:, :, 6] * 80).T).save(tmp_path / "m.png")
    scan = MetaTensor(torch.rand(1, 6, 7), affine=torch.as_tensor(AFFINE), meta={"filename_or_obj": "scan.nii"})
    picture = MetaTensor(torch.rand(1, 6, 7), meta={"filename_or_obj": "scan.png"})
    flat = save(tmp_path / "m.nii", spot()[:, :, 6], moved(90))
    for image, path in ((scan, str(tmp_path / "m.png")), (picture, str(tmp_path / "m.png")), (picture, flat)):
        entry = StandardiseSlicesd("image")({"image": image, "label": path})
        assert FindRegiond("image", margin=0, minimum=4)(entry)["image"].meta["region"].tolist() == [[1, 3], [3, 5]]


@pytest.mark.parametrize("axis", [0, 2])
def test_the_region_of_a_flipped_mask_is_the_same(tmp_path, axis):
    mask = np.zeros((30, 34, 12), np.uint8)
    mask[4:9, 20:26, 3:7] = 1
    image = MetaTensor(torch.rand(1, 30, 34, 12), affine=torch.as_tensor(AFFINE), meta={"filename_or_obj": "a.nii"})
    regions = []
    for number, orientation in enumerate(([[0, 1], [1, 1], [2, 1]], [[0, -1], [1, 1], [2, 1]])):
        path = save(tmp_path / f"{number}.nii", *turned(mask, AFFINE, orientation))
        entry = StandardiseSlicesd("image", axis)({"image": image, "guide": [path]})
        regions.append(FindRegiond("image")(entry)["image"].meta["region"].tolist())
    assert regions[0] == regions[1] and regions[0][2] == ([4, 9] if axis == 0 else [3, 7])
