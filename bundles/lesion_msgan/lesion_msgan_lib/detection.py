# SPDX-License-Identifier: Apache-2.0
"""The lesion detector LD: a given mask, a small network, or the foreground's box, behind one transform."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.networks.nets import BasicUNet
from monai.transforms import MapTransform
from scipy import ndimage
from torch import nn

from common.errors import InputError
from common.io.weights import build, load_into
from common.utils.console import say
from common.utils.images import like_image

from .masks import load_mask, mask_paths, place_of
from .regions import FACTOR, MARGIN, MINIMUM, Sides, bounding_box, foreground_region, square_region
from .transforms import AXIS, MEAN, REGION, SPREAD

__all__ = ["FROM", "FindRegiond", "LesionDetector", "LesionFinder", "detect", "region_around"]

WAYS = ("mask", "network", "foreground")
STEP = 16  # four halvings of the U-Net
LEAST = 32  # pixels: instance normalisation needs more than one at the bottom
MOST = 16  # slices at a time
BYTES = 800  # of feature maps per pixel of a slice, at most
SURE, LIKELY = 0.6, 0.3  # probabilities of a lesion's middle and of its edge
LEAST_PIXELS = 3
FROM = "region_from"  # key in an image's meta data: what found the region


class LesionDetector(BasicUNet):
    """MONAI's ``BasicUNet`` with few features, from a standardised low-resolution slice to a lesion logit per pixel.

    Its instance normalisation takes each slice as it is; batch normalisation would mix sequences of unlike contrast.

    Departs from the paper, which says of its detector only that it is pre-trained.

    Args:
        features: of the six levels, as in ``BasicUNet``.
    """

    def __init__(self, features: Sequence[int] = (16, 16, 32, 64, 64, 16)) -> None:
        super().__init__(2, 1, 1, features=tuple(features), norm=("instance", {"affine": True}))

    @staticmethod
    def form_of(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """The arguments that weights were trained with, from names and shapes alone.

        Raises:
            ValueError: weights of something else.
        """
        levels = ["conv_0", *(f"down_{i}.convs" for i in range(1, 5)), "upcat_1.convs"]
        names = [f"{level}.conv_1.conv.weight" for level in levels]
        if any(name not in state for name in names):
            raise ValueError("not the weights of a lesion detector")
        return {"features": tuple(state[name].shape[0] for name in names)}


def detect(network: nn.Module, slices: torch.Tensor, memory_gb: float = 4.0) -> torch.Tensor:
    """Lesion mask of standardised low-resolution slices: the connected component with the most evidence.

    Probabilities of a volume are averaged over three neighbouring slices. A component holds pixels of at least
    ``SURE`` and grows to those of at least ``LIKELY`` that touch them, since a region that cuts its lesion costs more
    than one that is a little large. Fewer than ``LEAST_PIXELS`` sure ones in a component are no lesion.

    Args:
        network: see ``LesionDetector``.
        slices: ``(h, w)`` or ``(h, w, d)``.
        memory_gb: memory for feature maps, in GiB, by which slices are taken together, one at least.

    Returns:
        Boolean tensor of the same shape, on the CPU.
    """
    flat = slices.ndim == 2
    batch = (slices[None] if flat else slices.movedim(-1, 0))[:, None].float()
    height, width = batch.shape[2:]
    more = [max(-edge % STEP, LEAST - edge) for edge in (width, height)]
    padded = F.pad(batch, (0, more[0], 0, more[1]), mode="replicate")
    device = next(network.parameters()).device
    count = max(1, min(MOST, int(memory_gb * 2**30 / (BYTES * padded[0].numel()))))
    with torch.no_grad():
        logits = torch.cat([network(chunk.to(device)).cpu() for chunk in padded.split(count)])
    chance = torch.sigmoid(logits.float())[:, 0, :height, :width].movedim(0, -1)
    chance = F.avg_pool1d(chance.flatten(0, 1)[:, None], 3, 1, 1, count_include_pad=False)[:, 0].reshape(chance.shape)
    parts, count = ndimage.label((chance >= LIKELY).numpy())
    sure = chance.numpy() >= SURE
    pixels = ndimage.sum_labels(sure, parts, range(1, count + 1))
    evidence = ndimage.sum_labels(chance.numpy() * sure, parts, range(1, count + 1))
    evidence = np.where(pixels >= LEAST_PIXELS, evidence, 0)
    mask = torch.from_numpy(parts == 1 + int(np.argmax(evidence)) if count and evidence.max() else parts < 0)
    return mask[..., 0] if flat else mask


class LesionFinder:
    """The detector with its weights, which are loaded, and decide on the network, at first use.

    Args:
        weights: of the detector's network.
        device: where it runs.
        memory_gb: see ``detect``.
        network: a network that gives a logit per pixel, to be taken as it is; None for that of the weights.
    """

    def __init__(
        self, weights: str | None, device: Any = "cpu", memory_gb: float = 4.0, network: nn.Module | None = None
    ) -> None:
        self.weights, self.device, self.memory_gb = weights, device, float(memory_gb)
        self._network = network

    @property
    def available(self) -> bool:
        """Whether the weights are there."""
        return self.weights is not None and os.path.isfile(self.weights)

    def __call__(self, slices: torch.Tensor) -> torch.Tensor:
        """Lesion mask of standardised low-resolution slices, see ``detect``.

        Raises:
            InputError: no weights, or those of something else.
        """
        if self.weights is None or not self.available:
            raise InputError(f"detector is network, but {self.weights} is not there; see train_detector.json")
        if self._network is None:
            network = load_into(build(LesionDetector, self.weights, {}), self.weights)
            self._network = network.to(self.device).eval()
        return detect(self._network, slices, self.memory_gb)


def region_around(mask: torch.Tensor, margin: int = MARGIN, minimum: int = MINIMUM) -> Sides | None:
    """The square region of a low-resolution mask ``(h, w[, d])``; None where it is empty.

    Of a volume also start and stop of the slices that show the lesion. Arguments as for ``square_region``.
    """
    box = bounding_box(mask)
    if box is None:
        return None
    inner = [(start * FACTOR, stop * FACTOR) for start, stop in box[:2]]
    return (*square_region(inner, mask.shape[:2], margin, minimum), *box[2:])


class FindRegiond(MapTransform):
    """Writes the square region around the lesion of a standardised scan into its meta data.

    Of a volume one region is taken for all slices, and the slices that show the lesion. Where no lesion is found, the
    foreground's box is the region; one line says so, and so does the result's provenance.

    Args:
        keys: scans ``(1, h, w[, d])`` that went through ``StandardiseSlicesd``.
        detector: ``mask`` (the entry's file), ``network``, ``foreground``, or None for the first of these that can be.
        weights: of the detector's network, which is built as they say at first use.
        device: where it runs then.
        network: a network that gives a logit per pixel, to be taken as it is; None for that of the weights.
        margin: low-resolution pixels around the lesion.
        minimum: least edge in high-resolution pixels.
        guide_key: key of the entry's list with the mask's file, see ``mask_paths``.
        memory_gb: see ``detect``.

    Raises:
        InputError: another detector, no mask or no weights where they are asked for.
    """

    def __init__(
        self,
        keys: KeysCollection,
        detector: str | None = None,
        weights: str | None = None,
        device: Any = "cpu",
        network: nn.Module | None = None,
        margin: int = MARGIN,
        minimum: int = MINIMUM,
        guide_key: str = "guide",
        memory_gb: float = 4.0,
    ) -> None:
        super().__init__(keys)
        self.detector = detector
        if self.detector is not None and self.detector not in WAYS:
            raise InputError(f"detector must be one of {', '.join(WAYS)}, got {detector!r}")
        self.finder, self.guide_key = LesionFinder(weights, device, memory_gb, network), guide_key
        self.margin, self.minimum = int(margin), int(minimum)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The entry with the region to super-resolve in the meta data of its images."""
        out = dict(data)
        for key in self.key_iterator(out):
            image = out[key]
            source = str(image.meta.get("filename_or_obj", key))
            guides = mask_paths(out, self.guide_key)
            way = self._way(guides, source)
            low = image.as_tensor()[0]
            mask = None
            if way == "mask":
                mask = self._given(guides[0], image)
            elif way == "network":
                mask = self.finder(low)
            region = None if mask is None else region_around(mask, self.margin, self.minimum)
            if region is None:
                # of the scan's own values: standardised, a blank slice is brighter than the background beside a brain
                mean, spread = (torch.as_tensor(image.meta[name]).to(low) for name in (MEAN, SPREAD))
                region = foreground_region(low * spread + mean)
                if way != "foreground":
                    say(f"{source}: no lesion found by {way}; the foreground's box is taken instead")
                    way = f"foreground, no lesion found by {way}"
            if any((stop - start) * FACTOR < self.minimum for start, stop in region[:2]):
                say(f"{source}: the image is smaller than the least region of {self.minimum} pixels and is taken whole")
            marked = like_image(image, image)
            marked.meta.update({REGION: torch.tensor(region), FROM: way})
            out[key] = marked
        return out

    def _way(self, guides: Any, source: str) -> str:
        if self.detector == "mask" and not guides:
            raise InputError("detector is mask, but no mask is given; add --mask FILE_OR_NAME", source)
        if self.detector:
            return self.detector
        if guides:
            return "mask"
        return "network" if self.finder.available else "foreground"

    def _given(self, path: str, image: MetaTensor) -> torch.Tensor:
        axis = int(np.asarray(image.meta[AXIS]))
        low = image.as_tensor()[0]
        if axis < 0:
            return load_mask(path, low.shape, place_of(image), factor=FACTOR)
        return load_mask(path, low.movedim(-1, axis).shape, place_of(image), axis, FACTOR).movedim(axis, -1)
