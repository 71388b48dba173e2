# SPDX-License-Identifier: Apache-2.0
"""Rivals of lesion_msgan: interpolation, and SRResNet of the same budget."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch

from .interpolation import enlarge
from .rival import Evaluation, Rival

__all__ = ["CAPTION", "LOWER", "SCORES", "WHOLE", "rivals", "subject"]

SCORES = ("psnr_region", "ssim_region", "gms_region")
CAPTION = "slices with lesion, averaged by volume; PSNR in dB, of the region; multiplications per low-resolution pixel"
LOWER = False
WHOLE = {"validate::dataset::slices": None}
FACTOR = 4
TAPS = {"bilinear": 2, "bicubic": 4, "lanczos": 6}


def subject(case: str) -> str:
    """What counts as one case of the statistics: a volume, whose slices are averaged.

    Cases are called volume_slice or volume_slice_downsampling.
    """
    return re.sub(r"_\d+(_[a-z]+)?$", "", case)


def lanczos(image: torch.Tensor) -> torch.Tensor:
    """A low-resolution slice ``(1, 1, h, w)`` at four times the resolution."""
    size = [FACTOR * n for n in image.shape[-2:]]
    return enlarge(image, size, [FACTOR] * 2, "lanczos")


def rivals(evaluation: Evaluation, given: Mapping[str, Any]) -> list[Rival]:
    """The methods, those that are absent with their reasons.

    The held-out slices carry what further methods make of them, cut to the region; a network is applied to the whole
    slice, as in the paper.

    Args:
        evaluation: of the bundle; methods are added to its data set's "others".
        given: ``srresnet``: weights of an SRResNet trained with the same budget.
    """
    methods = [
        Rival(key, key, _carried(key), work=16 * 2 * TAPS[key], timed=False, baseline=key == "bicubic")
        for key in ("bilinear", "bicubic")
    ]
    evaluation.dataset.others["lanczos"] = lanczos
    methods.append(Rival("lanczos", "Lanczos", _carried("lanczos"), work=16 * 2 * TAPS["lanczos"], timed=False))
    name = "SRResNet of the same budget"
    if given.get("srresnet"):
        other = evaluation.with_keys({"compared": {"srresnet": str(given["srresnet"])}})
        evaluation.dataset.others["srresnet"] = other.dataset.others["srresnet"]
        methods.append(Rival("srresnet", name, _carried("srresnet"), timed=False))
    else:
        train, words = "train.json with paper/base.json and paper/srresnet.json", "{'srresnet': 'best.pt'}"
        reason = f'no weights given: {train}, then --rival_weights "{words}"'
        methods.append(Rival("srresnet", name, reason=reason))
    return methods


def _carried(key: str) -> Callable[[Mapping[str, Any]], torch.Tensor]:
    return lambda item: item[key]
