# SPDX-License-Identifier: Apache-2.0
"""Noise of magnitude images, added to patches and volumes, or taken from pairs of scans."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.transforms import RandRicianNoise
from monai.utils import convert_to_tensor

from common.engine.domain import Measures, measure, variants
from common.errors import InputError
from common.io.readers import LoadScan
from common.samplers import Patch
from common.transforms.intensity import robust_range
from common.utils.images import like_image
from common.utils.values import number, value

from .transforms import Coarsend

__all__ = ["KINDS", "Noise", "NoisyPatches", "measured", "parse_levels"]

KINDS = ("rician", "noncentral_chi")


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


@dataclass(frozen=True)
class Noise:
    """The noise of magnitude images: one receive channel or several, the same everywhere or not.

    ``rician``: ``M = sqrt((A + n1)^2 + n2^2)`` of an image of one channel, or of a SENSE reconstruction (Gudbjartsson
    and Patz, Magn Reson Med 34, 1995; the paper's introduction).

    ``noncentral_chi``: the root of the sum of squares of L channels, ``M = sqrt(sum_l (A_l + n_l1)^2 + n_l2^2)``
    (Constantinides, Atalar and McVeigh, Magn Reson Med 38, 1997). Its distribution depends on the channels' signals by
    ``A = sqrt(sum_l A_l^2)`` alone, the image, so ``M^2`` is drawn as the square of a Rician variable with signal A
    and, independent of it, ``sigma^2`` times a chi-squared variable of ``2 (L - 1)`` degrees of freedom.

    ``peak`` above 1 lets sigma vary: ``sigma(x) = level g(x)`` with a smooth factor g from 1 to at most ``peak``, as
    parallel imaging has it by its geometry factor (Pruessmann et al., Magn Reson Med 42, 1999; Aja-Fernandez,
    Vegas-Sanchez-Ferrero and Tristan-Vega, Magn Reson Imaging 32, 2014). Channels are independent and alike.

    Departs from the paper: it argues for Rician noise and names no other.

    Args:
        kind: ``rician`` or ``noncentral_chi``.
        coils: channels L of ``noncentral_chi``.
        peak: most that g can be; 1 for the same noise everywhere.

    Example:
        >>> noisy = Noise("noncentral_chi", coils=4)(torch.zeros(1, 40, 40, 40), level=10, seed=0)
        >>> round(float(noisy.square().mean()), 3)  # 2 L sigma^2
        0.08
    """

    kind: str = "rician"
    coils: int = 1
    peak: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {KINDS}, got {self.kind!r}")
        if self.coils < 1 or self.peak < 1:
            raise ValueError(f"coils and peak must be at least 1, got {self.coils} and {self.peak}")

    @property
    def channels(self) -> int:
        """Channels whose noise adds up in a magnitude image."""
        return self.coils if self.kind == "noncentral_chi" else 1

    @property
    def strength(self) -> float:
        """Mean of the map g."""
        return (1 + self.peak) / 2

    def describe(self) -> str:
        """What it is, before its levels, for a run's first lines."""
        kind = f"noncentral chi noise of {self.coils} coils" if self.channels > 1 else "noise"
        return f"{kind}, at most {self.peak:g} times" if self.peak > 1 else kind

    def __call__(
        self,
        image: torch.Tensor,
        level: float,
        seed: int,
        corner: Sequence[int] = (0, 0, 0),
        whole: Sequence[int] | None = None,
    ) -> torch.Tensor:
        """The image with noise.

        Args:
            image: ``(..., H, W, D)``, not negative, foreground's 99.9 percentile at 1.
            level: least sigma, the standard deviation of the real and the imaginary part of each channel, in percent
                of that.
            seed: of the noise.
            corner: the image's first voxel in the whole volume, of which it is a patch.
            whole: shape of that volume; None for the image's own.
        """
        sigma: Any = level / 100
        if self.peak > 1:
            sigma = sigma * self.factors(image.shape[-3:], seed, corner, whole).to(image)
        noise = RandRicianNoise(prob=1.0, std=1.0, sample_std=False)  # of SD 1, for an image in units of sigma
        noise.set_random_state(seed=seed)
        noisy = convert_to_tensor(noise(image / sigma))
        if self.channels > 1:
            rest = np.random.default_rng(seed).chisquare(2 * (self.channels - 1), image.shape)
            noisy = (noisy.square() + torch.as_tensor(rest).to(noisy)).sqrt()
        return noisy * sigma

    def factors(
        self,
        shape: Sequence[int],
        seed: int,
        corner: Sequence[int] = (0, 0, 0),
        whole: Sequence[int] | None = None,
    ) -> torch.Tensor:
        """The map g ``(H, W, D)``, made of one cosine along each axis, of half a period to one and a half.

        Arguments as in ``__call__``, with the patch's shape instead of the image.
        """
        random = np.random.default_rng([seed, len(shape)])
        waves = []
        for start, n, length in zip(corner, shape, whole or shape, strict=True):
            place = (start + np.arange(n) + 0.5) / length
            waves.append(np.cos(2 * np.pi * (random.uniform(0.5, 1.5) * place + random.uniform())))
        height = (sum(np.ix_(*waves)) / len(waves) + 1) / 2  # in [0, 1]
        return torch.as_tensor(1 + (self.peak - 1) * height, dtype=torch.float32)


class NoisyPatches:
    """Degrades patches for ``common.samplers.RandomPatches``; each patch draws its own level, and map of the noise.

    Noise is added before any masking: a network that only ever saw zeroed background would be lost on scans with noise
    around the head. Levels are drawn evenly on a logarithmic scale: weak noise is as important as strong noise, but its
    errors are small. A share of the patches is masked afterwards, as skull-stripped scans are.

    A volume with a noisy scan of its own (``rslm_denoise_lib.data``) gets no further noise: only ``masked`` and
    ``gain`` change its patches.

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
        noise: what is added.

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
        noise: Noise = Noise(),
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
        self.noise = noise

    def __call__(self, patches: Sequence[Patch], size: Sequence[int]) -> dict[str, torch.Tensor]:
        """Noisy patches as "image" and truth as "label", ``(B, 1, *size)``.

        The patches' volumes have two channels, the image and its foreground as 0 and 1, or three: its noisy scan, too.
        """
        images, labels = [], []
        for patch in patches:
            window = tuple(slice(start, start + n) for start, n in zip(patch.corner, size, strict=True))
            truth, mask, *given = patch.volume[(slice(None), *window)].split(1)
            truth, noisy = (truth.clamp_min(0), given[0]) if given else self._noisy(patch, truth.clamp_min(0), mask)
            factor = patch.random.uniform(*self.gain)
            if patch.random.random() < self.masked:
                truth, noisy = truth * mask, noisy * mask
            images.append(noisy * factor)
            labels.append(truth * factor)
        return {"image": torch.stack(images), "label": torch.stack(labels)}

    def _noisy(self, patch: Patch, truth: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Truth and noisy patch ``(1, *size)`` of a patch of a volume taken as noise-free."""
        level = float(np.exp(patch.random.uniform(np.log(min(self.levels)), np.log(max(self.levels)))))
        if patch.random.random() < self.inverted:
            truth = (1 - truth.clamp_max(1)) * mask
        truth = truth * patch.random.uniform(*self.brightness) + patch.random.uniform(0, self.offset)
        seed = int(patch.random.integers(2**31))
        return truth, self.noise(truth, level, seed, patch.corner, patch.volume.shape[-3:])


def measured(entry: Mapping[Hashable, Any], degradation: NoisyPatches) -> Iterator[Measures]:
    """Measures of a training scan, with the least and the most noise that is added to it, see ``common.engine.domain``.

    Args:
        entry: with the scan's path as "image", its noisy scan's as "noisy" where it has one, and "coarser" where its
            voxels are made larger.
        degradation: adds the noise, and turns contrasts around.
    """
    path = entry.get("noisy", entry["image"])
    item: dict[Hashable, Any] = {"image": LoadScan()(path), "coarser": entry.get("coarser", 1.0)}
    scan = Coarsend("image")(item)["image"]
    low, high = robust_range(scan)
    clean = like_image(((scan.as_tensor().float() - low) / (high - low)).clamp_min(0), scan)
    own = measure(clean)
    if "noisy" in entry:
        yield own
        return
    ends = (min(degradation.levels), max(degradation.levels))
    noisy = (like_image(degradation.noise(clean.as_tensor(), level, seed=0), scan) for level in ends)
    # the contrast is that without noise, which a skull-stripped scan does not have around the brain
    yield {**own, "noise": variants(map(measure, noisy))["noise"]}
    if degradation.inverted:
        yield {**own, "contrast": [round(1 - decile, 3) for decile in reversed(own["contrast"])]}
