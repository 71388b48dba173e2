# SPDX-License-Identifier: Apache-2.0
"""What weights were trained on, in a few numbers stored with them, and a line where a scan lies outside.

Images are measured as the network's user has them: spacing, noise level, and contrast as deciles of the scaled
foreground; ``us_despeckle`` has measures of its own. The numbers of a training's images are the weights' domain: the
range of each measure, and the deciles themselves, since sequences differ more from each other than from their middle.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from common.io.readers import LoadScan
from common.io.weights import load_domain
from common.transforms.geometry import middle_window, spacing_of
from common.transforms.intensity import robust_range
from common.utils.images import as_tensor

__all__ = [
    "CheckDomaind",
    "domain_of",
    "estimate_level",
    "joined",
    "measure",
    "measure_file",
    "outside",
    "training_domain",
    "variants",
    "warn_outside",
]

logger = logging.getLogger(__name__)

Measures = dict[str, list[float]]  # of one image, by name; those of contrasts begin with CONTRAST
CONTRAST = "contrast"
DECILES = tuple(range(10, 100, 10))
MOST = 24  # entries that are measured of a training's
EDGE = 96  # voxels of the middle block that noise is measured in; contrast is measured on a grid not much finer
BRIGHT = 0.15  # of the range of intensities: above it is tissue
NEAR = 0.05  # distance of contrasts that any two scans of one protocol may have
# by measure: how many times smaller and larger than its range a value may be, and how it is told
TOLERATED = {
    "spacing": (1.1, 1.1, "voxels of {} mm"),
    "noise": (3.0, 1.5, "a noise level of {} %"),  # a cleaner scan harms less
    "size": (1.5, 1.5, "a picture of {} pixels"),
    "speckle": (1.5, 1.5, "a speckle SNR of {}"),
}


def estimate_level(image: torch.Tensor, axes: Sequence[int] = (0, 1, 2)) -> float:
    """Noise level in percent of a scan ``(1, H, W, D)`` with background 0 and foreground to 1.

    The median absolute value of the finest diagonal Haar coefficients (Donoho 1995) of the foreground, where Rician
    noise is nearly Gaussian. Fine texture makes it a little too high.

    Args:
        image: the scan.
        axes: along which neighbours are compared; two for slices that are thick.
    """
    volume = as_tensor(image)[0].double().cpu()
    blocks, signs = volume, []
    for axis, length in enumerate(volume.shape):
        edge = min(2, length) if axis in axes else 1  # a single slice has no neighbour to differ from
        blocks = blocks.narrow(axis, 0, length - length % edge).unfold(axis, edge, edge)
        signs.append(torch.tensor([1.0, -1.0][:edge], dtype=torch.float64) / np.sqrt(edge))
    detail = torch.einsum("xyzijk,i,j,k->xyz", blocks, *signs)
    bright = blocks.flatten(3).amin(dim=3) > 0.2
    chosen = detail[bright] if int(bright.sum()) > 100 else detail
    return 100 * float(chosen.abs().median()) / 0.6745


def measure(image: MetaTensor, name: str = "", axes: Sequence[int] = (0, 1, 2)) -> Measures:
    """Spacing in mm, noise level in percent, and contrast of a scan ``(1, H, W, D)`` in any units.

    The contrast are the deciles of what is brighter than 15 % between the background level, which is 0, and the
    foreground's 99.9 percentile, which is 1: the noise around a head that was not skull-stripped is no contrast.

    Args:
        image: with its affine.
        name: of the sequence, where its contrast is compared with that of the same sequence alone.
        axes: in which the network works.
    """
    plain = as_tensor(image).float()
    sparse = plain[(slice(None), *(slice(None, None, 1 + n // EDGE) for n in plain.shape[1:]))]
    low, high = robust_range(sparse)
    values = (sparse - low) / (high - low)
    tissue = plain[0] > low + BRIGHT * (high - low)
    middle = middle_window(tissue if tissue.any() else torch.ones_like(tissue), [EDGE] * 3)
    bright = (values[values > BRIGHT] if (values > BRIGHT).any() else values.flatten()).cpu().numpy()
    return {
        "spacing": spacing_of(image.affine)[list(axes)].round(3).tolist(),
        "noise": [round(estimate_level((plain[(slice(None), *middle)] - low) / (high - low), axes), 3)],
        f"{CONTRAST} {name}".strip(): np.percentile(bright, DECILES).round(3).tolist(),
    }


def measure_file(path: str | os.PathLike, name: str = "") -> Measures:
    """``measure`` of a NIfTI file or a DICOM series."""
    return measure(LoadScan()(path), name)


def variants(images: Iterable[Measures]) -> Measures:
    """The measures of what one scan becomes in a training; the contrast is the first one's."""
    found: Measures = {}
    for image in images:
        found |= {k: found.get(k, []) + v for k, v in image.items() if not (k.startswith(CONTRAST) and k in found)}
    return found


