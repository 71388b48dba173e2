# SPDX-License-Identifier: Apache-2.0
"""Scores of denoised volumes: of whole volumes, and of their slices, as the paper prints them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from monai.handlers import IgniteMetricHandler, from_engine

from common.metrics import CaseScore, RegionPSNR, region_metrics, ssim_map

__all__ = ["SliceScore", "denoising_metrics", "key_metric"]


def _psnr(image: torch.Tensor, truth: torch.Tensor, top: float) -> float:
    return float(10 * torch.log10(top**2 / (image - truth).square().mean().clamp_min(1e-10 * top**2)))


def _ssim(image: torch.Tensor, truth: torch.Tensor, top: float) -> float:
    return float(ssim_map(image, truth, data_range=top).mean())


KINDS: dict[str, Callable[[torch.Tensor, torch.Tensor, float], float]] = {"psnr": _psnr, "ssim": _ssim}


class SliceScore(CaseScore):
    """Mean over a volume's slices of a score of whole slices, with each true slice's maximum as the range (eq. 7, 8).

    Slices lie across the last axis; those without anything above 0, the background level, have no range and are left
    out. Nothing is clipped. Slices of little maximum weigh as much as others, and background counts: numbers of
    ``common.metrics.RegionPSNR`` are other ones.

    Departs from the paper: the mean over all slices of a volume, where it prints one slice of each patient and does not
    say which; SSIM's windows are Gaussian, since it names none but their "common size N x N".

    Args:
        kind: ``psnr`` in dB, an exact copy has 100, or ``ssim``.

    Raises:
        ValueError: another kind.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {tuple(KINDS)}, got {kind!r}")
        self.kind = kind

    def score(self, image: torch.Tensor, truth: torch.Tensor) -> float:
        """Score of ``(1, H, W, D)``; NaN where all is background."""
        pairs = zip(image[0].double().unbind(-1), truth[0].double().unbind(-1), strict=True)
        scores = [KINDS[self.kind](a, b, float(b.max())) for a, b in pairs if b.max() > 0]
        return float(torch.tensor(scores).mean())


def key_metric() -> dict:
    """The metric that chooses a run's weights, ``psnr_foreground``."""
    return {"psnr_foreground": IgniteMetricHandler(RegionPSNR(), output_transform=from_engine(["pred", "label"]))}


def denoising_metrics(others: Sequence[str] = (), slices: bool = False) -> dict:
    """All scores but ``key_metric`` of prediction, noisy image (``baseline_...``) and other methods.

    Args:
        others: keys of what other methods made of the input; their scores have the key and "_" in front.
        slices: also ``psnr_slices`` and ``ssim_slices``, see ``SliceScore``.

    Returns:
        ``psnr``, ``ssim`` and ``ncc`` of the whole volume and its foreground, as ignite metrics.
    """
    metrics = region_metrics(but="psnr_foreground", kinds=("psnr", "ssim", "ncc"), others=others)
    for key, prefix in (("pred", ""), ("image", "baseline_"), *((other, f"{other}_") for other in others)):
        for kind in KINDS if slices else ():
            handler = IgniteMetricHandler(SliceScore(kind), output_transform=from_engine([key, "label"]))
            metrics[f"{prefix}{kind}_slices"] = handler
    return metrics
