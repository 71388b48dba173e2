# SPDX-License-Identifier: Apache-2.0
"""Speckle in numbers: distances of grey-level distributions, speckle's signal-to-noise ratio, contrast and grain.

Distributions: 256 bins of [0, 1], level k of a result at 8 bits in bin k, all pixels of the ultrasound region, pooled
over all frames; 1e-10 is added to each bin's probability, natural logarithm. Empty bins of x^ where y has some make the
divergence large, as the paper's 31.7 for one filter shows, so a number without its binning says little.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from monai.handlers import IgniteMetricHandler, from_engine
from monai.metrics import CumulativeIterationMetric

from common.errors import InputError
from common.metrics import CaseScore, ssim_map

from .rois import CONTRAST, boxes_of

__all__ = [
    "BINS",
    "EPSILON",
    "FlooredKL",
    "HistogramKL",
    "PatchScore",
    "cnr",
    "histogram",
    "key_metric",
    "kl_divergence",
    "patches_of",
    "speckle_metrics",
    "speckle_width",
    "ssnr",
]

BINS = 256
EPSILON = 1e-10
IMAGE, REGION, ROIS, CLEAN = range(4)  # channels of a validation item's "label"


def histogram(image: torch.Tensor, region: torch.Tensor) -> torch.Tensor:
    """Counts ``(256,)`` of the grey levels [0, 1] inside a region of the same shape, float64; levels are clipped.

    Raises:
        InputError: NaN, as a network gives whose training has diverged.
    """
    if image.isnan().any():
        raise InputError("the network gives NaN, its training has diverged; a lower --learning_rate may help")
    levels = (image.clamp(0, 1) * (BINS - 1)).round().long()
    return torch.bincount(levels[region > 0].flatten().cpu(), minlength=BINS).double()


def kl_divergence(reference: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """``KL(p, q) = sum p ln(p / q)`` in nats of counts ``(..., 256)``, see the module's text; 0 where they agree."""
    p, q = (counts.double() / counts.sum(dim=-1, keepdim=True).clamp_min(1) + EPSILON for counts in (reference, other))
    p, q = p / p.sum(dim=-1, keepdim=True), q / q.sum(dim=-1, keepdim=True)
    return (p * (p / q).log()).sum(dim=-1)


def ssnr(patch: np.ndarray) -> float:
    """Speckle's signal-to-noise ratio: mean by standard deviation of grey levels (the paper's reference 4)."""
    return float(patch.mean() / max(patch.std(), 1e-12))


def cnr(tissue: np.ndarray, other: np.ndarray) -> float:
    """Contrast-to-noise ratio ``|m1 - m2| / sqrt(v1 + v2)`` of two patches' grey levels."""
    return float(abs(tissue.mean() - other.mean()) / np.sqrt(max(tissue.var() + other.var(), 1e-24)))


def speckle_width(patch: np.ndarray, axis: int) -> float:
    """Grain of speckle: full width at half maximum of a patch's autocovariance along an axis, in pixels.

    The plane that fits the patch best is taken away first. A width that the patch cannot show is given as its length.

    Args:
        patch: ``(H, W)`` grey levels.
        axis: 0 axial (depth), 1 lateral.
    """
    rows, columns = np.indices(patch.shape)
    plane = np.stack([np.ones(patch.size), rows.ravel(), columns.ravel()], axis=1)
    rest = patch.ravel() - plane @ np.linalg.lstsq(plane, patch.ravel(), rcond=None)[0]
    lines: np.ndarray = np.moveaxis(rest.reshape(patch.shape), axis, -1)
    length = lines.shape[-1]
    power = np.abs(np.fft.rfft(lines, 2 * length)) ** 2
    covariance = np.fft.irfft(power.mean(axis=0))[:length] / np.arange(length, 0, -1)  # of the pairs that there are
    if covariance[0] <= 1e-15:
        return float(length)
    share = covariance / covariance[0]
    below = np.flatnonzero(share < 0.5)
    if not len(below):
        return float(length)
    k = below[0]
    return float(2 * (k - 1 + (share[k - 1] - 0.5) / (share[k - 1] - share[k])))