def domain_of(images: Iterable[Measures]) -> dict[str, list]:
    """The domain of images: the range of each measure, and each contrast."""
    domain: dict[str, list] = {}
    for image in images:
        domain = joined(domain, {k: [v] if k.startswith(CONTRAST) else [min(v), max(v)] for k, v in image.items()})
    return domain


def joined(one: Mapping[str, list], other: Mapping[str, list]) -> dict[str, list]:
    """The domain of what either knows."""
    both = {**one, **other}
    for key in one.keys() & other.keys():
        ends = [*one[key], *other[key]]
        # the same scans once more, as in a training that goes on, are nothing new
        both[key] = [*dict.fromkeys(map(tuple, ends))] if key.startswith(CONTRAST) else [min(ends), max(ends)]
    return {key: [list(v) if isinstance(v, tuple) else v for v in values] for key, values in both.items()}


def training_domain(
    measured: Callable[[Mapping], Iterable[Measures]], entries: Sequence[Mapping], most: int = MOST
) -> dict[str, list]:
    """The domain of a training.

    Args:
        measured: gives the measures of what the network is shown of an entry.
        entries: of the training.
        most: of them, evenly chosen.
    """
    chosen = {round(i) for i in np.linspace(0, len(entries) - 1, min(most, len(entries)))}
    return domain_of(one for i in sorted(chosen) for one in measured(entries[i]))


def outside(image: Measures, domain: Mapping[str, list]) -> list[str]:
    """What of an image lies outside a domain, in words; measures that the domain lacks are passed over."""
    words = []
    for name in image.keys() & domain.keys():
        found, known = image[name], domain[name]
        if name.startswith(CONTRAST):
            distance, usual = _distance(found, known), _usual(known)
            if distance > usual:
                words.append(f"the {name} ({distance:.2f} from the nearest training image, up to {usual:.2f} is usual)")
            continue
        less, more, text = TOLERATED[name]
        low, high = known
        worst = max(found, key=lambda v: max(low / less / max(v, 1e-9), v / max(high * more, 1e-9)))
        if not low / less <= worst <= high * more:
            words.append(f"{text.format(f'{worst:.3g}')} (seen: {low:.3g} to {high:.3g})")
    return sorted(words)


def _distance(deciles: Sequence[float], known: Sequence[Sequence[float]]) -> float:
    """To the nearest of others: the mean difference, which is that between the distributions (Wasserstein)."""
    return float(np.abs(np.subtract(known, deciles)).mean(axis=1).min())


def _usual(known: Sequence[Sequence[float]]) -> float:
    """What nine in ten training images are apart from their nearest neighbour, and half as much again."""
    rest = [_distance(one, [*known[:i], *known[i + 1 :]]) for i, one in enumerate(known) if len(known) > 1]
    return max(NEAR, 1.5 * float(np.percentile(rest, 90))) if rest else NEAR


@lru_cache(maxsize=8)
def _domain_in(path: str, changed: float) -> dict[str, list]:
    return load_domain(path)


def warn_outside(image: Measures, weights: str | os.PathLike, source: str) -> None:
    """One line where an image lies outside what weights were trained on; none where the file has no such numbers.

    Args:
        image: its measures.
        weights: their file.
        source: the image's name.
    """
    words = outside(image, _domain_in(str(weights), os.path.getmtime(weights)))
    if words:
        logger.warning("%s: outside what the weights were trained on: %s", source, "; ".join(words))


class CheckDomaind(MapTransform):
    """Says in one line where a scan lies outside what the weights were trained on; scans pass as they are.

    Args:
        keys: scans in their own units, with "filename_or_obj" in their meta data.
        weights: the weights' file, see ``common.io.weights.load_domain``.
        measured: gives the measures of an image.
    """

    def __init__(
        self, keys: KeysCollection, weights: str, measured: Callable[[MetaTensor], Measures] = measure
    ) -> None:
        super().__init__(keys)
        self.weights, self.measured = weights, measured

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The entry as it is, after a word about images outside."""
        for key in self.key_iterator(data):
            source = str(data[key].meta.get("filename_or_obj", "image"))
            warn_outside(self.measured(data[key]), self.weights, source)
        return dict(data)
