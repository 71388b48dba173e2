# SPDX-License-Identifier: Apache-2.0
"""Degradation is physical: centred profiles, sampled where the voxels are, and equal to scipy."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, gaussian_filter1d, map_coordinates, zoom
from scipy.stats import norm

from common.transforms.degradation import (
    FWHM,
    apply_per_axis,
    degrade,
    low_resolution_size,
    profile_matrix,
    profile_sigma,
    round_trip_matrix,
    spline_matrix,
)

FACTORS = (1.1, 1.5, 2, 2.37, 2.5, 3, 4, 6)
SHAPE = (31, 24, 27)  # deliberately unequal, and no multiple of any factor on all axes


def random_volume(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape or SHAPE)


def centre_of_mass(image):
    image = np.asarray(image, dtype=np.float64)
    grids = np.meshgrid(*[np.arange(n) for n in image.shape], indexing="ij")
    return np.array([(grid * image).sum() for grid in grids]) / image.sum()


def blob(centre, width=3.0, shape=(48, 44, 52)):
    """A bright spot at a fractional position."""
    grids = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    return np.exp(-sum((g - c) ** 2 for g, c in zip(grids, centre, strict=True)) / (2 * width**2))


def scipy_degrade_axis(image, axis, factor, sigma):
    """The same acquisition with scipy: a normal density at the physical centres, then a cubic spline."""
    size = image.shape[axis]
    centres = (np.arange(math.ceil(size / factor)) + 0.5) * factor - 0.5
    weights = norm.pdf(np.arange(size)[None], centres[:, None], sigma)
    weights /= weights.sum(axis=1, keepdims=True)
    low = np.apply_along_axis(lambda line: weights @ line, axis, image)
    back = ((np.arange(size) + 0.5) / factor - 0.5)[None]
    return low, lambda x: np.apply_along_axis(
        lambda line: map_coordinates(line, back, order=3, mode="nearest"), axis, x
    )


# sizes and rows


@pytest.mark.parametrize("factor", FACTORS)
def test_low_resolution_covers_the_field_of_view(factor):
    for size in (7, 24, 31):
        low = low_resolution_size(size, factor)
        assert low == math.ceil(size / factor)
        assert profile_matrix(size, factor, 1.0).shape == (low, size)


def test_rounding_errors_of_the_factor_add_no_voxel():
    assert low_resolution_size(9, 0.9) == 10
    assert low_resolution_size(100, 1 / 3) == 300
    assert low_resolution_size(3, 0.1 * 3) == 10
    assert low_resolution_size(2, 6) == 1


@pytest.mark.parametrize("factor", FACTORS)
def test_rows_sum_to_one(factor):
    for matrix in (
        profile_matrix(29, factor, profile_sigma(factor)),
        spline_matrix(11, 29, 1 / factor),
        round_trip_matrix(29, factor, profile_sigma(factor)),
    ):
        np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)


def test_factor_one_is_the_identity_whatever_the_sigma():
    for sigma in (0, 0.4, 1.0):
        np.testing.assert_array_equal(profile_matrix(13, 1, sigma), np.eye(13))
        np.testing.assert_array_equal(round_trip_matrix(13, 1, sigma), np.eye(13))
    image = torch.rand(1, *SHAPE)
    low, back = degrade(image, (1, 1, 1))
    assert torch.equal(low, image) and torch.equal(back, image)


@pytest.mark.parametrize("factor", FACTORS)
def test_row_i_is_the_normalised_gaussian_at_low_resolution_centre_i(factor):
    size, sigma = 31, factor / 2.3548
    matrix = profile_matrix(size, factor, profile_sigma(factor))
    for i, row in enumerate(matrix):
        expected = np.array([math.exp(-0.5 * ((j - ((i + 0.5) * factor - 0.5)) / sigma) ** 2) for j in range(size)])
        np.testing.assert_allclose(row, expected / expected.sum(), atol=1e-5)


def test_the_profile_is_half_as_high_half_a_voxel_from_its_centre():
    row = profile_matrix(41, 5, profile_sigma(5))[4]  # centred on voxel 22
    assert pytest.approx(2.3548, abs=1e-4) == FWHM
    assert row.argmax() == 22
    half = np.interp(2.5, [2, 3], np.log(row[[24, 25]] / row[22]))
    assert math.exp(half) == pytest.approx(0.5, abs=0.02)


def test_a_slice_thinner_than_its_spacing_has_a_thinner_profile():
    assert profile_sigma(4, thickness=0.5) == pytest.approx(profile_sigma(2))
    assert profile_sigma(4, sigma=1.0, thickness=0.5) == 1.0
    full, gaps = (profile_matrix(40, 4, profile_sigma(4, thickness=t)) for t in (1.0, 0.5))
    assert gaps.max() > full.max()


def test_without_blur_voxels_are_taken_as_they_lie():
    line = random_volume(12)
    np.testing.assert_allclose(profile_matrix(12, 3, 0) @ line, line[1::3])
    np.testing.assert_allclose(profile_matrix(12, 2, 0) @ line, (line[::2] + line[1::2]) / 2)


@pytest.mark.parametrize(("factor", "sigma"), [(0, 1.0), (-2, 1.0), (2, -1.0)])
def test_an_impossible_factor_or_sigma_is_refused(factor, sigma):
    with pytest.raises(ValueError, match="factor must be above 0"):
        profile_matrix(12, factor, sigma)


@pytest.mark.parametrize("factor", [0.5, 0.4464 / 0.5])
def test_an_axis_sampled_finer_than_the_truth_is_interpolated_and_comes_back(factor):
    smooth = np.cos(np.arange(30) / 4)
    finer = profile_matrix(30, factor, profile_sigma(factor)) @ smooth
    positions = ((np.arange(len(finer)) + 0.5) * factor - 0.5)[None]
    assert len(finer) == math.ceil(30 / factor)
    assert np.allclose(finer, map_coordinates(smooth, positions, order=3, mode="nearest"), atol=1e-9)
    assert np.abs(round_trip_matrix(30, factor, profile_sigma(factor)) @ smooth - smooth)[3:-3].max() < 2e-3


def test_as_many_factors_as_axes_are_needed():
    with pytest.raises(ValueError):
        degrade(torch.rand(1, 8, 9, 10), (2, 0, 2))
    with pytest.raises(ValueError):
        degrade(torch.rand(9, 10), (2, 2, 2))


# against scipy


def test_profile_equals_scipys_gaussian_filter_at_an_odd_factor():
    line = random_volume(61)
    expected = gaussian_filter1d(line, 3 / FWHM, truncate=9)[1::3]
    mine = profile_matrix(61, 3, profile_sigma(3)) @ line
    np.testing.assert_allclose(mine[4:-4], expected[4 : len(mine) - 4], atol=1e-10)


@pytest.mark.parametrize("factor", FACTORS)
def test_spline_equals_map_coordinates_on_a_random_signal(factor):
    low = random_volume(14)
    positions = ((np.arange(33) + 0.5) / factor - 0.5)[None]
    expected = map_coordinates(low, positions, order=3, mode="nearest")
    np.testing.assert_allclose(spline_matrix(14, 33, 1 / factor) @ low, expected, atol=1e-9)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_spline_equals_zoom_with_grid_mode_at_integer_factors(factor):
    low = random_volume(9, 7, 8)
    matrices = [spline_matrix(n, n * factor, 1 / factor) for n in low.shape]
    expected = zoom(low, factor, order=3, mode="nearest", grid_mode=True)
    np.testing.assert_allclose(apply_per_axis(torch.as_tensor(low), matrices), expected, atol=1e-6)


@pytest.mark.parametrize("factors", [(2, 2, 2), (2.5, 1.7, 3), (1, 1, 4)])
def test_a_volume_equals_scipy_axis_by_axis(factors):
    image = random_volume()
    low, backs = image, []
    for axis, factor in enumerate(factors):
        if factor > 1:
            low, back = scipy_degrade_axis(low, axis, factor, factor / FWHM)
            backs.append(back)
    expected = low
    for back in backs:
        expected = back(expected)
    mine_low, mine = degrade(torch.as_tensor(image, dtype=torch.float32)[None], factors)
    np.testing.assert_allclose(mine_low[0], low, atol=1e-5)
    np.testing.assert_allclose(mine[0], expected, atol=1e-5)


# geometry


@pytest.mark.parametrize("factors", [(2, 2, 2), (2.5, 2.5, 2.5), (3, 3, 3), (1, 1, 4), (2, 2.5, 3)])
def test_a_bright_spot_stays_where_it_is(factors):
    centre = (20.3, 23.8, 26.1)
    image = blob(centre)
    low, back = degrade(torch.as_tensor(image), factors)
    np.testing.assert_allclose(centre_of_mass(back), centre, atol=5e-3)
    in_low_voxels = [(c + 0.5) / f - 0.5 for c, f in zip(centre, factors, strict=True)]
    np.testing.assert_allclose(centre_of_mass(low), in_low_voxels, atol=5e-3)


@pytest.mark.parametrize("factors", [(2, 2, 2), (2.5, 2.5, 2.5), (3, 3, 3), (1, 1, 4)])
def test_a_point_source_stays_on_average_over_its_positions(factors):
    shifts = []
    for offset in range(12):  # each phase of the sampling, so that its aliasing cancels out
        image = np.zeros((60, 60, 60))
        image[(24 + offset,) * 3] = 1
        shifts.append(centre_of_mass(degrade(torch.as_tensor(image), factors)[1]) - 24 - offset)
    assert np.abs(shifts).max() < 0.5
    np.testing.assert_allclose(np.mean(shifts, axis=0), 0, atol=0.02)


@pytest.mark.parametrize("factor", [2, 3])
def test_naive_striding_and_zoom_shift_the_image_and_this_does_not(factor):
    centre = (20.3, 23.8, 26.1)
    image = blob(centre, shape=(48, 42, 54))
    blurred = gaussian_filter(image, factor / FWHM)
    strided = blurred[(slice(None, None, factor),) * 3]
    naive = zoom(strided, factor, order=3, grid_mode=False)
    assert np.abs(centre_of_mass(naive) - centre).min() > 0.3
    mine = degrade(torch.as_tensor(image), (factor,) * 3)[1]
    assert np.abs(centre_of_mass(mine) - centre).max() < 5e-3


@pytest.mark.parametrize("factors", [(2, 2, 2), (1.3, 2.5, 6)])
def test_a_constant_volume_survives_up_to_its_borders(factors):
    low, back = degrade(torch.full((1, *SHAPE), 7.0, dtype=torch.float64), factors)
    torch.testing.assert_close(low, torch.full_like(low, 7.0))
    torch.testing.assert_close(back, torch.full_like(back, 7.0))


@pytest.mark.parametrize("factor", [2, 2.5, 3])
def test_a_ramp_survives_away_from_the_borders(factor):
    ramp = np.arange(80.0)[:, None, None] + np.zeros((1, 5, 6))
    low, back = degrade(torch.as_tensor(ramp), (factor, 1, 1))
    centres = (np.arange(low.shape[0]) + 0.5) * factor - 0.5
    inner = slice(8, -8)
    np.testing.assert_allclose(low[inner, 0, 0], centres[inner], atol=1e-3)
    np.testing.assert_allclose(back[25:-25, 2, 3], ramp[25:-25, 2, 3], atol=1e-3)


# tensors


def test_leading_axes_are_batched():
    batch = torch.rand(2, 3, *SHAPE)
    low, back = degrade(batch, (2, 1, 2.5))
    assert low.shape == (2, 3, 16, 24, 11)
    for b in range(2):
        for c in range(3):
            one_low, one = degrade(batch[b, c], (2, 1, 2.5))
            torch.testing.assert_close(low[b, c], one_low)
            torch.testing.assert_close(back[b, c], one)


def test_images_in_two_dimensions_work_too():
    low, back = degrade(torch.rand(1, 31, 24), (2, 3))
    assert low.shape == (1, 16, 8) and back.shape == (1, 31, 24)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_floating_type_is_kept(dtype):
    image = torch.as_tensor(random_volume()).to(dtype)
    low, back = degrade(image, (2, 2.5, 1))
    assert low.dtype == back.dtype == dtype
    torch.testing.assert_close(back.double(), degrade(image.double(), (2, 2.5, 1))[1], atol=1e-5, rtol=0)


def test_whole_numbers_are_not_truncated():
    image = (torch.rand(SHAPE) * 1000).short()
    torch.testing.assert_close(degrade(image, (2, 2, 2))[1], degrade(image.float(), (2, 2, 2))[1])


def test_the_image_itself_is_left_alone():
    image = torch.rand(SHAPE)
    before = image.clone()
    degrade(image, (2, 1, 3))
    assert torch.equal(image, before)
