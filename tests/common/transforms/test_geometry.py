# SPDX-License-Identifier: Apache-2.0
"""Grids keep their outer corner; guides land at the same place in mm."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from common.errors import InputError
from common.transforms.geometry import AddGuidesd, better_shift, coverage, grid_affine, spacing_of

OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.3, -0.2, 0.5) @ np.diag([0.9, -1.1, 2.5]), [-40.0, 12.5, 7.25]
)


def field(points):
    """A smooth brightness of space, in mm."""
    x, y, z = np.moveaxis(np.asarray(points, dtype=np.float64), -1, 0)
    return 3 + np.sin(x / 9) + 0.8 * np.cos(y / 7) + 0.5 * np.sin(z / 8)


def scan(shape, affine):
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    return field(nib.affines.apply_affine(affine, grid)).astype(np.float32)


def write(path, shape, affine, data=None):
    data = scan(shape, affine) if data is None else data
    nib.save(nib.Nifti1Image(data, affine), path)
    return str(path)


def centred(shape, spacing, flips=(1, 1, 1)):
    matrix = np.diag(np.multiply(spacing, flips))
    return nib.affines.from_matvec(matrix, -matrix @ ((np.asarray(shape) - 1) / 2))


@pytest.fixture
def image():
    shape = (20, 17, 15)
    affine = centred(shape, (1.0, 1.2, 1.5))
    meta = {"filename_or_obj": "case-t1n.nii.gz", "intensity_low": 0.0}
    return MetaTensor(torch.as_tensor(scan(shape, affine))[None], affine=torch.as_tensor(affine), meta=meta)


# grids


def test_spacing_is_the_length_of_the_axes_in_mm():
    np.testing.assert_allclose(spacing_of(OBLIQUE), [0.9, 1.1, 2.5])
    np.testing.assert_allclose(spacing_of(torch.as_tensor(OBLIQUE)), [0.9, 1.1, 2.5])


def test_another_spacing_keeps_the_outer_corner():
    steps = (0.5, 1.0, 2.5)
    moved = grid_affine(OBLIQUE, steps)
    corner = [-0.5, -0.5, -0.5, 1]
    np.testing.assert_allclose(moved @ corner, OBLIQUE @ corner, atol=1e-12)
    np.testing.assert_allclose(spacing_of(moved), np.multiply([0.9, 1.1, 2.5], steps))
    np.testing.assert_array_equal(grid_affine(OBLIQUE, (1, 1, 1)), OBLIQUE)


def test_coverage_is_the_share_seen():
    shape = (20, 10, 12)
    assert coverage(np.eye(4), shape, np.eye(4), shape) == 1
    half = np.eye(4)
    half[0, 3] = 10
    assert coverage(half, shape, np.eye(4), shape) == pytest.approx(0.5, abs=0.1)
    half[0, 3] = 100
    assert coverage(half, shape, np.eye(4), shape) == 0


# guides


@pytest.mark.parametrize(
    ("shape", "spacing", "flips"),
    [
        ((40, 34, 32), (0.7, 0.8, 0.9), (1, 1, 1)),
        ((34, 30, 32), (0.8, 0.9, 0.9), (-1, -1, 1)),
        ((30, 34, 24), (0.9, 0.8, 1.1), (-1, 1, -1)),
    ],
    ids=["finer", "LPS", "mirrored"],
)
def test_a_guide_on_another_grid_lands_where_it_belongs(tmp_path, image, shape, spacing, flips):
    guide = write(tmp_path / "g.nii.gz", shape, centred(shape, spacing, flips))
    out = AddGuidesd("image", guides=1)({"image": image, "guide": [guide]})["image"]
    assert out.shape == (2, 20, 17, 15)
    expected = image[0].as_tensor()
    # brightness is scaled on the way in, places are not: the two are a straight line of each other
    mine = out[1].as_tensor()
    slope, intercept = np.polyfit(expected.flatten().numpy(), mine.flatten().numpy(), 1)
    assert slope > 0
    np.testing.assert_allclose(mine, slope * expected + intercept, atol=0.02)


def test_a_guide_with_exchanged_axes_lands_where_it_belongs(tmp_path, image):
    affine = centred((40, 34, 32), (0.7, 0.8, 0.9))
    turned = affine[:, [2, 0, 1, 3]]
    data = scan((40, 34, 32), affine)
    straight = write(tmp_path / "a.nii.gz", None, affine, data)
    exchanged = write(tmp_path / "b.nii.gz", None, turned, np.ascontiguousarray(data.transpose(2, 0, 1)))
    out = AddGuidesd("image", guides=2)({"image": image, "guide": [straight, exchanged]})["image"]
    torch.testing.assert_close(out[1], out[2], atol=1e-4, rtol=0)


def test_the_image_keeps_its_voxels_affine_and_meta_data(tmp_path, image):
    guide = write(tmp_path / "g.nii.gz", (40, 34, 32), centred((40, 34, 32), (0.7, 0.8, 0.9)))
    out = AddGuidesd("image", guides=1)({"image": image, "guide": [guide]})["image"]
    assert torch.equal(out[0].as_tensor(), image[0].as_tensor())
    assert torch.equal(out.affine, image.affine)
    assert out.meta["filename_or_obj"] == "case-t1n.nii.gz" and out.meta["intensity_low"] == 0
    assert image.shape[0] == 1


def test_guides_are_scaled_to_background_0_and_bright_1_and_are_0_outside_their_view(tmp_path, image):
    affine = centred((20, 17, 9), (1.0, 1.2, 1.5))  # shorter along the last axis
    data = np.zeros((20, 17, 9), np.float32)
    data[4:16, 4:14, 1:8] = 500 * scan((12, 10, 7), affine)
    out = AddGuidesd("image", guides=1)({"image": image, "guide": [write(tmp_path / "g.nii.gz", None, affine, data)]})
    guide = out["image"][1].as_tensor()
    assert guide[..., :3].abs().max() == 0 and guide[..., -3:].abs().max() == 0
    assert float(guide.max()) == pytest.approx(1, abs=0.05)


def test_without_guides_an_image_passes_unchanged(image):
    assert AddGuidesd("image")({"image": image})["image"] is image


def refused(image, guides, paths):
    with pytest.raises(InputError) as caught:
        AddGuidesd("image", guides=guides)({"image": image, "guide": paths})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_another_number_of_guides_is_refused(image):
    text = "case-t1n.nii.gz: the network takes {} guide sequence(s), given are {}"
    assert refused(image, 1, []) == text.format(1, 0)
    assert refused(image, 0, ["a.nii"]) == text.format(0, 1)


def test_a_guide_of_another_place_is_refused(tmp_path, image):
    far = centred((20, 17, 15), (1.0, 1.2, 1.5))
    far[:3, 3] += 500
    path = write(tmp_path / "far.nii.gz", None, far, scan((20, 17, 15), np.eye(4)))
    assert refused(image, 1, [path]).startswith(f"{path}: shows 0% of the field of view of case-t1n.nii.gz")


def test_a_guide_with_nan_or_time_points_is_refused(tmp_path, image):
    data = scan((20, 17, 15), np.eye(4))
    several = write(tmp_path / "b.nii.gz", None, np.eye(4), np.stack([data] * 3, -1))
    assert "one 3D volume" in refused(image, 1, [several])
    data[3, 3, 3] = np.nan
    broken = write(tmp_path / "a.nii.gz", None, np.eye(4), data)
    assert refused(image, 1, [broken]) == f"{broken}: the guide has NaN or infinite voxels"


@pytest.fixture(scope="module")
def session():
    """Two sequences of a made brain, voxels of 2 mm, 72 mm edge length."""
    where = np.stack(np.meshgrid(*[np.linspace(-1, 1, 36)] * 3, indexing="ij"))
    radius = np.sqrt((where**2).sum(0))
    folds = np.sin(9 * where[0]) * np.cos(8 * where[1]) + np.sin(10 * where[2])
    tissue = np.where(radius > 0.85, 0, np.where(folds > 0.3, 3, np.where(folds > -0.5, 2, 1)))
    noise = np.random.default_rng(0).normal(0, 0.05, (2, *tissue.shape))
    first, second = np.choose(tissue, [0, 0.3, 0.6, 1]), np.choose(tissue, [0, 1, 0.5, 0.4])
    return (first + noise[0] * (tissue > 0)).clip(0), (second + noise[1] * (tissue > 0)).clip(0)


def test_registered_sequences_lie_best_as_they_are(session):
    first, second = session
    assert better_shift(first, second, (2, 2, 2)) is None
    assert better_shift(second, first, (2, 2, 2)) is None


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("voxels", [2, -3])
def test_a_shifted_sequence_is_found_and_the_way_back_told(session, axis, voxels):
    first, second = session
    found = better_shift(first, np.roll(second, voxels, axis), (2, 2, 2))
    assert found is not None and found[axis] == -np.sign(voxels) * 4
    assert [found[other] for other in range(3) if other != axis] == [0, 0]


def test_images_without_information_are_not_shifted():
    constant = np.ones((16, 16, 16))
    assert better_shift(constant, constant, (2, 2, 2)) is None
    assert better_shift(np.zeros((16, 16, 16)), constant, (2, 2, 2)) is None
    assert better_shift(constant[:4], constant[:4], (2, 2, 2)) is None


def test_a_guide_that_is_not_registered_draws_a_warning(session, tmp_path, caplog):
    first, second = session
    affine = np.diag([2.0, 2, 2, 1])
    image = MetaTensor(torch.as_tensor(first, dtype=torch.float32)[None], affine=torch.tensor(affine))
    for name, moved in (("fits", 0), ("off", 6)):
        affine[0, 3] = moved
        nib.save(nib.Nifti1Image(second.astype(np.float32), affine), tmp_path / f"{name}.nii.gz")
        AddGuidesd("image", guides=1)({"image": image, "guide": [str(tmp_path / f"{name}.nii.gz")]})
    (line,) = [each.getMessage() for each in caplog.records if each.name == "common.transforms.geometry"]
    assert "off.nii.gz: fits" in line and "registration.md" in line