def patches_of(levels: np.ndarray, rois: np.ndarray) -> list[np.ndarray]:
    """The boxes ``(h, w)`` of a label map's patches of tissue, see ``rois``, out of grey levels ``(H, W)``."""
    boxes = [box for number, box in boxes_of(rois).items() if number != CONTRAST]
    return [levels[top:bottom, left:right] for left, top, right, bottom in boxes]


class HistogramKL(CumulativeIterationMetric):
    """Kullback-Leibler divergence to the distribution of a prediction's grey levels, lower is better (table I).

    ``aggregate`` gives that of the pooled histograms; the buffer, one number for each frame by itself, NaN where it has
    no pixels for it.

    Args:
        reference: counts ``(256,)`` of the reference set, for KL(y, x^); None for KL(x, x^), of the input.
        tissue: count the patches of tissue alone, as the paper does with parenchyma (section III B), not all of the
            ultrasound; the reference set's counts are then of its own patches.
    """

    def __init__(self, reference: torch.Tensor | None = None, tissue: bool = False) -> None:
        super().__init__()
        self.reference, self.tissue = reference, tissue

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor:
        """Counts ``(B, 2, 256)`` of reference and prediction; ``y`` is ``(B, 4, H, W)``, see ``HeldOutFrames``."""
        assert y is not None  # it compares
        rows = []
        for pred, label in zip(y_pred, y, strict=True):
            region = label[ROIS if self.tissue else REGION]
            before = histogram(label[IMAGE], region) if self.reference is None else self.reference
            rows.append(torch.stack([before.double().cpu(), histogram(pred[0], region)]))
        return torch.stack(rows)

    def get_buffer(self) -> torch.Tensor:
        """Divergence of each frame ``(frames, 1)``."""
        counts = super().get_buffer()
        return self._divergence(counts[:, 0], counts[:, 1])[:, None]

    def aggregate(self) -> torch.Tensor:
        """Divergence of all frames' pooled histograms, a scalar."""
        counts = super().get_buffer().sum(dim=0)
        return self._divergence(counts[0], counts[1])

    @staticmethod
    def _divergence(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        divergence = kl_divergence(before, after)
        return divergence.masked_fill(after.sum(dim=-1) == 0, float("nan"))


class FlooredKL(CumulativeIterationMetric):
    """``HistogramKL`` for choosing a model: lower is better, and every score below the floor is worse than those above.

    Departs from the paper: it does not say which weights were kept. By KL alone a median filter of 5 x 5 pixels would
    win, which blurs the anatomy.

    Args:
        reference: counts ``(256,)`` of the reference set.
        floor: least mean SSIM to the input, see ``PatchScore``; below it, 100 times what is missing is added.
    """

    def __init__(self, reference: torch.Tensor, floor: float = 0.8) -> None:
        super().__init__()
        self.floor = float(floor)
        self.parts = (HistogramKL(reference), PatchScore("ssim_input"))

    def reset(self) -> None:
        """Forgets all frames."""
        super().reset()
        for part in getattr(self, "parts", ()):
            part.reset()

    def __call__(self, y_pred: Any, y: Any = None, **kwargs: Any) -> Any:
        """Takes frames ``(B, 1, H, W)`` with their labels ``(B, 4, H, W)``; the score of each."""
        counts, similarity = (cast(torch.Tensor, part(y_pred, y)) for part in self.parts)
        return super().__call__(counts, similarity)

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor:
        assert y is not None  # of its parts
        divergence = kl_divergence(y_pred[:, 0], y_pred[:, 1])
        return (divergence + 100 * (self.floor - y[:, 0]).clamp_min(0))[:, None]

    def aggregate(self) -> torch.Tensor:
        """Divergence of the pooled histograms, raised where the frames' mean similarity lies below the floor."""
        divergence, similarity = (part.aggregate() for part in self.parts)
        return divergence + 100 * (self.floor - similarity).clamp_min(0)


class PatchScore(CaseScore):
    """A score of each frame's grey levels; NaN where it has no patches for it, and then not in the mean.

    Args:
        kind: ``ssnr``, ``cnr``, ``width_lateral`` or ``width_axial`` (pixels), as the mean over the patches of tissue;
            ``ssim_input``, ``ssim_clean`` or ``mean``, the grey level, over the ultrasound region.

    Raises:
        ValueError: another kind.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {tuple(KINDS)}, got {kind!r}")
        self.kind = kind

    def score(self, image: torch.Tensor, truth: torch.Tensor) -> float:
        """Score of ``(1, H, W)``; the truth is the label ``(4, H, W)``, see ``HeldOutFrames``."""
        return KINDS[self.kind](image[0].cpu().clamp(0, 1), truth.cpu())


def _over_tissue(score: Callable[..., float], contrast: bool = False) -> Callable[[torch.Tensor, torch.Tensor], float]:
    """A score of patches as one of an image: the mean over its labelled patches of tissue, as boxes."""

    def whole(image: torch.Tensor, label: torch.Tensor) -> float:
        levels, rois = image.double().numpy(), label[ROIS].numpy()
        other = levels[rois == CONTRAST]
        if contrast and not other.size:
            return float("nan")
        scores = [score(patch, other) if contrast else score(patch) for patch in patches_of(levels, rois)]
        return float(np.mean(scores)) if scores else float("nan")

    return whole


def _similarity(channel: int) -> Callable[[torch.Tensor, torch.Tensor], float]:
    def whole(image: torch.Tensor, label: torch.Tensor) -> float:
        return float(ssim_map(image, label[channel])[label[REGION] > 0].mean())

    return whole


KINDS: dict[str, Callable[[torch.Tensor, torch.Tensor], float]] = {
    "ssim_input": _similarity(IMAGE),
    "mean": lambda image, label: float(image[label[REGION] > 0].mean()),
    "ssnr": _over_tissue(ssnr),
    "cnr": _over_tissue(cnr, contrast=True),
    "width_lateral": _over_tissue(lambda patch: speckle_width(patch, 1)),
    "width_axial": _over_tissue(lambda patch: speckle_width(patch, 0)),
    "ssim_clean": _similarity(CLEAN),
}


def speckle_metrics(reference: torch.Tensor, tissue: torch.Tensor, clean: bool = False) -> dict:
    """All scores of the prediction, and as ``baseline_...`` of the input, for an evaluator.

    Args:
        reference: counts ``(256,)`` of the reference set.
        tissue: counts ``(256,)`` of its patches of tissue.
        clean: also the similarity to the clean echogenicity, where all frames have one.

    Returns:
        ``kl_reference`` KL(y, x^), ``kl_input`` KL(x, x^), the same in tissue as ``kl_tissue`` and ``kl_tissue_input``,
        ``ssim_input`` and the others of ``PatchScore``.
    """
    metrics = {}
    for key, prefix in (("pred", ""), ("image", "baseline_")):
        functions: dict[str, CumulativeIterationMetric] = {
            "kl_reference": HistogramKL(reference),
            "kl_input": HistogramKL(),
        }
        functions |= {"kl_tissue": HistogramKL(tissue, True), "kl_tissue_input": HistogramKL(tissue=True)}
        functions |= {kind: PatchScore(kind) for kind in KINDS if clean or kind != "ssim_clean"}
        for name, function in functions.items():
            metrics[prefix + name] = IgniteMetricHandler(
                metric_fn=function, output_transform=from_engine([key, "label"])
            )
    return metrics


def key_metric(reference: torch.Tensor, floor: float) -> dict:
    """The metric that chooses a run's weights: ``kl_above_floor``, a ``FlooredKL`` of the same arguments."""
    metric = FlooredKL(reference, floor)
    return {"kl_above_floor": IgniteMetricHandler(metric, output_transform=from_engine(["pred", "label"]))}
