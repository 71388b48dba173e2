# SPDX-License-Identifier: Apache-2.0
"""Slices as a radiologist looks at them, in grey levels of one scale, as many as there is room for."""

import base64
import io

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from PIL import Image

from common.report import CasePictures

COLUMNS = [["input", "image"], ["network", "pred"], ["truth", "label"], ["uncertainty", "std"]]
SHAPE = (30, 24, 18)


def truth(seed=0):
    image = torch.zeros(1, *SHAPE)
    size = (18, 16, 12)
    image[:, 6:24, 4:20, 3:15] = 0.3 + 0.7 * torch.rand(1, *size, generator=torch.Generator().manual_seed(seed))
    return image


def item(**more):
    return {"image": truth() * 0.5, "pred": truth(), "label": truth(), "case": "a", "setting": "2x2x2", **more}


def levels(text):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("L"))


def marked(affine):
    """A volume on whose right, front and top are a bright, a brighter and the brightest voxel, in the array's order."""
    image = torch.zeros(1, 20, 20, 20)
    image[:, 2:18, 2:18, 2:18] = 0.1 * torch.rand(16, 16, 16, generator=torch.Generator().manual_seed(0)) + 0.1
    to_voxels = np.linalg.inv(affine)
    centre = affine[:3, :3] @ np.full(3, 9.5)
    for direction, value in ((np.array([1, 0, 0]), 0.5), (np.array([0, 1, 0]), 0.7), (np.array([0, 0, 1]), 1.0)):
        point = centre + 6.5 * direction * np.linalg.norm(affine[:3, :3], axis=0)[0]
        i, j, k = np.rint(to_voxels[:3, :3] @ point).astype(int)
        image[:, i - 1 : i + 2, j - 1 : j + 2, k - 1 : k + 2] = value
    return image


