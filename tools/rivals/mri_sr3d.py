# SPDX-License-Identifier: Apache-2.0
"""Rivals of mri_sr3d: interpolation, variational super-resolution, the authors' own weights, and ECLARE."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from scipy import ndimage

from common.transforms.degradation import degrade
from common.transforms.geometry import grid_affine

from .interpolation import enlarge
from .low_rank import lrtv
from .non_local import has_skimage, upsample_non_local
from .rival import Evaluation, Rival

__all__ = ["CAPTION", "LOWER", "SCORES", "WHOLE", "acquired", "rivals", "run_eclare", "subject"]

SCORES = ("psnr_foreground", "ssim_foreground", "psnr_whole", "ssim_whole")
CAPTION = "whole volumes; PSNR in dB; multiplications per high-resolution voxel"
LOWER = False
WHOLE: dict[str, Any] = {}
TAPS = {"linear": 2, "spline": 4, "lanczos": 6}
PROGRAM = "run-eclare"


def subject(case: str) -> str:
    """What counts as one case of the statistics: a volume."""
    return case


def acquired(item: Mapping[str, Any], sigma: float | None, thickness: float) -> tuple[torch.Tensor, list[float]]:
    """The low-resolution voxels ``(h, w, d)`` of a whole held-out volume, as the dataset made them, and the factors."""
    factors = [float(factor) for factor in item["setting"].split("x")]
    return degrade(item["label"], factors, sigma, thickness)[0][0], factors


def rivals(evaluation: Evaluation, given: Mapping[str, Any]) -> list[Rival]:
    """The methods, those that are absent with their reasons.

    Args:
        evaluation: of the bundle.
        given: ``authors``: the authors' weights, converted by ``tools.convert_caffe``.
    """
    sigma, thickness = evaluation.dataset.sigma, evaluation.dataset.thickness

    def interpolated(how: str) -> Callable[[Mapping[str, Any]], torch.Tensor]:
        def apply(item: Mapping[str, Any]) -> torch.Tensor:
            low, factors = acquired(item, sigma, thickness)
            return enlarge(low, item["label"].shape[1:], factors, how)[None]

        return apply

    def variational(rank: float) -> Callable[[Mapping[str, Any]], torch.Tensor]:
        def apply(item: Mapping[str, Any]) -> torch.Tensor:
            low, factors = acquired(item, sigma, thickness)
            return lrtv(low, item["label"].shape[1:], factors, sigma, thickness, rank=rank)[None]

        return apply

    def similar(item: Mapping[str, Any]) -> torch.Tensor:
        low, factors = acquired(item, sigma, thickness)
        return upsample_non_local(low, item["label"].shape[1:], factors, sigma, thickness)[None]

    def eclare(item: Mapping[str, Any]) -> torch.Tensor:
        low, factors = acquired(item, sigma, thickness)
        return run_eclare(low, item["label"].shape[1:], factors)[None]

    names = {"linear": "trilinear", "spline": "cubic spline", "lanczos": "Lanczos"}
    methods = [
        Rival(how, name, interpolated(how), work=3 * TAPS[how], baseline=how == "spline") for how, name in names.items()
    ]
    methods += [
        Rival("tv", "total variation", variational(0.0), note="told the slice profile"),
        Rival("lrtv", "LRTV (Shi 2015)", variational(1e-3), note="told the slice profile; from the published formula"),
        Rival("nmu", "non-local upsampling (Manjon 2010)", similar, note="told the slice profile; as published")
        if has_skimage
        else Rival("nmu", "non-local upsampling (Manjon 2010)", reason="scikit-image is not installed"),
        _authors(evaluation, given),
    ]
    if shutil.which(PROGRAM):
        methods.append(Rival("eclare", "ECLARE", eclare, note="GPL-3, run as a program; trains on each scan"))
    else:
        methods.append(Rival("eclare", "ECLARE", reason=f"no program {PROGRAM} here (pip install eclare; GPL-3)"))
    return methods


def _authors(evaluation: Evaluation, given: Mapping[str, Any]) -> Rival:
    key, name = "authors", "the authors' weights"
    if not given.get(key):
        reason = "not given: python -m tools.convert_caffe FILE --out model.pt, then --rival_weights"
        return Rival(key, name, reason=f"{reason} \"{{'authors': 'model.pt'}}\"")
    other = evaluation.with_keys({"weights": str(given[key])})
    return Rival(
        key,
        name,
        lambda item: other.predict(item)[0],
        note="CeCILL-B; trained at 2 x 2 x 2 with a blur of sigma 1",
        work=other.work,
    )


def run_eclare(low: torch.Tensor, size: Any, factors: Any) -> torch.Tensor:
    """What the program ECLARE makes of a scan, on the high-resolution grid of 1 mm.

    Raises:
        RuntimeError: the program failed or left no image.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder, "scan.nii.gz"), Path(folder, "out")
        nib.save(nib.Nifti1Image(low.cpu().numpy(), grid_affine(np.eye(4), factors)), source)
        command = [PROGRAM, "--in-fpath", str(source), "--out-dir", str(out)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        found = sorted(out.rglob("*.nii*")) if out.is_dir() else []
        if ended.returncode or not found:
            last = (ended.stderr.strip().splitlines() or ["no image written"])[-1]
            raise RuntimeError(f"{shlex.join(command[:1])} failed: {last}")
        made = nib.Nifti1Image.from_filename(found[-1])
        # voxel centres of the 1 mm grid in the result's own voxels
        to_made = np.linalg.inv(made.affine)
        values = ndimage.affine_transform(
            made.get_fdata(dtype=np.float32), to_made[:3, :3], to_made[:3, 3], tuple(size), order=3, mode="nearest"
        )
    return torch.from_numpy(values)
