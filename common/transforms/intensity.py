# SPDX-License-Identifier: Apache-2.0
"""Intensity scaling that is stored with the image and undone on the way out, and the foreground."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.transforms.utils_pytorch_numpy_unification import percentile
from monai.utils import ensure_tuple_rep

from common.utils.images import as_tensor, like_image

__all__ = [
    "PERCENTILES",
    "RestoreIntensityd",
    "ScaleIntensityRobustd",
    "SplitSpreadd",
    "fit_landmarks",
    "foreground_mask",
    "robust_range",
    "standardise",
]

LOW, HIGH = "intensity_low", "intensity_high"  # keys in an image's meta data
PERCENTILES = (1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 99)  # of the foreground: landmarks of its histogram


def _background(image: torch.Tensor) -> float | None:
    """The value that at least a tenth of all voxels have exactly (skull-stripped images), or None.

    The top of the range is no background: there, voxels are saturated.
    """
    values, counts = torch.unique(image.flatten()[:: max(1, image.numel() // 100_000)], return_counts=True)
    most = int(counts.argmax())
    frequent = counts[most] * 10 >= counts.sum() and (values[most] < image.max() or len(values) == 1)
    return float(values[most]) if frequent else None


def _plain(image: torch.Tensor) -> torch.Tensor:
    image = as_tensor(image)
    return image if image.is_floating_point() else image.float()


def foreground_mask(image: torch.Tensor, share: float = 0.05) -> torch.Tensor:
    """Voxels that belong to the imaged object.

    Args:
        image: any shape, any intensities; leading axes are treated together.
        share: in an image without a constant background, the threshold between the 0.1 and the 99.9 percentile.

    Returns:
        Boolean tensor of the image's shape: voxels other than the constant background of a masked image, or those
        above the threshold. All voxels where this would leave none.

    Example:
        >>> brain = torch.zeros(1, 8, 8, 8)
        >>> brain[:, 2:6, 2:6, 2:6] = 80
        >>> int(foreground_mask(brain).sum())
        64
    """
    image = _plain(image)
    background = _background(image)
    if background is not None:
        mask = image != background
    else:
        low, high = (float(percentile(image, q)) for q in (0.1, 99.9))
        mask = image > low + share * (high - low)
    return mask if mask.any() else torch.ones_like(mask)


def robust_range(image: torch.Tensor) -> tuple[float, float]:
    """Background level and the foreground's 99.9 percentile.

    The background level is the constant background of a masked image, else the 0.1 percentile of all voxels.

    Example:
        >>> brain = torch.zeros(1, 8, 8, 8)
        >>> brain[:, 2:6, 2:6, 2:6] = 80
        >>> robust_range(brain)
        (0.0, 80.0)
    """
    image = _plain(image)
    background = _background(image)
    low = float(percentile(image, 0.1)) if background is None else background
    high = float(percentile(image[foreground_mask(image)], 99.9))
    return low, high if high > low else low + 1.0


class ScaleIntensityRobustd(MapTransform):
    """Maps the background level to 0 and the foreground's 99.9 percentile to 1, for each channel by itself.

    Values outside are kept, not clipped. The two levels are stored in the meta data of the image, where
    ``RestoreIntensityd`` finds them. Shapes ``(C, H, W[, D])``, any intensity units.

    Example:
        >>> brain = torch.zeros(1, 8, 8, 8)
        >>> brain[:, 2:6, 2:6, 2:6] = 80
        >>> scaled = ScaleIntensityRobustd("image")({"image": MetaTensor(brain)})["image"]
        >>> scaled.max().item(), scaled.meta["intensity_high"]
        (1.0, 80.0)
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The images, scaled."""
        out = dict(data)
        for key in self.key_iterator(out):
            image = out[key]
            levels = [robust_range(channel) for channel in image]
            low, high = (
                torch.tensor(level, dtype=torch.float32, device=image.device) for level in zip(*levels, strict=True)
            )
            shape = (-1, *[1] * (image.ndim - 1))
            out[key] = (image - low.view(shape)) / (high - low).view(shape)
            if isinstance(out[key], MetaTensor):
                out[key].meta[LOW], out[key].meta[HIGH] = levels[0]
        return out


class RestoreIntensityd(MapTransform):
    """Brings predictions back to the units of the input they came from, and gives them its affine and meta data.

    Args:
        keys: predictions ``(C, H, W[, D])`` scaled like ``ref_key``.
        ref_key: the input, with the levels that ``ScaleIntensityRobustd`` stored of its first channel.

    Example:
        >>> brain = torch.zeros(1, 8, 8, 8)
        >>> brain[:, 2:6, 2:6, 2:6] = 80
        >>> data = ScaleIntensityRobustd("image")({"image": MetaTensor(brain)})
        >>> RestoreIntensityd("pred")({**data, "pred": 0.5 * data["image"]})["pred"].max().item()
        40.0
    """

    def __init__(self, keys: KeysCollection, ref_key: str = "image") -> None:
        super().__init__(keys)
        self.ref_key = ref_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The predictions in the input's units and with its affine."""
        out = dict(data)
        meta = out[self.ref_key].meta
        low, high = (float(np.asarray(meta[name])) for name in (LOW, HIGH))
        for key in self.key_iterator(out):
            restored = torch.as_tensor(out[key]) * (high - low) + low
            out[key] = like_image(restored, out[self.ref_key])
        return out


