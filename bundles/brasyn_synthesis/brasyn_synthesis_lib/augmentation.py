# SPDX-License-Identifier: Apache-2.0
"""Data augmentation beyond the paper's turns and flips: other scanners' contrasts, thick slices, tumours."""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.transforms import RandBiasField, Transform
from scipy import ndimage

from common.data.sample_data.fields import smooth_field, step
from common.transforms.intensity import foreground_mask
from common.utils.images import like_image

from .data import SEQUENCES

__all__ = ["AugmentCased", "JitterContrast"]

# Ranges of brightness relative to the brain's median in t1n, t1c, t2w, t2f. Contrast agent is what t1c has beyond t1n.
BRIGHTNESS = {
    "oedema": ((0.75, 0.98), (0.75, 0.98), (1.3, 2.0), (1.3, 1.9)),
    "rim": ((0.75, 1.0), (1.35, 2.2), (1.1, 1.6), (1.1, 1.6)),
    "core": ((0.4, 0.75), (0.4, 0.8), (1.4, 2.3), (0.6, 1.6)),
}
RADIUS, RIM, REACH = (7.0, 18.0), (1.5, 6.0), (4.0, 16.0)  # voxels: of the tumour, of its rim, of the oedema around
KEPT = 0.3  # share of the tissue's own texture that shows in a tumour
THICKNESS = (0.5, 1.8)  # voxels: standard deviation of the blur across slices
BIAS = (0.0, 0.25)  # coefficients of the bias field
KNOTS = (0.25, 0.5, 0.75)  # of a grey-scale curve, where 1 is the foreground's brightest


