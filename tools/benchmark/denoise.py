# SPDX-License-Identifier: Apache-2.0
"""Denoising of MRI: the network against bare convolutions, and against BM4D on the same noisy volume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.metrics import Metric
from monai.utils import optional_import
from torch import nn

import rslm_denoise_lib
from common.data.sample_data import sample_brains
from common.engine.engines import half_type
from common.inferers import ForegroundInferer
from common.io.weights import build, in_format, load_into
from common.metrics import RegionPSNR, RegionSSIM
from common.transforms.geometry import middle_window
from common.transforms.intensity import ScaleIntensityRobustd, foreground_mask
from common.utils.console import multiplications, say
from common.utils.values import amp_pays
from rslm_denoise_lib.networks import Generator, memory_format
from rslm_denoise_lib.noise import Noise, parse_levels

from .compare import Comparison, check_counts, chosen_device, in_turn, report, seconds_text

bm4d, has_bm4d = optional_import("bm4d")


def denoise(
    edge: int = 88,
    device: str = "cpu",
    markdown: str | None = None,
    level: float = 3.0,
    scan: str | None = None,
    weights: str | None = None,
    repeats: int = 1,
    amp: bool | None = None,
) -> None:
    """Measure rslm_denoise: whole-volume inference against bare convolutions and against BM4D, as ratios.

    BM4D comes from the package bm4d (extra "benchmark"), whose licence is for non-commercial use; it runs on the CPU
    and is told the true noise level. The defaults take about a minute on two free CPU cores.

    Args:
        edge: edge of the cube cut from the middle of the scan, in voxels
        device: such as cpu or cuda; BM4D always runs on the CPU
        markdown: file to write the table to
        level: noise, in percent of the foreground's 99.9 percentile
        scan: noise-free NIfTI file; the held-out sample brain's T1c if not given
        weights: of a generator; the bundle's own if not given
        repeats: timed runs of each side
        amp: bfloat16 or float32; where it pays if not given
    """
    check_counts(edge=edge, repeats=repeats)
    if not has_bm4d:
        raise ValueError('the package bm4d is missing: pip install -e ".[benchmark]"')
    where = chosen_device(device)
    percent = parse_levels(level)[0]
    truth = _scan(scan, edge)
    path = weights or Path(rslm_denoise_lib.__file__).parents[1] / "models" / "model.pt"
    network = load_into(build(Generator, path, {}), path)
    network = in_format(network, memory_format(network, where), where)
    noisy = Noise()(truth, percent, seed=0)
    mixed = network.residual and amp_pays(where) if amp is None else bool(amp)
    comparisons, notes = _compare(network, noisy, truth, percent / 100, repeats, where, mixed)
    size = "x".join(map(str, truth.shape[1:]))
    report(f"denoise: {size} voxels, {percent:g} % Rician noise", where, comparisons, notes, markdown)


def _scan(path: str | None, edge: int) -> torch.Tensor:
    """Middle of a noise-free scan ``(1, H, W, D)`` with background 0 and the foreground's 99.9 percentile at 1."""
    file = path or sorted(sample_brains().glob("*/*-t1c.nii.gz"))[-1]
    try:
        volume = torch.as_tensor(np.asarray(nib.Nifti1Image.from_filename(file).dataobj, dtype=np.float32))[None]
    except (OSError, nib.filebasedimages.ImageFileError) as error:
        raise ValueError(f"{file}: {error}") from error
    if volume.ndim != 4:
        raise ValueError(f"{file}: a 3D scan is needed, this one has {volume.ndim - 1} axes")
    volume = ScaleIntensityRobustd("image")({"image": volume})["image"]
    window = middle_window(foreground_mask(volume)[0], (edge,) * 3)
    return torch.as_tensor(volume)[(slice(None), *window)].clamp_min(0).contiguous()


def _score(metric: Metric, image: torch.Tensor, truth: torch.Tensor) -> float:
    return float(torch.as_tensor(metric(image[None], truth[None])))


def _compare(
    network: Generator,
    noisy: torch.Tensor,
    truth: torch.Tensor,
    sigma: float,
    repeats: int,
    device: torch.device,
    mixed: bool,
) -> tuple[list[Comparison], list[str]]:
    image, inferer = noisy[None].to(device), ForegroundInferer(foreground=False)
    layer = max((m for m in network.layers if isinstance(m, nn.Conv3d)), key=lambda m: m.weight.numel())
    form = memory_format(network, device)
    edge = layer.kernel_size[0]
    bare = in_format(nn.Conv3d(layer.in_channels, layer.out_channels, edge, padding="same"), form, device)
    features = torch.rand(1, layer.in_channels, *noisy.shape[1:]).to(device, memory_format=form)
    autocast: dict[str, Any] = {"device_type": device.type, "dtype": half_type(device), "enabled": mixed}
    work, single = multiplications(network), layer.weight.numel()
    passes = max(1, round(work / single))  # as long as the network, so that other load meets both alike
    results: dict[str, Any] = {}

    def convolutions() -> None:
        with torch.inference_mode(), torch.autocast(**autocast):
            for _ in range(passes):
                bare(features)

    def ours() -> None:
        with torch.autocast(**autocast):
            results["network"] = inferer(image, network)[0].cpu()

    def other() -> None:
        results["BM4D"] = torch.as_tensor(bm4d.bm4d(noisy[0].numpy(), sigma))[None].float()

    jobs = [convolutions, ours, other]
    bare_time, time, other_time = in_turn(jobs, repeats, device, warm_up=device.type == "cuda")
    voxels = truth.numel()
    rate, peak = work * voxels / time, passes * single * voxels / bare_time
    size = "x".join(map(str, layer.kernel_size))
    comparisons = [
        Comparison(
            f"whole-volume inference against a bare {size} convolution, multiplications per second",
            f"{rate / 1e9:.1f} G/s",
            f"{peak / 1e9:.1f} G/s",
            rate / peak,
            least=0.7,
        ),
        Comparison(
            "whole-volume inference against BM4D, times as fast",
            seconds_text(time),
            seconds_text(other_time),
            other_time / time,
            least=10.0,
        ),
    ]
    for comparison in comparisons:
        say(f"{comparison.what}: ratio {comparison.row()[3]}")
    mask = foreground_mask(truth)
    scores = [
        f"{name} {_score(RegionPSNR(), image, truth):.2f} dB / {_score(RegionSSIM(), image, truth):.4f}"
        for name, image in {"noisy": noisy, "network": results["network"], "BM4D": results["BM4D"]}.items()
    ]
    return comparisons, [
        f"Foreground PSNR / SSIM against the noise-free volume: {', '.join(scores)}.",
        f"Per voxel: network {1e6 * time / voxels:.3g} us, BM4D {1e6 * other_time / voxels:.3g} us;"
        f" {work} multiplications per voxel in {'16 bits' if mixed else 'float32'},"
        f" {100 * float(mask.float().mean()):.0f} % of the voxels are foreground.",
        "BM4D is told the true noise level and takes the noise for Gaussian; its licence is for non-commercial use.",
    ]
