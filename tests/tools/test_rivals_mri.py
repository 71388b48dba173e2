# SPDX-License-Identifier: Apache-2.0
"""Rivals for MR images: interpolation, variational super-resolution, the transform for Rician noise, programs."""

from __future__ import annotations

import stat
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import rice

from common.transforms.degradation import degrade
from tools.rivals.interpolation import KERNELS, enlarge, kernel_matrix
from tools.rivals.low_rank import lrtv, shrink_singular_values, total_variation
from tools.rivals.mri_sr3d import run_eclare
from tools.rivals.non_local import upsample_non_local
from tools.rivals.rician import denoise_stabilised, moments, restore, stabilise
from tools.rivals.rslm_denoise import best_gaussian, run_program, without_bias


@pytest.fixture(scope="module")
def volume():
    """Smooth ellipsoids with sharp borders."""
    axes = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in (36, 40, 32)], indexing="ij")
    radius = sum(axis**2 for axis in axes).sqrt()
    return ((radius < 0.9) * 0.5 + (radius < 0.5) * 0.3 + 0.1 * (radius < 0.9) * torch.sin(9 * axes[0])).float()


@pytest.mark.parametrize(("how", "mode"), [("linear", Image.BILINEAR), ("lanczos", Image.LANCZOS)])
@pytest.mark.parametrize("factor", [2, 4])
def test_interpolation_is_pillows(how, mode, factor):
    low = np.random.default_rng(0).random((9, 11), dtype=np.float32)
    ours = enlarge(torch.from_numpy(low), (9 * factor, 11 * factor), (factor, factor), how).numpy()
    theirs = np.asarray(Image.fromarray(low).resize((11 * factor, 9 * factor), mode))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_interpolation_of_fractional_and_untouched_axes_keeps_positions(volume):
    ramp = torch.arange(40.0)[None, :, None].expand(36, 40, 32).contiguous()
    low, spline = degrade(ramp, (1, 2.5, 2), sigma=0)
    for how in ("linear", "lanczos", "spline"):
        high = enlarge(low, ramp.shape, (1, 2.5, 2), how)
        assert high.shape == ramp.shape
        torch.testing.assert_close(high[:, 12:28], ramp[:, 12:28], atol=0.1, rtol=0)
    torch.testing.assert_close(enlarge(low, ramp.shape, (1, 2.5, 2), "spline"), spline)
    assert kernel_matrix(5, 13, 1 / 2.5, KERNELS["lanczos"]).sum(axis=1) == pytest.approx(1)


def test_total_variation_by_hand_and_its_gradient():
    image = torch.zeros(3, 3, 3)
    image[1, 1, 1] = 2.0
    # slopes of 2 in: three voxels before it one each, and three at once in itself
    assert float(total_variation(image, 0.0001)[0]) == pytest.approx(3 * 2 + 12**0.5, abs=0.01)
    image = torch.rand(3, 4, 5, dtype=torch.double, generator=torch.Generator().manual_seed(0)).requires_grad_()
    value, gradient = total_variation(image)
    torch.testing.assert_close(gradient.detach(), torch.autograd.grad(value, image)[0])