class AugmentCased(Transform):
    """Makes another patient on another scanner of a case: a tumour pasted in, bias fields, and thick slices.

    What is drawn follows from the entry's "seed", "case" and "variant" alone, so that a variant can be kept in a cache;
    an entry without is the case itself. Each sequence has its own bias field (MONAI's ``RandBiasField``) and its own
    blur across slices along one axis, as sequences acquired in thick slices of different directions have. The tumour
    has a core, a rim that enhances in t1c, and oedema; "seg" tells them as 1, 3 and 2.

    An addition to the paper, for few training cases.

    Args:
        tumour, bias, blur: probabilities; of bias and blur for each sequence.
    """

    def __init__(self, tumour: float = 0.7, bias: float = 0.7, blur: float = 0.5) -> None:
        self.tumour, self.bias, self.blur = tumour, bias, blur

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Sequences and "seg" ``(1, H, W, D)`` of the same shape, any intensity units; background stays as it is."""
        out = dict(data)
        if "variant" not in out:
            return out
        random = np.random.default_rng([out["seed"], out["variant"], zlib.crc32(str(out["case"]).encode())])
        images = {name: np.array(out[name][0], dtype=np.float32) for name in SEQUENCES}
        masks = {name: foreground_mask(torch.as_tensor(image)).numpy() for name, image in images.items()}
        brain = np.logical_and.reduce(list(masks.values()))
        if random.random() < self.tumour and brain.any():
            window, parts, labels = tumour(random, brain)
            for column, name in enumerate(SEQUENCES):
                median = float(np.median(images[name][brain]))
                images[name][window] = _pasted(random, images[name][window], median, parts, column)
            seg = np.zeros(brain.shape, np.float32)
            if "seg" in out:
                seg += np.array(out["seg"][0]).round()
            seg[window] = np.where(labels > 0, labels, seg[window])
            out["seg"] = like_image(torch.as_tensor(seg)[None], out[SEQUENCES[0]])
        for name in SEQUENCES:
            image, mask = images[name], masks[name]
            if random.random() < self.bias:
                field = RandBiasField(prob=1.0, coeff_range=BIAS)
                field.set_random_state(int(random.integers(2**31)))
                image = np.asarray(field(image[None]))[0]
            if random.random() < self.blur:
                image = _blurred(image, mask, int(random.integers(3)), random.uniform(*THICKNESS))
            image = np.where(mask, image, images[name]).astype(np.float32)
            out[name] = like_image(torch.as_tensor(image)[None], out[name])
        return out


def tumour(
    random: np.random.Generator, brain: np.ndarray
) -> tuple[tuple[slice, ...], dict[str, np.ndarray], np.ndarray]:
    """A ragged tumour somewhere in a brain.

    Args:
        random: source of randomness.
        brain: mask ``(H, W, D)``.

    Returns:
        The window of the image around it, its soft masks there in the order in which they cover each other, and the
        labels of BraTS 2023 there.
    """
    depth = ndimage.distance_transform_edt(brain)
    deepest = float(depth.max())
    radius, extent = min(random.uniform(*RADIUS), 0.6 * deepest), random.uniform(*REACH)
    places = np.argwhere(depth >= min(radius, deepest))
    centre = places[random.integers(len(places))]
    around = int(2 * radius + 2.5 * extent)
    window = tuple(slice(max(c - around, 0), c + around + 1) for c in centre)
    inside = brain[window]
    axes = np.ogrid[tuple(slice(0, n) for n in inside.shape)]
    stretch = random.uniform(0.75, 1.3, size=3)
    offsets = [a - (c - w.start) for a, c, w in zip(axes, centre, window, strict=True)]
    distance = np.sqrt(sum((offset / s) ** 2 for offset, s in zip(offsets, stretch, strict=True)))
    ragged = 0.15 * radius * smooth_field(random, inside.shape, 7.0) + 0.6 * smooth_field(random, inside.shape, 2.5)
    distance = distance + ragged
    rim = random.uniform(*RIM) * (1 + 0.4 * smooth_field(random, inside.shape, 6.0))
    reach = radius + extent * (1 + 0.5 * smooth_field(random, inside.shape, 8.0)).clip(0, 2)
    parts = {"oedema": step(reach - distance, 0.8), "rim": step(radius - distance, 0.3)}
    parts["core"] = step(radius - rim.clip(0.8, max(0.7 * radius, 0.8)) - distance, 0.3)
    parts = {name: (part * inside).astype(np.float32) for name, part in parts.items()}
    labels = np.select([parts["core"] > 0.5, parts["rim"] > 0.5, parts["oedema"] > 0.5], [1, 3, 2], 0)
    return window, parts, labels


def _pasted(
    random: np.random.Generator, image: np.ndarray, median: float, parts: dict[str, np.ndarray], column: int
) -> np.ndarray:
    """A sequence's window with the tumour in it, in the sequence's own units.

    Args:
        random: source of randomness.
        image: ``(H, W, D)``.
        median: of the sequence's brain.
        parts: soft masks of the tumour.
        column: of the sequence.
    """
    texture = KEPT * (image - median) + 0.05 * median * smooth_field(random, image.shape, 3.0)
    for name, part in parts.items():
        level = median * random.uniform(*BRIGHTNESS[name][column])
        image = image + part * (level + texture - image)
    return image


def _blurred(image: np.ndarray, mask: np.ndarray, axis: int, sigma: float) -> np.ndarray:
    """Blur across slices inside the brain; what is outside has no share in it."""
    share = ndimage.gaussian_filter1d(mask.astype(np.float32), sigma, axis)
    return ndimage.gaussian_filter1d(np.where(mask, image, 0), sigma, axis) / np.maximum(share, 1e-3)


class JitterContrast:
    """Gives each input of a stack a random rising grey-scale curve, a gain and noise; the truth stays as it is.

    The standard histograms take most of a scanner's contrast away, but not what tumours, atrophy or a tight brain mask
    do to them. The curve is piecewise linear with slopes of ``1 - curve`` to ``1 + curve``. The background stays 0.
    For ``common.samplers.RandomStacks``.

    An addition to the paper.

    Args:
        curve: largest change of a slope; 0 for no curve.
        gain: largest change of the whole input; None for 0.3 times the curve's.
        noise: largest standard deviation of the noise, of a brightest foreground of 1; None for 0.06 times the curve's.
        probability: of any change of a sample.
        sequences: inputs in a stack.
    """

    def __init__(
        self,
        curve: float = 0.35,
        gain: float | None = None,
        noise: float | None = None,
        probability: float = 0.8,
        sequences: int = 3,
    ) -> None:
        self.curve = curve
        self.gain = 0.3 * curve if gain is None else gain
        self.noise = 0.06 * curve if noise is None else noise
        self.probability, self.sequences = probability, sequences

    def __call__(
        self, image: torch.Tensor, label: torch.Tensor, random: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Image ``(sequences * k, H, W)`` with new contrasts, and the label as it is."""
        if random.random() >= self.probability:
            return image, label
        changed = []
        for stack in image.chunk(self.sequences):
            slopes = 1 + self.curve * random.uniform(-1, 1, size=len(KNOTS) + 1)
            slopes *= 1 + self.gain * random.uniform(-1, 1)
            made = stack * float(slopes[0])
            for knot, change in zip(KNOTS, np.diff(slopes), strict=True):
                made += float(change) * (stack - knot).clamp_min_(0)
            if self.noise:
                generator = torch.Generator().manual_seed(int(random.integers(2**31)))
                sigma = self.noise * random.random()
                made += sigma * torch.randn(stack.shape, generator=generator) * (stack != 0)
            changed.append(made)
        return torch.cat(changed), label