class SplitSpreadd(MapTransform):
    """Splits predictions ``(2 C, H, W[, D])`` of mean and spread (``common.inferers.OrientationInferer``) in two.

    The spread is brought to the input's units, as a difference; it stands before ``RestoreIntensityd``.

    Args:
        keys: predictions scaled like ``ref_key``.
        names: keys for their spreads.
        ref_key: the input, with the levels that ``ScaleIntensityRobustd`` stored of its first channel, if it did.
        wanted: False passes the predictions on as they are.

    Example:
        >>> brain = torch.zeros(1, 8, 8, 8)
        >>> brain[:, 2:6, 2:6, 2:6] = 80
        >>> data = ScaleIntensityRobustd("image")({"image": MetaTensor(brain)})
        >>> data["pred"] = torch.cat([data["image"], torch.full_like(data["image"], 0.25)])  # mean, spread
        >>> SplitSpreadd("pred", names="std")(data)["std"].max().item()
        20.0
    """

    def __init__(
        self, keys: KeysCollection, names: KeysCollection = "std", ref_key: str = "image", wanted: bool = True
    ) -> None:
        super().__init__(keys)
        self.names = ensure_tuple_rep(names, len(self.keys))
        self.ref_key = ref_key
        self.wanted = wanted

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Means ``(C, H, W[, D])`` under their own keys, spreads of the same shape under ``names``."""
        out = dict(data)
        for key, name in self.key_iterator(out, self.names) if self.wanted else ():
            mean, spread = torch.as_tensor(out[key]).chunk(2)
            meta = out[self.ref_key].meta
            low, high = (float(np.asarray(meta.get(level, usual))) for level, usual in ((LOW, 0), (HIGH, 1)))
            out[key] = like_image(mean, out[self.ref_key])
            out[name] = like_image(spread * (high - low), out[self.ref_key])
        return out


def fit_landmarks(
    images: Iterable[torch.Tensor], masks: Iterable[torch.Tensor] | None = None, top: float = 100.0
) -> list[float]:
    """Learns the standard histogram of a sequence from a training set (Nyul, Udupa and Zhang, IEEE TMI 19(2), 2000).

    Each image's landmarks (``PERCENTILES`` of its foreground) are mapped linearly so that the first comes to lie at 0
    and the last at ``top``; the standard histogram is their mean over the images. The landmarks are those of TorchIO's
    ``HistogramStandardization`` that its transform uses.

    Args:
        images: volumes of one sequence, any shape and intensity units; one at a time is held in memory.
        masks: foreground of each, or None for ``foreground_mask``.
        top: standard value of the last landmark.

    Returns:
        One standard value per percentile, rising from 0 to ``top``.

    Raises:
        ValueError: no image, or one whose foreground is constant.

    Example:
        >>> scans = [gain * torch.linspace(1, 100, 100) for gain in (1, 3)]  # one ramp in two scalings
        >>> everywhere = [torch.ones(100)] * 2
        >>> [round(value, 1) for value in fit_landmarks(scans, everywhere)]
        [0.0, 9.2, 19.4, 29.6, 39.8, 50.0, 60.2, 70.4, 80.6, 90.8, 100.0]
    """
    mapped = []
    for image, mask in zip(images, masks, strict=True) if masks is not None else ((image, None) for image in images):
        values = _landmarks_of(image, foreground_mask(image) if mask is None else mask)
        if not values[-1] > values[0]:
            raise ValueError("the foreground of an image is constant: no landmarks")
        mapped.append((values - values[0]) * top / (values[-1] - values[0]))
    if not mapped:
        raise ValueError("no image to learn landmarks from")
    return np.mean(mapped, axis=0).tolist()


def standardise(image: torch.Tensor, landmarks: Sequence[float], mask: torch.Tensor | None = None) -> torch.Tensor:
    """Maps an image's histogram onto the standard one, piecewise linear between landmarks; the background becomes 0.

    Beyond the outer landmarks the outer pieces go on, so standardised values may lie below 0 or above the last
    landmark. Where two landmarks of the image coincide, values between them take the standard value of the lower one.

    Args:
        image: any shape, any intensity units.
        landmarks: from ``fit_landmarks`` of the same sequence.
        mask: foreground, or None for ``foreground_mask``.

    Returns:
        float32 of the image's shape.

    Raises:
        ValueError: another number of landmarks, or landmarks that fall.

    Example:
        >>> scans, everywhere = [gain * torch.linspace(1, 100, 100) for gain in (1, 3)], torch.ones(100)
        >>> landmarks = fit_landmarks(scans, [everywhere] * 2)
        >>> bool(torch.allclose(*(standardise(scan, landmarks, everywhere) for scan in scans), atol=1e-3))
        True
    """
    standard = np.asarray(landmarks, dtype=np.float64)
    if standard.shape != (len(PERCENTILES),) or (np.diff(standard) < 0).any():
        raise ValueError(f"need {len(PERCENTILES)} rising landmarks, got {list(landmarks)}")
    image = _plain(image)
    mask = foreground_mask(image) if mask is None else mask.as_subclass(torch.Tensor) > 0
    own = _landmarks_of(image, mask)
    widths = np.diff(own)
    least = 1e-8 * (own[-1] - own[0]) or 1.0  # narrower is one value but for rounding
    slopes = np.where(widths < least, 0.0, np.diff(standard) / np.maximum(widths, least))
    values = image[mask].double()
    edges = torch.as_tensor(own[1:-1], dtype=torch.float64, device=image.device)
    piece = torch.bucketize(values, edges, right=True)
    slope, start, base = (torch.as_tensor(a, device=image.device)[piece] for a in (slopes, own[:-1], standard[:-1]))
    result = torch.zeros(image.shape, dtype=torch.float32, device=image.device)
    result[mask] = (base + slope * (values - start)).float()
    return result


def _landmarks_of(image: torch.Tensor, mask: torch.Tensor) -> np.ndarray:
    values = _plain(image)[mask.as_subclass(torch.Tensor) > 0].cpu().numpy()
    return np.percentile(values.astype(np.float64), PERCENTILES)
