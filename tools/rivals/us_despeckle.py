# SPDX-License-Identifier: Apache-2.0
"""Rivals of us_despeckle: classical filters, and those of the paper's table that can be had."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from monai.utils import optional_import
from scipy import ndimage

from .diffusion import dpad, frost, lee, srad
from .obnlm import obnlm
from .rival import Evaluation, Rival

__all__ = ["CAPTION", "LOWER", "SCORES", "WHOLE", "filters", "rivals", "subject"]

SCORES = (
    *("kl_reference", "kl_input", "kl_tissue", "kl_tissue_input"),
    *("ssnr", "cnr", "ssim_input", "width_lateral", "ssim_clean"),
)
CAPTION = (
    "whole frames; KL of each frame by itself, which blur alone can bring down: read it with ssim_input; kl_tissue,"
    " kl_tissue_input, ssnr, cnr and width_lateral in patches of tissue (the paper's section III B), which the run"
    " prints: the three most homogeneous ones of each frame unless `roi` names others; widths in pixels;"
    " multiplications per pixel"
)
LOWER = True
WHOLE = {"validate::dataset::crop": None}
NOT_FOUND = "no public code of it was found, and its paper was not at hand to write it from"
ABSENT = {  # of the paper's table I
    "sbf": ("SBF", f"the squeeze box filter (Tay et al. 2010): {NOT_FOUND}"),
    "rtad": ("RTAD", f"Rayleigh-trimmed anisotropic diffusion (Deng et al. 2011): {NOT_FOUND}"),
    "admss": ("ADMSS", "diffusion with memory (Ramos-Llorden et al. 2015): its code is MATLAB; no Python package"),
    "eagf": ("EAGF", f"the edge aware geometric filter (Mishra et al. 2017): {NOT_FOUND}"),
    "epprsrad": ("EPPRSRAD", f"diffusion by edge probability and pixel relativity (Mishra et al. 2017): {NOT_FOUND}"),
}

Filter = Callable[[np.ndarray], np.ndarray]


def subject(case: str) -> str:
    """What counts as one case of the statistics: a frame."""
    return case


def filters() -> dict[str, tuple[str, str, Filter | None]]:
    """Name, package and function of each filter, by its key; without a function the package is not installed.

    The filters take grey levels ``(H, W)`` in [0, 1].
    """
    restoration, has_skimage = optional_import("skimage.restoration")
    sitk, has_sitk = optional_import("SimpleITK")

    def on_itk(job: Callable) -> Filter:
        return lambda image: sitk.GetArrayFromImage(job(sitk.GetImageFromArray(image.astype(np.float32))))

    known: dict[str, tuple[str, str, Filter | None]] = {
        "median": ("median 5x5 (scipy)", "scipy", lambda image: ndimage.median_filter(image, 5)),
        "lee": ("Lee 7x7", "", lee),
        "frost": ("Frost 7x7", "", frost),
        "srad": ("SRAD", "", srad),
        "dpad": ("DPAD", "", dpad),
        "obnlm": ("OBNLM", "", obnlm),
        "tv": ("total variation (scikit-image)", "scikit-image", None),
        "nlm": ("non-local means (scikit-image)", "scikit-image", None),
        "bilateral": ("bilateral (SimpleITK)", "SimpleITK", None),
        "curvature": ("curvature diffusion (SimpleITK)", "SimpleITK", None),
    }
    functions: dict[str, Filter] = {}
    if has_skimage:
        functions["tv"] = lambda image: restoration.denoise_tv_chambolle(image, weight=0.15)
        functions["nlm"] = lambda image: restoration.denoise_nl_means(
            image, patch_size=5, patch_distance=7, h=0.12, fast_mode=True
        )
    if has_sitk:
        functions["bilateral"] = on_itk(lambda image: sitk.Bilateral(image, domainSigma=3.0, rangeSigma=0.15))
        functions["curvature"] = on_itk(
            lambda image: sitk.CurvatureAnisotropicDiffusion(
                image, timeStep=0.0625, conductanceParameter=2.0, numberOfIterations=15
            )
        )
    return {key: (name, package, functions.get(key, job)) for key, (name, package, job) in known.items()}


def rivals(evaluation: Evaluation, given: Mapping[str, Any]) -> list[Rival]:
    """The methods, those that are absent with their reasons; ``given`` is not used."""
    notes = {"obnlm": "its authors hold a patent (WO/2009/133307)"}
    methods = [Rival("input", "input", lambda item: item["image"], timed=False, baseline=True)]
    for key, (name, package, job) in filters().items():
        if job is None:
            methods.append(Rival(key, name, reason=f"not installed (pip install {package})"))
        else:
            methods.append(Rival(key, name, _on_frame(job), note=notes.get(key, "")))
    return methods + [Rival(key, name, reason=why) for key, (name, why) in ABSENT.items()]


def _on_frame(job: Filter) -> Callable[[Mapping[str, Any]], torch.Tensor]:
    def apply(item: Mapping[str, Any]) -> torch.Tensor:
        return torch.from_numpy(np.asarray(job(item["image"][0].numpy()), np.float32)).clamp(0, 1)[None]

    return apply
