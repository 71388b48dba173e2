# SPDX-License-Identifier: Apache-2.0
"""A scan comes to the grid that is wanted, where it was before."""

import itertools
import logging
import math

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.ndimage import map_coordinates

from common.errors import InputError
from common.transforms.degradation import FWHM
from common.transforms.geometry import spacing_of
from mri_sr3d_lib.transforms import ToTargetGridd

SHAPE = (14, 11, 9)
TURN = nib.eulerangles.euler2mat(0.4, -0.25, 0.6)
AFFINES = {
    "RAS": nib.affines.from_matvec(np.diag([1.0, 1.2, 4.0]), [-10, 20, -30]),
    "LPS": nib.affines.from_matvec(np.diag([-1.0, -1.2, 4.0]), [90, 126, -72]),
    "oblique": nib.affines.from_matvec(TURN @ np.diag([1.0, 1.2, 4.0]), [-40, 12.5, 7.25]),
    "sagittal": nib.affines.from_matvec(TURN @ np.diag([1.0, -1.2, 4.0])[[2, 0, 1]], [40, 2.5, 7.25]),
}


def scan(spacing=(1, 1, 3), shape=SHAPE, affine=None, seed=0):
    affine = np.diag([*spacing, 1.0]) if affine is None else affine
    values = torch.as_tensor(np.random.default_rng(seed).random((1, *shape)), dtype=torch.float32)
    meta = {"filename_or_obj": "a.nii.gz", "intensity_low": 3.0}
    return MetaTensor(values, affine=torch.as_tensor(affine, dtype=torch.float64), meta=meta)


def move(image, **options):
    return ToTargetGridd("image", **options)({"image": image})["image"]


def refused(image, **options):
    with pytest.raises(InputError) as caught:
        move(image, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def corners(affine, shape):
    """The eight outer corners in mm."""
    ends = itertools.product(*[(-0.5, n - 0.5) for n in shape])
    return nib.affines.apply_affine(np.asarray(affine), np.array(list(ends)))


# geometry


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
@pytest.mark.parametrize("scale", ["[2,2,2]", "[1,1,4]", "[2,2.5,3]"])
def test_the_field_of_view_keeps_all_its_corners(affine, scale):
    image = scan(affine=affine, shape=(14, 12, 9))  # so that each scale gives whole voxels
    moved = move(image, scale=scale)
    factors = np.array(eval(scale))
    assert moved.shape[1:] == tuple(round(n * f) for n, f in zip((14, 12, 9), factors, strict=True))
    expected = corners(affine, (14, 12, 9))
    np.testing.assert_allclose(corners(moved.affine, moved.shape[1:]), expected, atol=1e-4)
    np.testing.assert_allclose(spacing_of(moved.affine), spacing_of(affine) / factors)


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_a_field_of_view_that_is_no_multiple_starts_at_the_same_corner_and_is_covered(affine):
    moved = move(scan(affine=affine), spacing=0.7)
    start, end = (corners(a, s)[[0, -1]] for a, s in ((moved.affine, moved.shape[1:]), (affine, SHAPE)))
    np.testing.assert_allclose(start[0], end[0], atol=1e-4)
    inverse = np.linalg.inv(np.asarray(moved.affine))
    last = nib.affines.apply_affine(inverse, end[1]) + 0.5  # the old end in new voxels from the corner
    assert (last <= np.array(moved.shape[1:]) + 1e-6).all() and (last > np.array(moved.shape[1:]) - 1).all()


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_brightness_stays_at_its_place_in_mm(affine):
    image = scan(affine=affine, shape=(18, 16, 15))
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in image.shape[1:]], indexing="ij"), -1)
    centre = nib.affines.apply_affine(affine, (8.3, 7.8, 7.1))
    distance = np.linalg.norm((nib.affines.apply_affine(affine, grid) - centre) / [4, 4, 9], axis=-1)
    image[0] = torch.as_tensor(np.exp(-0.5 * distance**2))
    moved = move(image, scale=[2, 1.5, 3])
    values = moved[0].numpy()
    points = np.stack(np.meshgrid(*[np.arange(n) for n in values.shape], indexing="ij"), -1)
    found = (points * values[..., None]).sum((0, 1, 2)) / values.sum()
    old = (grid * image[0].numpy()[..., None]).sum((0, 1, 2)) / float(image.sum())
    one, other = (nib.affines.apply_affine(np.asarray(a), p) for a, p in ((moved.affine, found), (affine, old)))
    np.testing.assert_allclose(one, other, atol=0.02)


