# SPDX-License-Identifier: Apache-2.0
"""Frames on their way in and out: region, brightness, and what MONAI Label is given."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from common.engine.domain import DECILES, Measures
from common.errors import InputError
from common.utils.images import like_image

from .frames import read_frames
from .metrics import ssnr
from .region import parse_box, ultrasound_region

__all__ = ["ComposeFramesd", "KeepMeand", "LoadFramesd", "PlainPictured", "measure_frames", "measured"]


PATCH = 16  # pixels of the patches that speckle is measured in
DARK = 0.1  # grey level above which a patch is tissue


def measure_frames(image: MetaTensor) -> Measures:
    """Edges of the ultrasound region in pixels, speckle's signal-to-noise ratio, and the deciles of the grey levels.

    The ratio is the median over patches of 16 x 16 pixels that are brighter than 0.1 on average, of the middle frame.

    Args:
        image: frames ``(N, H, W)`` in [0, 1], the region in their meta data, see ``LoadFramesd``.

    Returns:
        Nothing where there is no ultrasound, as in a picture that is coloured throughout.
    """
    region = torch.as_tensor(image.meta["region"]).cpu().numpy() > 0
    if not region.any():
        return {}
    frame = image.as_tensor()[len(image) // 2].cpu().numpy()
    rows, columns = (np.flatnonzero(region.any(axis=axis)) for axis in (1, 0))
    top, left = int(rows[0]), int(columns[0])
    box = frame[top : rows[-1] + 1, left : columns[-1] + 1]
    height, width = (n - n % PATCH for n in box.shape)
    patches = box[:height, :width].reshape(height // PATCH, PATCH, width // PATCH, PATCH).swapaxes(1, 2)
    ratios = [ssnr(patch) for row in patches for patch in row if patch.mean() > DARK]
    measures = {"size": [float(n) for n in box.shape]}
    if ratios:
        measures["speckle"] = [round(float(np.median(ratios)), 3)]
    return measures | {"contrast": np.percentile(frame[region], DECILES).round(3).tolist()}


def measured(entry: Mapping[str, Any], frames: Callable[[Any], Any]) -> Iterator[Measures]:
    """Measures of a training file's frames, see ``common.engine.domain``.

    Args:
        entry: with the file's path as "image".
        frames: loads them, see ``LoadFramesd``.
    """
    yield measure_frames(frames(dict(entry))["image"])


class LoadFramesd(MapTransform):
    """Reads all frames of a file as float32 ``(N, H, W)`` grey levels in [0, 1], 0 outside the ultrasound region.

    The image is a ``MetaTensor`` whose meta data hold "filename_or_obj" and "region", the region's mask ``(H, W)``.

    Args:
        keys: paths.
        region: the region as ``[left, top, right, bottom]``; None to take it from DICOM or to find it.

    Raises:
        InputError: see ``read_frames`` and ``ultrasound_region``; a constant picture.
    """

    def __init__(self, keys: KeysCollection, region: Any = None) -> None:
        super().__init__(keys)
        self.region = parse_box(region)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The entry with its frames ``(N, H, W)``."""
        out = dict(data)
        for key in self.key_iterator(out):
            path = str(out[key])
            frames = read_frames(path)
            grey = frames.grey()
            if np.ptp(grey) == 0:
                raise InputError(f"constant image: every pixel is {frames.pixels.flat[0]}", path)
            region = ultrasound_region(frames, self.region, path)
            image = torch.from_numpy(np.where(region, grey, np.float32(0)))
            meta = {"filename_or_obj": path, "region": torch.from_numpy(region.astype(np.uint8))}
            out[key] = MetaTensor(image, meta=meta)
        return out


class KeepMeand(MapTransform):
    """Multiplies each frame's prediction so that its mean over the ultrasound region is the input's, clipped to [0, 1].

    Departs from the paper, which says nothing of brightness; off with ``wanted`` False.

    Args:
        keys: predictions ``(N, H, W)``.
        ref_key: the input.
        label_key: where the region is its channel 1, see ``HeldOutFrames``; None where it is in the input's meta data.
        wanted: False leaves predictions as they are.
        spread: key of the predictions' standard deviation ``(N, H, W)``, which is multiplied likewise, if it is there.
    """

    def __init__(
        self,
        keys: KeysCollection,
        ref_key: str = "image",
        label_key: str | None = None,
        wanted: bool = True,
        spread: str = "std",
    ) -> None:
        super().__init__(keys)
        self.ref_key, self.label_key, self.wanted = ref_key, label_key, wanted
        self.spread = spread

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The entry with its predictions at the mean of the input, unless they are left as they are."""
        out = dict(data)
        if not self.wanted:
            return out
        image = out[self.ref_key]
        region = out[self.label_key][1] if self.label_key else torch.as_tensor(image.meta["region"])
        for key in self.key_iterator(out):
            pred = out[key].clone()
            inside = region.to(pred.device) > 0
            factors = torch.ones(len(pred), 1, 1, device=pred.device)
            for number, (frame, before) in enumerate(zip(pred, image.to(pred.device), strict=True)):
                wanted = before[inside].mean()
                for _ in range(3):  # clipping at white takes some of it away
                    made = frame[inside].clamp(0, 1).mean()
                    if made > 0:
                        frame.clamp_(0, 1).mul_(wanted / made)
                        factors[number] *= wanted / made
            out[key] = pred.clamp(0, 1)
            if self.spread in out:
                out[self.spread] = out[self.spread] * factors
        return out


class ComposeFramesd(MapTransform):
    """Clips predictions to [0, 1] and to the ultrasound region; what lies outside is left to ``write_like``.

    Args:
        keys: predictions ``(N, H, W)``.
        ref_key: the input, whose meta data hold the region.
    """

    def __init__(self, keys: KeysCollection, ref_key: str = "image") -> None:
        super().__init__(keys)
        self.ref_key = ref_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The entry with its predictions ``(N, H, W)``, clipped."""
        out = dict(data)
        image = out[self.ref_key]
        region = torch.as_tensor(image.meta["region"]) > 0
        for key in self.key_iterator(out):
            pred = torch.as_tensor(out[key])
            pred = pred.as_tensor() if hasattr(pred, "as_tensor") else pred
            out[key] = like_image(pred.float().clamp(0, 1) * region.to(pred.device), image)
        return out


class PlainPictured(MapTransform):
    """The first frame as integers ``(W, H)``, as MONAI Label's writer of PNG wants it; stands behind the saver.

    8 or 16 bits and the pixels outside the ultrasound region are the source's, its colours as grey, since that writer
    takes one channel alone.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The entry with its pictures as integers."""
        out = dict(data)
        for key in self.key_iterator(out):
            image = out[key]
            frames = read_frames(str(image.meta["filename_or_obj"]))
            region = torch.as_tensor(image.meta["region"]).cpu().numpy() > 0
            frames.pixels = frames.replaced(image.as_tensor().cpu().numpy(), region)
            picture = np.rint(frames.grey()[0] * frames.top).astype(frames.pixels.dtype)
            out[key] = MetaTensor(torch.from_numpy(picture.T), meta=image.meta)
        return out
