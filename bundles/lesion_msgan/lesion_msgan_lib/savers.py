# SPDX-License-Identifier: Apache-2.0
"""Results as the input came: NIfTI for NIfTI and DICOM, PNG for PNG and JPEG."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from PIL import Image

from common import provenance
from common.savers import SaveRestoredd, result_path

from .detection import FROM
from .slices import PICTURES
from .transforms import REGION

__all__ = ["SaveSlicesd"]


class SaveSlicesd(SaveRestoredd):
    """Saves super-resolved volumes as NIfTI and pictures as PNG, with ``.provenance.json`` beside them.

    The provenance also tells the region, in the input's voxels, and what found it.

    Args:
        args, kwargs: as for ``SaveRestoredd``; ``integers`` is about NIfTI, a PNG has the bits of its input.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        out = dict(data)
        for key, postfix in zip(self.keys, self.postfixes, strict=True):
            image = out[key]
            source = str(image.meta["filename_or_obj"])
            picture = source.lower().endswith(PICTURES)
            target = result_path(source, self.output_dir, postfix, self.root)
            if picture:
                target = target.with_name(target.name.removesuffix(".nii.gz") + ".png")
            self._check_free(target, source)
            target.parent.mkdir(parents=True, exist_ok=True)
            array = image.as_tensor().detach().cpu().float().numpy()[0]
            partial = target.with_name("." + target.name)  # a killed run leaves no half file under the result's name
            if picture:
                _png(array, image.meta.get("mode", "L")).save(partial)
            else:
                nib.save(self._image(array, image, source), partial)
            region = torch.as_tensor(image.meta[REGION]).tolist()
            provenance.write(target, {**self.facts, "region": region, "region_from": image.meta[FROM]}, source)
            os.replace(partial, target)
            self._sources[Path(target)] = source
            print(f"saved {target}", flush=True)
        return out


def _png(array: np.ndarray, mode: str) -> Image.Image:
    """A picture ``(W, H)`` as MONAI reads it, in 8 bits or, where its input had more, in 16."""
    deep = mode.startswith("I")
    kind = np.uint16 if deep else np.uint8
    return Image.fromarray(np.rint(array.T.clip(0, np.iinfo(kind).max)).astype(kind))
