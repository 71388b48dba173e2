# SPDX-License-Identifier: Apache-2.0
"""Synthetic brains: anatomy, contrasts and detail of single cases."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from common.data.sample_data import make_brain_case
from common.data.sample_data.anatomy import make_anatomy
from common.data.sample_data.brain import SEQUENCES
from common.data.sample_data.fields import smooth_field

SMALL = (40, 48, 44)
TINY = (16, 18, 20)
WIDE = (150, 184, 24)  # reaches beyond the brain on four sides
KINDS = (*SEQUENCES, "seg")


@pytest.fixture(scope="module")
def wide_case():
    return make_brain_case(3, WIDE)


def test_same_seed_gives_the_same_voxels_and_another_seed_does_not():
    first, again, other = make_brain_case(1, TINY), make_brain_case(1, TINY), make_brain_case(2, TINY)
    for kind in KINDS:
        np.testing.assert_array_equal(first[kind], again[kind])
    assert all((first[kind] != other[kind]).mean() > 0.5 for kind in SEQUENCES)


@pytest.mark.parametrize("shape", [TINY, SMALL, (33, 16, 70)])
@pytest.mark.parametrize("seed", range(4))
def test_small_fields_of_view_hold_brain_and_the_whole_tumour(shape, seed):
    case = make_brain_case(seed, shape)
    assert all(case[kind].shape == shape for kind in KINDS)
    assert all(case[kind].dtype == np.float32 for kind in SEQUENCES) and case["seg"].dtype == np.uint8
    assert (case["t1n"] > 0).mean() > 0.8
    assert set(np.unique(case["seg"])) == {0, 1, 2, 3}


def test_background_is_exactly_zero_and_the_same_in_all_sequences(wide_case):
    brain = wide_case["t1n"] > 0
    assert 0.3 < brain.mean() < 0.8
    assert not brain[[0, -1]].any() and not brain[:, [0, -1]].any()
    for kind in SEQUENCES:
        np.testing.assert_array_equal(wide_case[kind] > 0, brain)
        assert 300 < np.percentile(wide_case[kind][brain], 99.9) < 2000
    assert not wide_case["seg"][~brain].any()


def test_tissues_fill_the_brain_and_nothing_else():
    anatomy = make_anatomy(np.random.default_rng(0), WIDE)
    np.testing.assert_allclose(anatomy.csf + anatomy.grey + anatomy.white, anatomy.brain, atol=1e-5)
    assert min(part.min() for part in (anatomy.csf, anatomy.grey, anatomy.white)) > -1e-5
    shares = [part.sum() / anatomy.brain.sum() for part in (anatomy.csf, anatomy.grey, anatomy.white)]
    assert 0.03 < shares[0] < 0.25 and min(shares[1:]) > 0.25


@pytest.mark.parametrize("seed", range(3))
def test_tissue_contrasts_are_ordered_as_in_reality(seed):
    case = make_brain_case(seed, (60, 70, 50))
    anatomy = make_anatomy(np.random.default_rng(seed), (60, 70, 50))  # the case's own: drawn first
    healthy = (case["seg"] == 0) & (anatomy.vessel < 0.1)
    tissues = [ndimage.binary_erosion((part > 0.9) & healthy) for part in (anatomy.csf, anatomy.grey, anatomy.white)]
    mean = {kind: [case[kind][tissue].mean() for tissue in tissues] for kind in SEQUENCES}
    for kind in ("t1n", "t1c"):
        assert mean[kind] == sorted(mean[kind])
    assert mean["t2w"] == sorted(mean["t2w"], reverse=True)
    csf, grey, white = mean["t2f"]
    assert grey > white > 2 * csf


@pytest.mark.parametrize("seed", range(3))
def test_tumour_parts_stand_out_as_in_reality(seed):
    case = make_brain_case(seed, (64, 70, 60))
    core, oedema, rim = (case["seg"] == label for label in (1, 2, 3))
    brain = {kind: np.median(case[kind][case["seg"] == 0]) for kind in SEQUENCES}
    ratio = {kind: [case[kind][part].mean() / brain[kind] for part in (core, oedema, rim)] for kind in SEQUENCES}
    assert ratio["t1c"][2] > 1.4 > 1.1 > ratio["t1n"][2]  # the rim takes up contrast agent
    assert ratio["t1n"][0] < 0.85 and ratio["t1c"][0] < 0.85  # the core is dark on T1
    assert min(ratio["t2w"][:2]) > 1.15  # water
    assert ratio["t2f"][1] == max(ratio["t2f"]) and ratio["t2f"][1] > 1.3
    # The rim closes around the core.
    assert not (ndimage.binary_dilation(core) & oedema).sum() > 0.02 * core.sum()


def test_detail_is_as_fine_as_in_a_real_scan(wide_case):
    """Losing every second voxel must hurt as in a real 1 mm scan (27 to 30 dB), not as in the smooth average brain."""
    image = wide_case["t1n"]
    image = np.clip(image / np.percentile(image[image > 0], 99.9), 0, 1)
    low = ndimage.gaussian_filter(image, 2 / 2.3548)[::2, ::2, ::2]
    back = ndimage.map_coordinates(low, np.indices(image.shape) / 2, order=3, mode="nearest")
    psnr = -10 * np.log10(np.square(back - image)[image > 0].mean())
    assert 25 < psnr < 31


def test_affine_puts_the_field_of_view_on_the_brain():
    affine = make_brain_case(0, TINY)["affine"]
    np.testing.assert_array_equal(affine[:3, :3], np.eye(3))
    np.testing.assert_allclose(affine[:3, :3] @ ((np.array(TINY) - 1) / 2) + affine[:3, 3], [0, -17, 5], atol=2)


@pytest.mark.parametrize("shape", [(40, 48), (40, 48, 8), 40, "abc", (40.5, 48, 44)])
def test_impossible_shapes_are_named(shape):
    with pytest.raises(ValueError, match="at least 16 voxels"):
        make_brain_case(0, shape)


@pytest.mark.parametrize("spacing", [1.6, 5.0, 40.0])
def test_smooth_fields_have_unit_spread_everywhere(spacing):
    fields = np.stack([smooth_field(np.random.default_rng(i), (11, 13), spacing) for i in range(400)])
    assert np.abs(fields.mean(axis=0)).max() < 0.25
    np.testing.assert_allclose(fields.std(axis=0), 1, atol=0.2)
