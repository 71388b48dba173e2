# SPDX-License-Identifier: Apache-2.0
"""Rician noise, added to patches and volumes."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import RandRicianNoise
from monai.utils import convert_to_tensor

from common.engine.domain import Measures, measure, variants
from common.io.inputs import InputError
from common.io.readers import LoadScan
from common.samplers import Patch
from common.transforms.intensity import robust_range
from common.utils.images import like_image
from common.utils.values import number, value

from .transforms import Coarsend

__all__ = ["RicianPatches", "add_noise", "measured", "parse_levels"]


def parse_levels(levels: Any, name: str = "noise_level") -> list[float]:
    """Noise levels in percent of the foreground's 99.9 percentile from a key: a number, a list, or its text.

    Args:
        levels: what was given.
        name: the key, for the error.

    Raises:
        InputError: no level, or one that is not a positive number.
    """
    plain = value(levels)
    given = [number(level) for level in (plain if isinstance(plain, list | tuple) else [plain])]
    percentages = [level for level in given if level is not None and level > 0]
    if not given or len(percentages) < len(given):
        raise InputError(f"{name} must be one or several positive percentages, such as 3 or [1,9]; got {levels!r}")
    return percentages


def add_noise(image: torch.Tensor, level: float, seed: int) -> torch.Tensor:
    """Magnitude image with Rician noise (Gudbjartsson and Patz 1995; the paper's introduction).

    Args:
        image: any shape, not negative, foreground's 99.9 percentile at 1.
        level: standard deviation of the noise in each of the two channels, in percent of that.
        seed: of the noise.
    """
    noise = RandRicianNoise(prob=1.0, std=level / 100, sample_std=False)
    noise.set_random_state(seed=seed)
    return convert_to_tensor(noise(image))


class RicianPatches:
    """Degrades patches for ``common.samplers.RandomPatches``; each patch draws its own level.

    Noise is added before any masking: a network that only ever saw zeroed background would be lost on scans with noise
    around the head. Levels are drawn evenly on a logarithmic scale: weak noise is as important as strong noise, but its
    errors are small. A share of the patches is masked afterwards, as skull-stripped scans are.

    Args:
        levels: lowest and highest level in percent, or one level; see ``parse_levels``.
        masked: share of patches whose background is zeroed after the noise.
        gain: range of a factor on both images: the 99.9 percentile of a noisy scan lies above that of the noise-free
            one, so at inference a scan is scaled a little lower than in training (an addition to the paper).
        brightness: range of a factor on the truth before the noise: where vessels or an enhancing tumour hold the 99.9
            percentile, tissue lies far below it and the noise weighs more (an addition to the paper).
        inverted: share of patches whose grey levels are turned around within the foreground before the noise, so that
            T1-weighted scans also stand for contrasts with bright fluid (an addition to the paper).
        offset: most that is added to the truth before the noise, since background and tissue differ between sequences
            (an addition to the paper).

    Raises:
        InputError: a level that is not positive.
        ValueError: ``masked`` or ``inverted`` outside [0, 1], a negative ``offset``, or ``gain`` or ``brightness`` is
            no range of positive factors.
    """

    def __init__(
        self,
        levels: Any = (1, 9),
        masked: float = 0.5,
        gain: Sequence[float] = (0.8, 1.1),
        brightness: Sequence[float] = (0.4, 1.0),
        inverted: float = 0.0,
        offset: float = 0.0,
    ) -> None:
        self.levels = parse_levels(levels)
        for name, share in {"masked": masked, "inverted": inverted}.items():
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {share}")
        for name, factors in {"gain": gain, "brightness": brightness}.items():
            if len(factors) != 2 or not 0 < factors[0] <= factors[1]:
                raise ValueError(f"{name} must be a range of positive factors, got {factors}")
        if offset < 0:
            raise ValueError(f"offset must not be negative, got {offset}")
        self.masked, self.inverted, self.offset = masked, inverted, offset
        self.gain, self.brightness = (gain[0], gain[1]), (brightness[0], brightness[1])

    def __call__(self, patches: Sequence[Patch], size: Sequence[int]) -> dict[str, torch.Tensor]:
        """Noisy patches as "image" and truth as "label", ``(B, 1, *size)``.

        The patches' volumes have two channels: the image, and its foreground as 0 and 1.
        """
        images, labels = [], []
        for patch in patches:
            window = tuple(slice(start, start + n) for start, n in zip(patch.corner, size, strict=True))
            truth, mask = patch.volume[(slice(None), *window)].split(1)
            level = float(np.exp(patch.random.uniform(np.log(min(self.levels)), np.log(max(self.levels)))))
            factor = patch.random.uniform(*self.gain)
            truth = truth.clamp_min(0)
            if patch.random.random() < self.inverted:
                truth = (1 - truth.clamp_max(1)) * mask
            truth = truth * patch.random.uniform(*self.brightness) + patch.random.uniform(0, self.offset)
            noisy = add_noise(truth, level, int(patch.random.integers(2**31)))
            if patch.random.random() < self.masked:
                truth, noisy = truth * mask, noisy * mask
            images.append(noisy * factor)
            labels.append(truth * factor)
        return {"image": torch.stack(images), "label": torch.stack(labels)}


def measured(entry: Mapping[Hashable, Any], degradation: RicianPatches) -> Iterator[Measures]:
    """Measures of a training scan, with the least and the most noise that is added to it, see ``common.engine.domain``.

    Args:
        entry: with the scan's path as "image", and "coarser" where its voxels are made larger.
        degradation: adds the noise, and turns contrasts around.
    """
    item: dict[Hashable, Any] = {"image": LoadScan()(entry["image"]), "coarser": entry.get("coarser", 1.0)}
    scan = Coarsend("image")(item)["image"]
    low, high = robust_range(scan)
    clean = like_image(((scan.as_tensor().float() - low) / (high - low)).clamp_min(0), scan)
    own = measure(clean)
    ends = (min(degradation.levels), max(degradation.levels))
    noisy = (like_image(add_noise(clean.as_tensor(), level, seed=0), scan) for level in ends)
    # the contrast is that without noise, which a skull-stripped scan does not have around the brain
    yield {**own, "noise": variants(map(measure, noisy))["noise"]}
    if degradation.inverted:
        yield {**own, "contrast": [round(1 - decile, 3) for decile in reversed(own["contrast"])]}