def test_meta_data_stay():
    moved = move(scan(), scale=2)
    assert moved.meta["filename_or_obj"] == "a.nii.gz" and moved.meta["intensity_low"] == 3
    assert moved.dtype == torch.float32 and moved.affine.dtype == torch.float64


# which grid


def test_the_default_is_isotropic_at_the_finest_spacing():
    moved = move(scan((0.8, 1.2, 3.2), (10, 12, 8)))
    np.testing.assert_allclose(spacing_of(moved.affine), 0.8)
    assert moved.shape == (1, 10, 18, 32)


@pytest.mark.parametrize("spacing", [0.5, "0.5", [0.5, 0.5, 0.5], "[0.5,0.5,0.5]"])
def test_spacing_is_in_mm(spacing):
    moved = move(scan((1, 1, 3)), spacing=spacing)
    assert moved.shape == (1, 28, 22, 54)
    np.testing.assert_allclose(spacing_of(moved.affine), 0.5)


def test_the_papers_clinical_scan_comes_to_half_a_millimetre():
    image = scan((0.4464, 0.4464, 3), (56, 44, 6))
    moved = move(image, spacing=0.5)
    assert moved.shape == (1, 50, 40, 36)
    np.testing.assert_allclose(spacing_of(moved.affine), 0.5, atol=1e-9)
    # the axes that get coarser see the slice profile of the new spacing
    step = 0.5 / 0.4464
    centres = (np.arange(50) + 0.5) * step - 0.5
    weights = np.exp(-0.5 * ((np.arange(56) - centres[:, None]) / (step / FWHM)) ** 2)
    weights /= weights.sum(axis=1, keepdims=True)
    wide = np.exp(-0.5 * ((np.arange(44) - ((np.arange(40) + 0.5) * step - 0.5)[:, None]) / (step / FWHM)) ** 2)
    wide /= wide.sum(axis=1, keepdims=True)
    coarser = np.einsum("ij,kl,jlm->ikm", weights, wide, image[0].numpy())
    positions = ((np.arange(36) + 0.5) / 6 - 0.5)[None]
    expected = np.apply_along_axis(lambda line: map_coordinates(line, positions, order=3, mode="nearest"), 2, coarser)
    np.testing.assert_allclose(moved[0], expected, atol=1e-5)


def test_finer_axes_are_splines_and_the_others_stay():
    image = scan()
    moved = move(image, scale="[1,1,3]")
    positions = ((np.arange(27) + 0.5) / 3 - 0.5)[None]
    expected = [[map_coordinates(line, positions, order=3, mode="nearest") for line in row] for row in image[0].numpy()]
    np.testing.assert_allclose(moved[0], expected, atol=1e-5)


def test_a_spacing_that_is_nearly_the_same_is_the_same():
    moved = move(scan((1.0002, 1, 3)), spacing=1)
    assert moved.shape == (1, 14, 11, 27)
    np.testing.assert_allclose(spacing_of(moved.affine), [1.0002, 1, 1])


# what cannot be done


@pytest.mark.parametrize("spacing", [(1, 1, 1), (1, 1, 1.015)])
def test_an_isotropic_scan_without_a_wish_gets_a_hint(spacing):
    text = refused(scan(spacing))
    assert text.startswith("a.nii.gz: isotropic already (1 mm)") and "--scale" in text and "--spacing 0.5" in text


def test_both_wishes_at_once_are_refused():
    assert refused(scan(), spacing=1, scale=2) == "give either spacing or scale, not both"
    move(scan(), spacing="null", scale=2)


