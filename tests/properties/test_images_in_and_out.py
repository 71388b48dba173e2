# SPDX-License-Identifier: Apache-2.0
"""What is read and written again keeps its place, its grid and its values, whatever the affine and the type."""

import itertools
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

pytest.importorskip("hypothesis")

from hypothesis import given
from hypothesis import strategies as st

from common.io.readers import LoadScan
from common.io.savers import SaveRestoredd
from common.transforms.geometry import grid_affine, spacing_of
from common.transforms.intensity import RestoreIntensityd, ScaleIntensityRobustd

SHAPES = st.tuples(*[st.integers(1, 12)] * 3)
SEEDS = st.integers(0, 2**31 - 1)
ANGLES = st.floats(-3.2, 3.2)
SPACINGS = st.floats(0.05, 20)
UNITS = st.sampled_from([("mm", 1.0), ("meter", 1000.0), ("micron", 0.001)])
TYPES = st.sampled_from([np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])


@st.composite
def affines(draw):
    """Turned, mirrored, sheared and moved grids of voxels in mm."""
    turned = nib.eulerangles.euler2mat(*(draw(ANGLES) for _ in range(3)))
    scaled = np.diag([draw(SPACINGS) * draw(st.sampled_from([1, -1])) for _ in range(3)])
    shear = np.eye(3)
    if draw(st.booleans()):
        shear[0, 1], shear[1, 2] = draw(st.floats(-0.4, 0.4)), draw(st.floats(-0.4, 0.4))
    return nib.affines.from_matvec(turned @ shear @ scaled, [draw(st.floats(-500, 500)) for _ in range(3)])


def corners(affine, shape):
    places = np.array(list(itertools.product(*[(-0.5, n - 0.5) for n in shape])))
    return nib.affines.apply_affine(np.asarray(affine, float), places)


def saved(image, folder, **options):
    saver = SaveRestoredd("pred", output_dir=str(folder), output_postfix="out", facts={"bundle": "b"}, **options)
    return nib.load(folder / saver({"pred": image})["saved"][-1])


@given(SHAPES, affines(), TYPES, UNITS, st.sampled_from([(0, 1), (0, 3), (1, 1), (1, 2), (2, 4)]), SEEDS)
def test_affine_codes_grid_and_values_come_back(shape, affine, kind, unit, codes, seed):
    random = np.random.default_rng(seed)
    limits = (0, 255) if kind == np.uint8 else (-1000, 1000) if np.dtype(kind).kind != "u" else (0, 60_000)
    voxels = random.uniform(*limits, shape).astype(kind)
    name, millimetres = unit
    header = affine.copy()
    header[:3] /= millimetres
    nifti = nib.Nifti1Image(voxels, header)
    nifti.set_qform(header, codes[0])
    nifti.set_sform(header, codes[1])
    nifti.header.set_xyzt_units(name)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "in" / f"a.nii{'.gz' if seed % 2 else ''}"
        path.parent.mkdir()
        nib.save(nifti, path)
        image = LoadScan()(str(path))
        assert image.shape == (1, *shape)
        np.testing.assert_array_equal(image.numpy()[0], voxels.astype(np.float32))
        result = saved(image, Path(folder) / "out")
        back = LoadScan()(result.get_filename())
        assert result.shape == shape and result.get_data_dtype() == np.float32
        assert int(result.header["sform_code"]) == codes[1] and result.header.get_xyzt_units()[0] == "mm"
        # header numbers have single precision
        exact = 1e-4 + 4e-7 * np.abs(corners(affine, shape)).max()
        for found in (result.affine, back.affine):
            assert np.abs(corners(found, shape) - corners(affine, shape)).max() <= exact
        if result.header["qform_code"] > 0:
            assert np.abs(corners(result.get_qform(), shape) - corners(affine, shape)).max() <= 0.01 * max(
                1, spacing_of(affine).max()
            )
        torch.testing.assert_close(back.as_tensor(), image.as_tensor(), rtol=0, atol=0)


@given(SHAPES, affines(), st.floats(1, 32_000), SEEDS)
def test_whole_numbers_are_rounded(shape, affine, most, seed):
    values = torch.rand(1, *shape, generator=torch.Generator().manual_seed(seed)) * 2 * most - most
    with tempfile.TemporaryDirectory() as folder:
        image = MetaTensor(values, affine=affine, meta={"filename_or_obj": f"{folder}/a.nii"})
        Path(folder, "a.nii").touch()
        result = saved(image, Path(folder) / "out", integers=True)
        assert result.get_data_dtype() == np.int16
        assert np.abs(result.get_fdata() - values[0].numpy()).max() <= 0.5 + 1e-3


@given(SHAPES, affines(), st.tuples(*[st.floats(0.1, 8)] * 3))
def test_another_spacing_starts_at_the_same_outer_corner(shape, affine, steps):
    other = grid_affine(affine, steps)
    np.testing.assert_allclose(spacing_of(other), spacing_of(affine) * steps, rtol=1e-6)
    same = nib.affines.apply_affine(affine, [[-0.5] * 3, [shape[i] * steps[i] - 0.5 for i in range(3)]])
    np.testing.assert_allclose(nib.affines.apply_affine(other, [[-0.5] * 3, np.array(shape) - 0.5]), same, atol=1e-6)


@given(SHAPES, st.floats(-1e4, 1e4), st.floats(1e-3, 1e5), SEEDS, st.floats(0, 0.9))
def test_scaled_intensities_are_restored(shape, low, width, seed, empty):
    random = torch.Generator().manual_seed(seed)
    values = low + width * torch.rand(1, *shape, generator=random)
    values[torch.rand(1, *shape, generator=random) < empty] = low
    before = MetaTensor(values, affine=torch.eye(4))
    scaled = ScaleIntensityRobustd("image")({"image": before})
    restored = RestoreIntensityd("pred")({**scaled, "pred": scaled["image"].as_tensor()})["pred"]
    reach = abs(low) + width
    torch.testing.assert_close(restored.as_tensor(), before.as_tensor(), rtol=0, atol=4e-6 * reach)