def test_singular_values_shrink():
    image = torch.rand(4, 5, 6, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    for axis in range(3):
        before = torch.linalg.svdvals(image.movedim(axis, 0).flatten(1))
        after = torch.linalg.svdvals(shrink_singular_values(image, axis, 0.7).movedim(axis, 0).flatten(1))
        torch.testing.assert_close(after, (before - 0.7).clamp_min(0), atol=1e-6, rtol=0)


@pytest.mark.parametrize("factors", [(2, 2, 2), (1, 1, 3)])
@pytest.mark.parametrize("rank", [0.0, 1e-3])
def test_lrtv_explains_the_acquisition_and_beats_spline(volume, factors, rank):
    low, spline = degrade(volume, factors)
    made = lrtv(low, volume.shape, factors, rank=rank)
    residual = [float((degrade(x, factors)[0] - low).abs().mean()) for x in (made, spline)]
    assert residual[0] < 0.5 * residual[1]
    error = [float((x - volume).square().mean()) for x in (made, spline)]
    assert error[0] < 0.75 * error[1]


@pytest.mark.parametrize("factors", [(2, 2, 2), (1, 1, 3)])
def test_non_local_upsampling_explains_the_acquisition_and_beats_spline(volume, factors):
    low, spline = degrade(volume, factors)
    made = upsample_non_local(low, volume.shape, factors)
    residual = [float((degrade(x, factors)[0] - low).abs().mean()) for x in (made, spline)]
    assert residual[0] < 0.5 * residual[1]
    error = [float((x - volume).square().mean()) for x in (made, spline)]
    assert error[0] < 0.9 * error[1]


def test_moments_are_scipys():
    signal = np.array([0.0, 0.5, 1.5, 4.0, 20.0])
    mean, spread = moments(signal)
    np.testing.assert_allclose(mean, rice.mean(signal), rtol=1e-8)
    np.testing.assert_allclose(spread, rice.std(signal), rtol=1e-6)


@pytest.mark.parametrize("signal", [1.0, 2.0, 5.0, 25.0, 80.0])
def test_noise_becomes_even_and_its_mean_the_signal_again(signal):
    random = np.random.default_rng(0)
    sigma = 0.04
    noisy = sigma * np.hypot(signal + random.normal(size=200_000), random.normal(size=200_000))
    stable = stabilise(noisy, sigma)
    assert stable.std() == pytest.approx(1, abs=0.08)
    assert restore(np.array([stable.mean()]), sigma)[0] == pytest.approx(sigma * signal, abs=0.02 * sigma)


def test_a_filter_for_gaussian_noise_loses_the_bias():
    random = np.random.default_rng(0)
    sigma, signal = 0.05, 0.08
    noisy = np.hypot(signal + sigma * random.normal(size=(40, 40)), sigma * random.normal(size=(40, 40)))
    told = []

    def mean(image, spread):
        told.append((image.min(), image.max(), image.std() / spread))
        return np.full_like(image, image.mean())

    assert noisy.mean() > signal + 0.01
    assert denoise_stabilised(noisy, sigma, mean).mean() == pytest.approx(signal, abs=0.005)
    low, high, ratio = told[0]
    assert (low, high) == (0, 1) and ratio == pytest.approx(1, abs=0.1)  # the filter is told the noise's true spread


def test_smoothing_is_judged_by_the_truth_and_bias_is_taken_off(volume):
    truth = volume[None]
    noisy = truth + 0.1 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    assert (best_gaussian(noisy, truth) - truth).square().mean() < 0.5 * (noisy - truth).square().mean()
    assert without_bias(np.array([0.05, 0.13]), 0.12) == pytest.approx([0, 0.05])


def program(path, body):
    path.write_text(f"#!{sys.executable}\nimport sys\n{body}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_a_program_denoises_by_files(tmp_path):
    body = (
        "import nibabel as n\n_, a, b = sys.argv\ni = n.load(a)\nn.save(n.Nifti1Image(i.get_fdata() / 2, i.affine), b)"
    )
    tool = program(tmp_path / "denoiser", body)
    image = np.random.default_rng(0).random((4, 5, 6))
    np.testing.assert_allclose(run_program(f"{tool} {{source}} {{result}}", image), image / 2, atol=1e-6)
    failing = program(tmp_path / "failing", "sys.exit('no memory left')")
    with pytest.raises(RuntimeError, match="failing failed: no memory left"):
        run_program(f"{failing} {{source}} {{result}}", image)


def test_eclare_is_run_as_a_program_and_brought_onto_the_grid(tmp_path, monkeypatch, volume):
    """A stand-in that interpolates to 1 mm on a grid of its own, half a voxel aside."""
    body = """
import numpy as np, nibabel as n
from scipy import ndimage
from pathlib import Path
words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
scan = n.load(words["--in-fpath"])
affine = np.eye(4)
affine[:3, 3] = 0.5
to_scan = np.linalg.inv(scan.affine) @ affine
size = dict(output_shape=(36, 40, 32), order=3, mode="nearest")
high = ndimage.affine_transform(scan.get_fdata(), to_scan[:3, :3], to_scan[:3, 3], **size)
out = Path(words["--out-dir"]) / "scan"
out.mkdir(parents=True)
n.save(n.Nifti1Image(high, affine), out / "scan_eclare.nii.gz")
"""
    program(tmp_path / "run-eclare", body)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    low, spline = degrade(volume, (1, 1, 3))
    made = run_eclare(low, volume.shape, (1, 1, 3))
    inner = np.s_[4:-4, 4:-4, 4:-4]
    assert float((made - spline)[inner].square().mean().sqrt()) < 0.03
    program(tmp_path / "run-eclare", "sys.exit('isotropic')")
    with pytest.raises(RuntimeError, match="run-eclare failed: isotropic"):
        run_eclare(low, volume.shape, (1, 1, 3))