@pytest.mark.parametrize("options", [{"scale": 1}, {"spacing": 3}, {"scale": "[0.5,1,1]"}, {"spacing": "[1,1,3]"}])
def test_a_wish_that_makes_no_axis_finer_is_refused(options):
    assert refused(scan(), **options).startswith("a.nii.gz: no axis gets finer: the scan has 1 x 1 x 3 mm, the target")


def test_a_target_beyond_all_memory_is_refused():
    assert "the target grid would have" in refused(scan(), spacing=0.001)


@pytest.mark.parametrize("name", ["spacing", "scale", "slice_thickness"])
def test_what_is_no_number_is_refused_by_name(name):
    assert refused(scan(), **{name: "fine"}).startswith(f"{name} must be")


# warnings


def warnings(caplog, image, **options):
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        move(image, **options)
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("scale", ["[2,2,2]", "[3,3,3]", "[1,1,6]", "[2,1,1.5]", "[6,1,1]"])
def test_factors_that_were_trained_draw_no_warning(caplog, scale):
    assert warnings(caplog, scan(), scale=scale) == []


@pytest.mark.parametrize("scale", ["[4,4,4]", "[1,1,7]", "[1,4,4]", "[1,4,5]"])
def test_other_factors_draw_one_line(caplog, scale):
    (line,) = warnings(caplog, scan(), scale=scale)
    assert line.startswith("a.nii.gz: factors ") and "outside what the weights were trained on" in line


# thickness other than the spacing


def test_gaps_and_overlap_on_a_finer_axis_draw_one_line_and_change_nothing(caplog):
    image = scan((1, 1, 3))
    for thickness, share in ((2.4, "0.8"), (4, "1.3")):
        (line,) = warnings(caplog, image, slice_thickness=thickness)
        assert line.startswith("a.nii.gz: slices of") and f"--slice_thickness {share}" in line
        torch.testing.assert_close(move(image, slice_thickness=thickness).as_tensor(), move(image).as_tensor())


def test_an_axis_that_gets_coarser_is_blurred_by_what_its_own_profile_lacks():
    image = scan((1, 1, 3))
    keys = {"spacing": "[2,1,1]"}
    plain, thick, whole = (move(image, **keys, slice_thickness=t)[0, :, 4, 7] for t in (None, "[1.5,1,3]", "[2,1,3]"))
    index = torch.arange(image.shape[1]).double()
    centres = (torch.arange(len(thick)) + 0.5) * 2 - 0.5
    sigma = math.sqrt(2**2 - 1.5**2) / FWHM
    weights = torch.exp(-0.5 * ((index - centres[:, None]) / sigma) ** 2)
    expected = (weights / weights.sum(1, keepdim=True)) @ move(image, spacing="[1,1,1]")[0, :, 4, 7].double()
    torch.testing.assert_close(thick.as_tensor().double(), expected, atol=1e-4, rtol=1e-4)
    assert plain.std() < thick.std() < whole.std()


@pytest.mark.parametrize("thickness", ["null", 4, "[1,1,4]", 3.999])
def test_slices_as_thick_as_their_spacing_are_left_alone(caplog, thickness):
    image = scan((1, 1, 4))
    moved = move(image, slice_thickness=thickness)
    torch.testing.assert_close(moved.as_tensor(), move(image).as_tensor())
    assert warnings(caplog, image, slice_thickness=thickness) == []


def test_one_thickness_is_that_of_the_coarsest_axis_and_three_are_per_axis(caplog):
    image = scan((3, 1, 1))
    one, three = (warnings(caplog, image, slice_thickness=t) for t in (2, "[2,1,1]"))
    assert len(one) == 1 and one == three


def test_spacings_stored_with_few_digits_add_no_voxel():
    image = scan((0.7986111, 0.79861112, 6.000001), (72, 72, 11))
    assert move(image, spacing="[1,1,1]").shape == (1, 58, 58, 66)
