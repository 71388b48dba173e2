# SPDX-License-Identifier: Apache-2.0
"""PSNR, SSIM, gradient similarity and normalised cross-correlation with a declared region and range.

The range is the 99.9 percentile of the truth's foreground above its background level, and both images are clipped to
it. The region is the whole volume or the truth's foreground: a skull-stripped brain fills about a fifth of its volume,
and clean background alone adds some 7 dB, so a number without its region says little.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from monai.handlers import IgniteMetricHandler, from_engine
from monai.metrics import CumulativeIterationMetric
from monai.metrics.utils import do_metric_reduction

from common.transforms.intensity import foreground_mask, robust_range
from common.utils.images import as_tensor

__all__ = [
    "CaseScore",
    "LesionDrift",
    "RegionGMS",
    "RegionNCC",
    "RegionPSNR",
    "RegionSSIM",
    "gradient_similarity_map",
    "lesion_drift",
    "region_metrics",
    "ssim_map",
]

REGIONS = ("whole", "foreground")


def ssim_map(image: torch.Tensor, truth: torch.Tensor, data_range: float = 1.0, sigma: float = 1.5) -> torch.Tensor:
    """Structural similarity of every voxel (Wang et al. 2004), Gaussian window of 11 voxels, K1 0.01 and K2 0.03.

    As ``skimage.metrics.structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)``, borders
    mirrored.

    Args:
        image: ``(H, W[, D])``.
        truth: the same shape.
        data_range: range of the intensities.
        sigma: standard deviation of the window in voxels.

    Returns:
        Values in [-1, 1] of the images' shape.
    """
    image, truth = image.double(), truth.double()
    mean_x, mean_y = _blur(image, sigma), _blur(truth, sigma)
    var_x = _blur(image * image, sigma) - mean_x**2
    var_y = _blur(truth * truth, sigma) - mean_y**2
    covariance = _blur(image * truth, sigma) - mean_x * mean_y
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return luminance * (2 * covariance + c2) / (var_x + var_y + c2)


def _blur(image: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian window truncated at 3.5 sigma, axis by axis, as scipy does it with mode ``reflect``."""
    radius = int(3.5 * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1, dtype=image.dtype, device=image.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    for axis, length in enumerate(image.shape):
        # mirrored positions, also for axes shorter than the window
        index = torch.arange(-radius, length + radius, device=image.device) % (2 * length)
        padded = image.index_select(axis, torch.where(index < length, index, 2 * length - 1 - index))
        total = torch.zeros_like(image)
        for i, weight in enumerate(kernel.tolist()):
            total.add_(padded.narrow(axis, i, length), alpha=weight)
        image = total
    return image


class CaseScore(CumulativeIterationMetric):
    """A metric that scores case by case; cases without a score, NaN, are left out of the mean."""

    def score(self, image: torch.Tensor, truth: torch.Tensor) -> float:
        """Score of one prediction against its truth, both without the batch's axis; NaN where it has none."""
        raise NotImplementedError

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor:
        """Scores ``(B, 1)``."""
        assert y is not None  # it compares
        return torch.tensor([[self.score(p, t)] for p, t in zip(as_tensor(y_pred), as_tensor(y), strict=True)])

    def aggregate(self) -> torch.Tensor:
        """Mean over the cases that have a score; NaN where none has."""
        return self.get_buffer().nanmean()


class _RegionMetric(CumulativeIterationMetric):
    def __init__(self, region: str = "foreground", reduction: str = "mean") -> None:
        super().__init__()
        if region not in REGIONS:
            raise ValueError(f"region must be one of {REGIONS}, got {region!r}")
        self.region = region
        self.reduction = reduction

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor:
        """Scores ``(B, 1)`` of predictions and truths ``(B, 1, H, W[, D])`` in any intensity units."""
        assert y is not None  # MONAI hands on what its caller gives, and these metrics compare
        return torch.stack([self._score(p[0], t[0]) for p, t in zip(y_pred, y, strict=True)])[:, None]

    def aggregate(self, reduction: str | None = None) -> torch.Tensor:
        """The scores so far reduced to one number."""
        return do_metric_reduction(self.get_buffer(), reduction or self.reduction)[0]

    def _score(self, image: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        image, truth = as_tensor(image), as_tensor(truth)
        low, high = robust_range(truth)
        image, truth_scaled = (((x.double() - low) / (high - low)).clamp(0, 1) for x in (image, truth))
        mask = foreground_mask(truth) if self.region == "foreground" else torch.ones_like(truth, dtype=torch.bool)
        return self._compare(image, truth_scaled, mask).float().cpu()

    def _compare(self, image: torch.Tensor, truth: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        raise TypeError("use RegionPSNR, RegionSSIM or RegionNCC")


class RegionPSNR(_RegionMetric):
    """Peak signal-to-noise ratio in dB, larger is better; an exact copy is given 100 dB.

    Departs from the paper (Pham et al. 2019, sec. 3.1), which takes the whole image and its maximum as the range: see
    the module's text. ``region="whole"`` is the nearest to it.

    Args:
        region: ``foreground`` or ``whole``.
        reduction: of the scores of several volumes, as in MONAI's metrics.
    """

    def _compare(self, image: torch.Tensor, truth: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        error = ((image - truth) ** 2)[mask].mean()
        return -10 * torch.log10(error.clamp_min(1e-10))


class RegionSSIM(_RegionMetric):
    """Mean structural similarity over a region, see ``ssim_map``; 1 is a perfect copy.

    Args:
        region: ``foreground`` or ``whole``.
        reduction: of the scores of several volumes, as in MONAI's metrics.
    """

    def _compare(self, image: torch.Tensor, truth: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return ssim_map(image, truth)[mask].mean()


class RegionNCC(_RegionMetric):
    """Normalised cross-correlation over a region (Nazleem and Sujatha, eq. 9); 1 is a perfect copy up to scale.

    Constant images, which have no correlation, are given 0.

    Args:
        region: ``foreground`` or ``whole``.
        reduction: of the scores of several volumes, as in MONAI's metrics.
    """

    def _compare(self, image: torch.Tensor, truth: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        first, second = (x[mask] - x[mask].mean() for x in (image, truth))
        return (first * second).mean() / (first.square().mean() * second.square().mean()).sqrt().clamp_min(1e-12)


def gradient_similarity_map(image: torch.Tensor, truth: torch.Tensor, data_range: float = 1.0) -> torch.Tensor:
    """Similarity of gradient magnitudes in every pixel, ``(2 a b + c) / (a^2 + b^2 + c)``.

    Xue et al., "Gradient magnitude similarity deviation", IEEE Transactions on Image Processing 23, 2014. Magnitudes
    from Prewitt filters divided by 3, c = 170 for a range of 255, as there; borders repeated.

    Departs from it: no halving of the grid before, which stands there for the distance of a viewer.

    Args:
        image: ``(H, W)``.
        truth: the same shape.
        data_range: range of the intensities.

    Returns:
        Values in [0, 1] of the images' shape.
    """
    slope = torch.tensor([[-1.0, 0.0, 1.0]], dtype=torch.float64) / 3
    kernels = torch.stack([slope.expand(3, 3), slope.expand(3, 3).T])[:, None]
    pair = torch.stack([image, truth])[:, None].double() / data_range
    padded = torch.nn.functional.pad(pair, (1, 1, 1, 1), mode="replicate")
    first, second = torch.nn.functional.conv2d(padded, kernels.to(pair)).square().sum(dim=1).sqrt()
    c = 170 / 255**2
    return (2 * first * second + c) / (first**2 + second**2 + c)


class RegionGMS(_RegionMetric):
    """Mean similarity of gradient magnitudes over a region of images ``(B, 1, H, W)``; 1 is a perfect copy.

    See ``gradient_similarity_map``. Blur lowers it, and so does structure that the truth does not have.

    Args:
        region: ``foreground`` or ``whole``.
        reduction: of the scores of several images, as in MONAI's metrics.
    """

    def _compare(self, image: torch.Tensor, truth: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return gradient_similarity_map(image, truth)[mask].mean()


def lesion_drift(image: torch.Tensor, truth: torch.Tensor, lesion: torch.Tensor, margin: int = 5) -> float:
    """How much larger a lesion looks than in the truth, in percent of its volume there; below 0 where it is smaller.

    A lesion's volume is what lies on its side of a threshold, of the voxels in its mask and up to ``margin`` voxels
    around it. The threshold is halfway between the medians of mask and surroundings in the truth, and it is the same
    for both images, as a reader's window is: a threshold of the image's own would follow a lesion that has faded, and
    hide that. Medians and not Otsu's method, which is drawn to the larger of two classes, here the surroundings.

    Args:
        image: ``(H, W, D)``, in the truth's units.
        truth: the same shape.
        lesion: mask, the same shape.
        margin: in voxels.

    Returns:
        Percent; NaN without a lesion, or where the medians in the truth are nearer to each other than the standard
        deviation around the lesion (of the median absolute deviation): there no threshold tells it apart.
    """
    lesion = lesion > 0
    box = tuple(
        slice(max(0, int(side.min()) - margin), int(side.max()) + margin + 1)
        for side in torch.nonzero(lesion).T
        if len(side)
    )
    image, truth, lesion = (as_tensor(x)[box] for x in (image.double(), truth, lesion))
    near = torch.nn.functional.max_pool3d(lesion[None, None].float(), 2 * margin + 1, 1, margin)[0, 0] > 0
    near &= foreground_mask(truth) | lesion
    around = truth[near & ~lesion].double()
    if not lesion.any() or len(around) < 2:
        return float("nan")
    inside, outside = truth[lesion].double().median(), around.median()
    if (inside - outside).abs() < 1.4826 * (around - outside).abs().median():
        return float("nan")
    side, threshold = (inside - outside).sign(), (inside + outside) / 2
    before, after = (int((side * (x[near].double() - threshold) > 0).sum()) for x in (truth, image))
    return 100 * (after / before - 1)


class LesionDrift(CaseScore):
    """``lesion_drift`` as a metric; volumes without a lesion that can be told apart are left out of the mean."""

    def score(self, image: torch.Tensor, truth: torch.Tensor) -> float:
        """Drift of a prediction ``(1, H, W, D)``; channel 0 of the truth is the volume, and 1 the lesion."""
        return lesion_drift(image[0], truth[0], truth[1])


METRICS = {"psnr": RegionPSNR, "ssim": RegionSSIM, "ncc": RegionNCC}


def region_metrics(
    but: str | None = None,
    baseline: str = "image",
    pred: str = "pred",
    truth: str = "label",
    kinds: Sequence[str] = ("psnr", "ssim"),
    others: Sequence[str] = (),
    lesion: str | None = None,
) -> dict:
    """All scores of the prediction, and as ``baseline_...`` of the network's input, for an evaluator.

    Args:
        but: name of one to leave out, since it is the key metric already.
        baseline: key of the network's input in the evaluator's output.
        pred: key of the prediction.
        truth: key of the truth.
        kinds: of ``psnr``, ``ssim``, ``ncc``.
        others: keys of what other methods made of the input; their scores have the key and "_" in front.
        lesion: key of the lesion's mask, for ``drift_lesion``; None for none.

    Returns:
        ``psnr_foreground``, ``psnr_whole``, ``ssim_foreground``, ``ssim_whole`` and their baselines' as ignite metrics.
    """
    metrics = {}
    for key, prefix in ((pred, ""), (baseline, "baseline_"), *((other, f"{other}_") for other in others)):
        for kind in kinds:
            for region in REGIONS[::-1]:
                name = f"{prefix}{kind}_{region}"
                if name != but:
                    metrics[name] = IgniteMetricHandler(
                        metric_fn=METRICS[kind](region), output_transform=from_engine([key, truth])
                    )
        if lesion:
            metrics[f"{prefix}drift_lesion"] = IgniteMetricHandler(
                metric_fn=LesionDrift(), output_transform=partial(_with_lesion, key, truth, lesion)
            )
    return metrics


def _with_lesion(key: str, truth: str, lesion: str, output: Sequence[dict]) -> tuple[list, list]:
    """What ``LesionDrift`` takes of an evaluator's output."""
    return [one[key] for one in output], [torch.cat([one[truth], one[lesion].to(one[truth])]) for one in output]
