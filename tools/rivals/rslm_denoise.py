# SPDX-License-Identifier: Apache-2.0
"""Rivals of rslm_denoise: smoothing, three kinds of non-local means, BM4D, and FONDUE."""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.utils import optional_import
from scipy.ndimage import gaussian_filter

from common.transforms.intensity import foreground_mask

from .rician import denoise_stabilised
from .rival import Evaluation, Rival

__all__ = ["CAPTION", "LOWER", "SCORES", "WHOLE", "best_gaussian", "rivals", "run_program", "subject", "without_bias"]

SCORES = ("psnr_foreground", "ssim_foreground", "ncc_foreground", "psnr_whole", "ssim_whole")
CAPTION = "whole volumes; PSNR in dB; multiplications per voxel"
LOWER = False
WHOLE: dict[str, Any] = {"compared": []}
SIGMAS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2)  # voxels
TOLD = "told the level"

Filter = Callable[[np.ndarray, float], np.ndarray]


def subject(case: str) -> str:
    """What counts as one case of the statistics: a volume."""
    return case


def best_gaussian(noisy: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Gaussian smoothing with the sigma that comes nearest to the truth's foreground: more than a user could reach.

    Args:
        noisy: ``(1, H, W, D)``.
        truth: the same shape.
    """
    inside = foreground_mask(truth)
    results = [torch.from_numpy(gaussian_filter(noisy[0].numpy(), sigma))[None] for sigma in SIGMAS]
    return min(results, key=lambda result: float(((result - truth)[inside] ** 2).mean()))


def without_bias(smooth: np.ndarray, sigma: float) -> np.ndarray:
    """Takes off what Rician noise adds to a mean.

    The mean square of a magnitude is ``signal^2 + 2 sigma^2``, the square of a mean magnitude about
    ``signal^2 + sigma^2`` where the signal exceeds the noise.
    """
    return np.sqrt(np.maximum(smooth**2 - sigma**2, 0))


def rivals(evaluation: Evaluation, given: Mapping[str, Any]) -> list[Rival]:
    """The methods, those that are absent with their reasons.

    Args:
        evaluation: of the bundle.
        given: ``fondue``: command that denoises, with ``{source}`` and ``{result}`` for the files' names.
    """
    methods = [
        Rival("noisy", "noisy input", lambda item: item["image"], timed=False, baseline=True),
        Rival(
            "gaussian",
            "Gaussian, best sigma",
            lambda item: best_gaussian(item["image"], item["label"]),
            note="its sigma is chosen by the truth, out of nine",
        ),
    ]
    for key, name, package, note, make in (
        ("nlm", "non-local means (scikit-image)", "skimage.restoration", TOLD, _skimage),
        ("dipy", "non-local means (DIPY)", "dipy.denoise.nlmeans", TOLD, _dipy),
        ("ants", "ANTs DenoiseImage", "ants", "", _ants),
        ("bm4d", "BM4D", "bm4d", f"{TOLD}; licence for non-commercial use", _bm4d),
        ("bm4d_vst", "BM4D with Rician VST", "bm4d", f"{TOLD}; licence for non-commercial use", _bm4d_vst),
    ):
        module, installed = optional_import(package)
        if installed:
            methods.append(Rival(key, name, _on_volume(make(module)), note=note))
        else:
            pip = {"skimage": "scikit-image", "ants": "antspyx"}.get(package.split(".")[0], package.split(".")[0])
            methods.append(Rival(key, name, reason=f"not installed (pip install {pip})"))
    if given.get("fondue"):
        command = str(given["fondue"])
        methods.append(Rival("fondue", "FONDUE", _on_volume(lambda image, _: run_program(command, image))))
    else:
        reason = "no command given: --rival_weights \"{'fondue': 'COMMAND {source} {result}'}\", from its authors' page"
        methods.append(Rival("fondue", "FONDUE", reason=reason))
    return methods


def _on_volume(method: Filter) -> Callable[[Mapping[str, Any]], torch.Tensor]:
    """A filter of ``(H, W, D)`` float64 with the noise's sigma as a method of an item."""

    def apply(item: Mapping[str, Any]) -> torch.Tensor:
        sigma = float(item["level"]) / 100
        made = np.asarray(method(item["image"][0].double().numpy(), sigma), np.float32)
        return torch.from_numpy(made)[None]

    return apply


def _skimage(restoration: Any) -> Filter:
    def apply(image: np.ndarray, sigma: float) -> np.ndarray:
        smooth = restoration.denoise_nl_means(
            image, patch_size=5, patch_distance=4, h=0.6 * sigma, sigma=sigma, fast_mode=True
        )
        return without_bias(smooth, sigma)

    return apply


def _dipy(nlmeans: Any) -> Filter:
    # its own correction of the bias is switched on by rician=True
    return lambda image, sigma: nlmeans.nlmeans(
        image, sigma=sigma, patch_radius=1, block_radius=5, rician=True, num_threads=torch.get_num_threads()
    )


def _ants(ants: Any) -> Filter:
    def apply(image: np.ndarray, sigma: float) -> np.ndarray:
        return ants.denoise_image(ants.from_numpy(image.astype(np.float32)), noise_model="Rician").numpy()

    return apply


def _bm4d(package: Any) -> Filter:
    return lambda image, sigma: package.bm4d(image, sigma)


def _bm4d_vst(package: Any) -> Filter:
    return lambda image, sigma: denoise_stabilised(image, sigma, package.bm4d)


def run_program(command: str, image: np.ndarray) -> np.ndarray:
    """What a program makes of a volume, which it is given as a NIfTI file of 1 mm voxels.

    Args:
        command: with ``{source}`` and ``{result}`` where the files' names belong.
        image: ``(H, W, D)``.

    Raises:
        RuntimeError: the program failed, or left no image of that shape.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder, "noisy.nii.gz"), Path(folder, "result.nii.gz")
        nib.save(nib.Nifti1Image(image.astype(np.float32), np.eye(4)), source)
        words = [word.format(source=source, result=result) for word in shlex.split(command)]
        ended = subprocess.run(words, capture_output=True, text=True, check=False)
        if ended.returncode or not result.is_file():
            last = (ended.stderr.strip().splitlines() or ["no image written"])[-1]
            raise RuntimeError(f"{words[0]} failed: {last}")
        made = nib.Nifti1Image.from_filename(result).get_fdata(dtype=np.float32)
    if made.shape != image.shape:
        raise RuntimeError(f"{words[0]} gave {made.shape} voxels for {image.shape}")
    return made
