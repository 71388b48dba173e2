# SPDX-License-Identifier: Apache-2.0
"""Foreground as a channel, coarser voxels, an estimate of the noise, and what the network took away."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from monai.config import KeysCollection
from monai.transforms import MapTransform
from scipy.signal import resample

from common.engine.domain import estimate_level
from common.transforms.intensity import HIGH, LOW, foreground_mask
from common.utils.console import say
from common.utils.images import like_image

__all__ = ["AddForegroundd", "AddResiduald", "Coarsend", "EstimateNoised", "results"]


class AddForegroundd(MapTransform):
    """Appends the foreground of ``(1, H, W, D)`` as a second channel of 0 and 1, and its noisy scan as a third.

    A noisy scan is there where real pairs are trained on; it is scaled as the image was.

    Args:
        keys: scaled scans, see ``ScaleIntensityRobustd``.
        noisy_key: of the image's noisy scan on the same grid, in its units; entries need not have one.
    """

    def __init__(self, keys: KeysCollection, noisy_key: str = "noisy") -> None:
        super().__init__(keys)
        self.noisy_key = noisy_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The entry with images of two channels, scan and foreground, or three."""
        out = dict(data)
        for key in self.key_iterator(out):
            image = out[key]
            channels = [image.as_tensor(), foreground_mask(image).as_subclass(torch.Tensor).to(image.dtype)]
            if self.noisy_key in out:
                low, high = (float(np.asarray(image.meta[name])) for name in (LOW, HIGH))
                channels.append((out[self.noisy_key].as_tensor().to(image.dtype) - low) / (high - low))
            out[key] = like_image(torch.cat(channels), image)
        return out


class Coarsend(MapTransform):
    """Gives ``(1, H, W, D)`` the coarser voxels that its entry's "coarser" asks for, by cutting k-space.

    So a scanner would have acquired it: as sharp as its grid allows, with less noise. A constant background stays
    constant, and the affine follows. Entries without "coarser" pass.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The entry with its images at the coarser voxels."""
        out = dict(data)
        factor = float(out.get("coarser", 1.0))
        for key in self.key_iterator(out) if factor > 1 else ():
            image = out[key]
            plain, mask = image.as_tensor().float(), foreground_mask(image).as_subclass(torch.Tensor)
            shape = [max(1, round(n / factor)) for n in plain.shape[1:]]
            coarse = plain.numpy()
            for axis, n in enumerate(shape, start=1):
                coarse = resample(coarse, n, axis=axis)
            coarse, outside = torch.as_tensor(coarse).float(), plain[~mask]
            if len(outside) and outside.min() == outside.max():
                small = F.interpolate(mask[None].float(), shape, mode="trilinear", align_corners=True)[0]
                coarse[small < 0.5] = outside[0]
            affine = image.affine.clone()
            affine[:3, :3] *= torch.tensor([n / m for n, m in zip(plain.shape[1:], shape, strict=True)])
            out[key] = like_image(coarse, image, affine)
        return out


class EstimateNoised(MapTransform):
    """Estimates the noise level of a scaled scan ``(1, H, W, D)`` and prints it.

    Args:
        keys: scans with background 0 and the foreground's 99.9 percentile 1.
        wanted: False passes the scans on as they are.
    """

    def __init__(self, keys: KeysCollection, wanted: bool = True) -> None:
        super().__init__(keys)
        self.wanted = wanted

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The entry as it is, after a word about its noise."""
        out = dict(data)
        for key in self.key_iterator(out) if self.wanted else ():
            source = str(out[key].meta.get("filename_or_obj", "image"))
            level = estimate_level(out[key].as_tensor())
            say(f"{source}: noise level about {level:.1f} %")
        return out


class AddResiduald(MapTransform):
    """Adds "residual", the scan minus the prediction in the scan's units; stands before ``RestoreIntensityd``.

    Structure in it is what the network took for noise.

    Args:
        keys: the prediction.
        ref_key: the scan, both ``(1, H, W, D)`` and scaled alike.
    """

    def __init__(self, keys: KeysCollection, ref_key: str = "image") -> None:
        super().__init__(keys)
        self.ref_key = ref_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The entry with its residual ``(1, H, W, D)``."""
        out = dict(data)
        scan = out[self.ref_key]
        low, high = (float(np.asarray(scan.meta[name])) for name in (LOW, HIGH))
        for key in self.key_iterator(out):
            difference = (torch.as_tensor(scan) - torch.as_tensor(out[key])).as_subclass(torch.Tensor)
            out["residual"] = like_image(difference * (high - low), scan)
        return out


def results(save_residual: bool, save_std: bool) -> dict[str, str]:
    """Keys of the images that inference saves, each with what its file's name ends in."""
    wanted = {"residual": save_residual, "std": save_std}
    return {"pred": "denoised", **{name: name for name, saved in wanted.items() if saved}}
