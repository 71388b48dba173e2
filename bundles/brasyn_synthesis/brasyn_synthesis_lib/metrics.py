# SPDX-License-Identifier: Apache-2.0
"""SSIM and PSNR in tumour and in healthy brain (sec. 3), and roughness between slices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.handlers import IgniteMetricHandler, from_engine

from common.metrics import CaseScore, LesionDrift, ssim_map

from .segmentation import Segmenter, downstream_metrics

__all__ = ["REGIONS", "SynthesisScore", "roughness", "scores_of", "synthesis_metrics"]

REGIONS = ("healthy", "tumour")
KINDS = ("ssim", "psnr", "roughness")
CLIP = (0.5, 99.5)  # percentiles of the truth's brain
MARGIN = 6  # voxels, more than the SSIM window reaches


def scores_of(
    image: torch.Tensor, label: torch.Tensor, kind: str, region: str = "healthy", challenge: bool = False
) -> float:
    """One score of a volume.

    Both images are clipped to the 0.5 and 99.5 percentiles of the truth in the brain, which become 0 and 1. SSIM is the
    mean of the 3D map (Gaussian window of 11 voxels) over the region, PSNR in dB of the region's mean squared error.

    Departs from the paper: it names no range. The convention of the challenge's own script (``challenge``) clips each
    image to these percentiles of its own whole volume, which hides errors of brightness; then sets to 0 what lies
    outside the region; and counts the background as healthy, so that scores depend on the field of view. (That script
    takes voxels by a mask of integers, which picks other ones; the mean over the mask is what it describes.)

    Args:
        image: ``(H, W, D)``.
        label: ``(3, H, W, D)``: truth, tumour, brain.
        kind: ``ssim``, ``psnr`` or ``roughness``.
        region: ``healthy`` (brain without tumour) or ``tumour``.
        challenge: score by the challenge's convention; of whole volumes.

    Returns:
        The score; NaN where the region is empty.
    """
    truth, tumour, brain = label[0].double(), label[1] > 0.5, label[2] > 0.5
    if challenge and kind != "roughness":
        mask = tumour if region == "tumour" else ~tumour
        return _score(_clipped(image.double(), image) * mask, _clipped(truth, truth) * mask, mask, kind)
    mask = tumour & brain if region == "tumour" else brain & ~tumour
    if not mask.any():
        return float("nan")
    if kind == "roughness":
        return roughness(image, brain) / max(roughness(truth, brain), 1e-12)
    inside = truth[brain]
    return _score(_clipped(image.double(), inside), _clipped(truth, inside), mask, kind)


def _clipped(image: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """An image in [0, 1], clipped to percentiles of values."""
    low, high = (float(v) for v in np.percentile(values.cpu().numpy(), CLIP))
    return ((image - low) / max(high - low, 1e-12)).clamp(0, 1)


def _score(image: torch.Tensor, truth: torch.Tensor, mask: torch.Tensor, kind: str) -> float:
    if not mask.any():
        return float("nan")
    if kind == "psnr":
        return float(-10 * torch.log10(((image - truth) ** 2)[mask].mean().clamp_min(1e-10)))
    window = tuple(
        slice(max(int(side.min()) - MARGIN, 0), int(side.max()) + MARGIN + 1) for side in torch.nonzero(mask).T
    )
    return float(ssim_map(image[window], truth[window])[mask[window]].mean())


def roughness(image: torch.Tensor, brain: torch.Tensor) -> float:
    """How much rougher an image is across axial slices than within them: 1 where all directions are alike.

    The mean absolute second difference across the last axis over the mean of those along the two others, inside the
    brain. Blur and noise change all three alike; slices that do not fit together change the first alone.

    Args:
        image: ``(H, W, D)``, axial slices across the last axis.
        brain: mask of the same shape.
    """
    first, second, across = (_bend(image.movedim(a, -1), brain.movedim(a, -1)) for a in range(3))
    return across / max((first + second) / 2, 1e-12)


def _bend(image: torch.Tensor, brain: torch.Tensor) -> float:
    bend = (image[..., 2:] - 2 * image[..., 1:-1] + image[..., :-2]).abs()
    inside = brain[..., 2:] & brain[..., 1:-1] & brain[..., :-2]
    return float(bend[inside].mean()) if inside.any() else float("nan")


class SynthesisScore(CaseScore):
    """``scores_of`` as a metric; volumes whose region is empty are left out of the mean.

    Args:
        kind: ``ssim``, ``psnr``, or ``roughness``: that of the prediction over that of the truth, 1 is best.
        region: ``healthy`` or ``tumour``.
        challenge: see ``scores_of``.
    """

    def __init__(self, kind: str, region: str = "healthy", challenge: bool = False) -> None:
        super().__init__()
        if kind not in KINDS or region not in REGIONS:
            raise ValueError(f"kind must be one of {KINDS} and region one of {REGIONS}, got {kind!r} and {region!r}")
        self.kind, self.region, self.challenge = kind, region, challenge

    def score(self, image: torch.Tensor, truth: torch.Tensor) -> float:
        """Score of a prediction ``(1, H, W, D)`` with the label ``(3, H, W, D)``."""
        return scores_of(image[0], truth, self.kind, self.region, self.challenge)


def synthesis_metrics(
    but: str | None = None,
    others: Sequence[str] = ("regression",),
    rough: bool = False,
    challenge: bool = False,
    segmenter: Segmenter | None = None,
    target: str = "",
) -> dict:
    """All scores of the prediction and of the simple methods, for an evaluator.

    Args:
        but: name of the key metric, which is left out.
        others: keys of further methods' results in the output, whose scores have the key and "_" in front.
        rough: also the roughness between slices, and the drift of the tumour's volume, see
            ``common.metrics.lesion_drift``; of whole volumes.
        challenge: see ``scores_of``.
        segmenter: also the Dice of what it finds, see ``segmentation.downstream_metrics``; None for none.
        target: the sequence that is made, for the segmenter.
    """
    names = [("ssim", "healthy"), ("ssim", "tumour"), ("psnr", "healthy"), ("psnr", "tumour")]
    metrics = {}
    prefixes = {key: "" if key == "pred" else f"{key}_" for key in ("pred", "baseline", *others)}
    for key, prefix in prefixes.items():
        for kind, region in [*names, *([("roughness", "healthy")] if rough else [])]:
            name = prefix + (kind if kind == "roughness" else f"{kind}_{region}")
            if name != but:
                metrics[name] = IgniteMetricHandler(
                    metric_fn=SynthesisScore(kind, region, challenge), output_transform=from_engine([key, "label"])
                )
        if rough:
            metrics[prefix + "drift_lesion"] = IgniteMetricHandler(
                metric_fn=LesionDrift(), output_transform=from_engine([key, "label"])
            )
    if segmenter is not None:
        metrics |= downstream_metrics(segmenter, target, {prefix: key for key, prefix in prefixes.items()})
    return metrics
