# SPDX-License-Identifier: Apache-2.0
"""Results as the input came: NIfTI for NIfTI and DICOM, PNG for PNG and JPEG."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from common.io.find import stem_of
from common.io.pictures import turned
from common.io.savers import SaveRestoredd

from .detection import FROM
from .slices import is_picture
from .transforms import AXIS, REGION, in_own_order, picture_pixels

__all__ = ["SaveSlicesd"]


class SaveSlicesd(SaveRestoredd):
    """Saves super-resolved volumes as NIfTI and pictures as PNG, with ``.provenance.json`` beside them.

    The provenance also tells the region, in the input's voxels and along its own axes, and what found it.

    Args:
        args, kwargs: as for ``SaveRestoredd``; ``integers`` is about NIfTI, a PNG has the bits of its input.
    """

    def name_of(self, image: Any, source: str, postfix: str) -> str:
        """The result's file name, with the ending of its kind."""
        return f"{stem_of(source)}_{postfix}.png" if is_picture(source) else super().name_of(image, source, postfix)

    def facts_of(self, image: Any) -> Mapping[str, Any]:
        """What the sidecar tells, with the region and what found it."""
        region = in_own_order(torch.as_tensor(image.meta[REGION]).tolist(), int(np.asarray(image.meta[AXIS])))
        return {**self.facts, "region": region, "region_from": image.meta[FROM]}

    def write(self, path: Path, image: Any, source: str) -> None:
        """Writes a picture for a picture, else NIfTI."""
        if not is_picture(source):
            super().write(path, image, source)
            return
        array = image.as_tensor().detach().cpu().float().numpy()[0]
        _png(array, image.meta.get("mode", "L")).save(path, **turned(int(image.meta.get("orientation", 1))))


def _png(array: np.ndarray, mode: str) -> Image.Image:
    """A picture ``(W, H)`` as MONAI reads it, in 8 bits or, where its input had more, in 16."""
    return Image.fromarray(picture_pixels(array.T, mode))