@pytest.mark.parametrize(
    "axes", [np.diag([1.0, 1, 1]), np.diag([-1.0, -1, 1]), np.array([[0, 0, -1.0], [1, 0, 0], [0, -1, 0]])]
)
def test_volumes_are_shown_upright_with_the_patients_right_on_the_left(axes):
    affine = np.eye(4)
    affine[:3, :3] = 2 * axes
    image = MetaTensor(marked(affine), affine=torch.as_tensor(affine))
    case = CasePictures([["input", "image"], ["network", "pred"]]).draw({"image": image, "pred": image, "case": "a"})
    assert [(plane.title, plane.left, plane.right) for plane in case.planes] == [
        ("Axial", "R", "L"), ("Coronal", "R", "L"), ("Sagittal", "A", "P"),
    ]  # fmt: skip
    middle = [np.max([levels[0] for levels in plane.levels], axis=0) for plane in case.planes]
    for picture, rows, columns in zip(middle, ("front", "top", "top"), ("right", "right", "front"), strict=True):
        height, width = picture.shape
        upper, left = (
            picture[: height // 3, width // 3 : -width // 3],
            picture[height // 3 : -height // 3, : width // 3],
        )
        expected = {"right": 0.5, "front": 0.7, "top": 1.0}
        assert upper.max() / 255 == pytest.approx(expected[rows], abs=0.02)
        assert left.max() / 255 == pytest.approx(expected[columns], abs=0.02)


def test_thick_slices_keep_their_proportions_and_their_numbers():
    affine = torch.diag(torch.tensor([1.0, 1, 4, 1]))
    image = MetaTensor(truth(), affine=affine)
    axial, coronal, _ = CasePictures(COLUMNS[:2]).draw({"image": image, "pred": image, "case": "a"}).planes
    assert axial.aspect == 1 and coronal.aspect == 4
    assert all(0 < int(text.split()[1]) <= 18 and text.endswith(" of 18") for text in axial.captions)
    assert len(set(axial.captions)) == len(axial.captions) == 9


def test_images_share_the_truths_scale_whatever_the_units_and_an_uncertainty_has_its_own():
    case = CasePictures(COLUMNS).draw(item(std=truth() * 0.01))
    assert [column["scale"] for column in case.columns] == ["shared", "shared", "shared", "own"]
    assert [column["role"] for column in case.columns] == ["input", "result", "truth", "uncertainty"]
    half, full, same, spread = case.planes[0].levels[4]
    assert np.abs(half.astype(int) * 2 - full).max() <= 2 and np.array_equal(full, same)
    assert spread.max() > 200
    other = CasePictures(COLUMNS).draw(
        item(**{key: 500 * image for key, image in item().items() if isinstance(image, torch.Tensor)})
    )
    assert np.abs(other.planes[0].levels[4][0].astype(int) - half).max() <= 1


def test_another_contrast_has_a_scale_of_its_own_and_no_change_is_told_of_it():
    columns = [["t1n", "image", False], ["t1c", "pred"]]
    case = CasePictures(columns).draw({"image": truth(), "pred": 90 * truth(), "case": "a"})
    assert [column["scale"] for column in case.columns] == ["own", "shared"] and not case.notes


def test_without_truth_the_change_is_told():
    case = CasePictures(COLUMNS).draw(
        {"image": truth(), "pred": truth() + 0.1 * (truth() > 0), "case": "/data/b", "saved": ["b_sr.nii.gz"]}
    )
    assert case.name == "b_sr.nii.gz" and case.notes[0].startswith("changed by 10.")


def test_a_coarser_grid_is_blown_up_and_pictures_have_one_plane():
    low = truth()[:, ::2, ::2, ::2]
    case = CasePictures([["low", "low"], *COLUMNS]).draw(item(low=low))
    assert {image.shape for image in case.planes[0].levels[0]} == {case.planes[0].levels[0][0].shape}
    frame = truth()[..., 9]
    rows = CasePictures(COLUMNS, rows_first=True).draw({"image": frame, "pred": frame, "case": "a"})
    assert len(rows.planes) == 1 and rows.planes[0].levels[0][0].shape == (18 + 8, 16 + 8)


def run(pictures, outputs, epoch=1, best=None, aside=False):
    engine = Engine(lambda engine, batch: [{"pred": one["label"]} for one in batch] if batch else {})
    pictures.attach(engine, best)
    engine.state.aside = aside
    engine.load_state_dict({"epoch": epoch - 1, "epoch_length": len(outputs), "max_epochs": epoch})
    engine.run([[one] if one else [] for one in outputs])


class Best:
    epoch = 1


def test_the_best_validation_is_kept_failed_cases_and_those_aside_are_not():
    pictures = CasePictures(COLUMNS, most=2)
    run(pictures, [item(case=name) for name in "abc"], best=Best)
    assert [case.name for case in pictures.cases] == ["a", "b"]
    run(pictures, [item(case="later")], epoch=2, best=Best)
    run(pictures, [item(case="aside")], best=Best, aside=True)
    assert [case.name for case in pictures.cases] == ["a", "b"]
    failing = CasePictures(COLUMNS)
    run(failing, [None, item()])
    assert len(failing.cases) == 1


def test_fewer_slices_then_fewer_cases_where_room_is_short():
    pictures = CasePictures(COLUMNS)
    pictures.cases = [pictures.draw(item(case=name)) for name in "ab"]
    every = pictures.packed(10**9)
    assert [len(plane["slices"]) for plane in every[0]["planes"]] == [9, 9, 9]
    whole, size = every[0]["planes"][0], lambda cases: len(str(cases))
    assert [one["depth"] for one in whole["slices"]] == list(range(9))
    np.testing.assert_array_equal(levels(whole["slices"][4]["images"][1]), pictures.cases[0].planes[0].levels[4][1])
    some = pictures.packed(size(every) // 3)
    assert len(some) == 2 and 1 <= len(some[0]["planes"][0]["slices"]) < 9
    assert [one["depth"] for one in pictures.packed(size(every) // 12)[0]["planes"][0]["slices"]] == [4]
    assert len(pictures.packed(size(every) // 14)) == 1 and pictures.packed(10) == []
