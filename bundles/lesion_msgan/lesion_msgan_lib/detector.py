# SPDX-License-Identifier: Apache-2.0
"""Training and scores of the lesion detector's network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from monai.handlers import IgniteMetricHandler, from_engine
from monai.inferers import Inferer
from monai.metrics import CumulativeIterationMetric, DiceMetric
from monai.metrics.utils import do_metric_reduction
from monai.transforms import Compose

from common.errors import InputError
from common.io.weights import bare
from common.utils.types import Items

from .data import LesionSlices, LesionVolumes
from .degradation import RandDownsample
from .detection import LEAST, STEP, detect
from .lesions import RandLesion
from .regions import FACTOR, bounding_box, cut, foreground_region, square_region
from .slices import downsample, statistics

__all__ = ["DetectorInferer", "DetectorSlices", "HeldOutVolumes", "RegionCoverage", "detector_scores"]


def _low_mask(mask: torch.Tensor) -> torch.Tensor:
    """A high-resolution mask ``(H, W)`` on the low-resolution grid: pixels that it covers at least by half."""
    return (F.avg_pool2d(mask[None].float(), FACTOR)[0] >= 0.5).float()


class DetectorSlices(LesionVolumes):
    """Random low-resolution slices with their lesion mask, padded or cut to one size, to train the detector.

    Two in three show the lesion, the others are any slice; of a volume without lesion, slices with a fair amount of
    foreground. Volumes are taken in turn. Randomness from (seed, epoch, index); see ``LesionCrops``.

    Args:
        volumes: dataset of ``{"image": (2, H, W, D)}``.
        patches: samples per epoch.
        patch_size: edge in low-resolution pixels, a multiple of 16 from 32.
        seed: start of all randomness.
        augment: random transform of low-resolution slices ``(1, h, w)`` in the scan's units, MONAI's ``Randomizable``.
        lesion: blends a made lesion into slices, beside those that are there, see ``RandLesion``; None for no such.
        ways: of down-sampling, of which one is drawn per sample, see ``degradation.RandDownsample``.
    """

    def __init__(
        self,
        volumes: Items,
        patches: int,
        patch_size: int = 64,
        seed: int = 0,
        augment: Compose | None = None,
        lesion: RandLesion | None = None,
        ways: Any = "bicubic",
    ) -> None:
        super().__init__(volumes, "any")
        if patch_size % STEP or patch_size < LEAST:
            raise InputError(f"patch_size must be a multiple of {STEP} from {LEAST}, got {patch_size}")
        self.patches, self.patch_size, self.seed, self.epoch = patches, patch_size, seed, 0
        self.augment, self.lesion, self.downsample = augment, lesion, RandDownsample(ways)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose samples are drawn."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.patches

    def describe(self) -> str:
        """What it holds, for a run's first lines."""
        return f"{len(self.volumes)} volumes, {len(self)} slices per epoch"

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Gives "image" (standardised) and "label" (0 and 1), ``(1, patch_size, patch_size)``."""
        random = np.random.default_rng([self.seed, self.epoch, index])
        number = int(random.integers(len(self.volumes)))
        places, real = self.known[number]
        depth = self.volumes[number]["image"].shape[-1]
        shown = random.random() < 2 / 3 or not real
        seeds = random.integers(2**31, size=3).tolist()  # drawn whether used or not: options change nothing else
        truth, mask = self.slice(number, places[random.integers(len(places))] if shown else int(random.integers(depth)))
        self.downsample.set_random_state(seeds[0])
        low, mask = self.downsample(truth), _low_mask(mask)
        if self.lesion is not None:
            self.lesion.set_random_state(seeds[1])
            low, mask = self.lesion(low, mask)
        if self.augment is not None:
            self.augment.set_random_state(seeds[2])
            low = torch.as_tensor(self.augment(low[None])[0]).as_subclass(torch.Tensor) * (low != 0)
        mean, spread = statistics(low)
        pair = [((low - mean) / spread)[None], mask[None]]
        corners = [int(random.integers(0, max(0, n - self.patch_size) + 1)) for n in low.shape]
        flips = [axis for axis in (1, 2) if random.random() < 0.5]
        cuts = []
        for image, mode in zip(pair, ("replicate", "constant"), strict=True):
            image = image[:, corners[0] : corners[0] + self.patch_size, corners[1] : corners[1] + self.patch_size]
            missing = [self.patch_size - n for n in image.shape[1:]]
            before = [m // 2 for m in missing]
            pad = (before[1], missing[1] - before[1], before[0], missing[0] - before[0])
            cuts.append(F.pad(image[None], pad, mode=mode)[0].flip(flips).contiguous())
        return {"image": cuts[0], "label": cuts[1]}


class HeldOutVolumes(LesionSlices):
    """Held-out low-resolution volumes with their mask as "label", and the foreground's box as the trivial answer.

    "image" (standardised slice by slice), "label" and "foreground" are ``(1, h, w, d)``; items also carry "case" and
    "setting". A volume is what a detector is given at inference: slices help each other.

    Args:
        data, transform: as for ``LesionSlices``.
        step: every which slice is taken, as with thicker slices; less work.
    """

    def __init__(self, data: Sequence[Any], transform: Callable | None = None, step: int = 1) -> None:
        super().__init__(data, transform)
        self.step = step

    def __len__(self) -> int:
        return len(self.volumes)

    def describe(self) -> str:
        """What it holds, for a run's first lines."""
        return f"{len(self)} volumes, every {self.step}. slice"

    def __getitem__(self, index: int) -> dict[str, Any]:
        depth = self.volumes[index]["image"].shape[-1]
        truths, masks = zip(*(self.slice(index, place) for place in range(0, depth, self.step)), strict=True)
        low = downsample(torch.stack(truths))
        levels = torch.tensor([statistics(one) for one in low])
        image = ((low - levels[:, :1, None]) / levels[:, 1:, None]).movedim(0, -1)
        low, label = low.movedim(0, -1), torch.stack([_low_mask(mask) for mask in masks], dim=-1)
        (top, bottom), (left, right), (first, last) = foreground_region(low)
        box = torch.zeros_like(label)
        box[top:bottom, left:right, first:last] = 1
        item = {"image": image, "label": label, "foreground": box}
        return {
            **{key: value[None].contiguous() for key, value in item.items()},
            "case": self.names[index],
            "setting": "x4",
        }


class DetectorInferer(Inferer):
    """Lesion masks of 0 and 1 from the detector's network, of slices or volumes ``(B, 1, h, w[, d])``."""

    def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Masks of the same shape as ``inputs``."""
        slices = inputs.as_tensor() if hasattr(inputs, "as_tensor") else inputs
        return torch.stack([detect(bare(network), one[0]).float()[None] for one in slices]).to(slices.device)


class RegionCoverage(CumulativeIterationMetric):
    """Share of a lesion's pixels that lie inside the region that a mask leads to; 0 where the mask is empty.

    Masks are ``(B, 1, h, w[, d])`` on the low-resolution grid; of a volume the region is one box for all slices.
    """

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor:
        assert y is not None  # it compares
        shares = []
        for pred, truth in zip(y_pred[:, 0], y[:, 0], strict=True):
            box, total = bounding_box(pred), float(truth.sum())
            if box is None or total == 0:
                shares.append(0.0 if total else 1.0)
                continue
            region = square_region([(a * FACTOR, b * FACTOR) for a, b in box[:2]], truth.shape[:2])
            shown = truth if truth.ndim == 2 else truth[..., slice(*box[2])].sum(-1)
            shares.append(float(cut(shown, region).sum()) / total)
        return torch.tensor(shares)[:, None]

    def aggregate(self, reduction: str = "mean") -> torch.Tensor:
        """The shares so far reduced to one number."""
        return do_metric_reduction(self.get_buffer(), reduction)[0]


def detector_scores() -> dict[str, IgniteMetricHandler]:
    """Dice (beside the key metric the baseline's) and coverage, of the network and of the foreground's box."""
    scores = {"covered": IgniteMetricHandler(RegionCoverage(), output_transform=from_engine(["pred", "label"]))}
    for name, metric in (("dice", DiceMetric()), ("covered", RegionCoverage())):
        transform = from_engine(["foreground", "label"])
        scores[f"baseline_{name}"] = IgniteMetricHandler(metric, output_transform=transform)
    return scores
