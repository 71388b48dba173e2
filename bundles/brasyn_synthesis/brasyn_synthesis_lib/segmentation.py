# SPDX-License-Identifier: Apache-2.0
"""Downstream evaluation: what a tumour segmentation finds on the made sequence, beside what it finds on the real one.

The challenge's question (section 1): can the made sequence stand in for the one that a segmentation needs? The paper
reports the organisers' Dice on the test set (figure 3), whose segmentation network is not public.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import CacheDataset
from monai.handlers import IgniteMetricHandler, from_engine
from monai.inferers import SlidingWindowInferer
from monai.metrics import compute_dice
from monai.transforms import Compose, MapTransform, NormalizeIntensity
from torch.utils.data import Dataset

from common.data.datasets import split_entries
from common.engine import bundle_folder
from common.errors import InputError, one_line
from common.io.inputs import root_cause
from common.io.weights import load_into
from common.metrics import CaseScore
from common.utils.images import as_tensor, like_image
from common.utils.types import Items
from common.utils.values import optional

from .data import SEQUENCES, checked_target, inputs_of, training_cases
from .transforms import brats_labels

__all__ = [
    "REGIONS",
    "RegionsOfLabelsd",
    "SegmentedCases",
    "Segmenter",
    "SegmenterPatches",
    "TumourDice",
    "dice_of_brain",
    "downstream_metrics",
    "regions_of",
    "segmented_entries",
    "segmenter_at",
]

REGIONS = ("tumour core", "whole tumour", "enhancing tumour")  # in the order of the Model Zoo's brats_mri_segmentation
CONFIG = "train_segmenter.json"
ROI = (96, 96, 96)  # voxels of a window, where a bundle names no inferer
NORMALISE = NormalizeIntensity(nonzero=True, channel_wise=True)  # as in the Model Zoo


def regions_of(seg: torch.Tensor) -> torch.Tensor:
    """Masks ``(3, H, W, D)`` of ``REGIONS`` in BraTS labels ``(1, H, W, D)``.

    1 is necrotic core, 2 oedema, 3 enhancing tumour; where there is no 3, 4 is, as before 2023. Next to a 3 a 4 is a
    cavity (2024), and no part of the tumour.
    """
    enhancing = seg == (3 if (seg == 3).any() else 4)
    core = (seg == 1) | enhancing
    return torch.cat([core, core | (seg == 2), enhancing])


class TumourDice(CaseScore):
    """Dice of masks ``(B, R, H, W, D)``: of each case the mean over the regions that its truth has; NaN without any."""

    def score(self, image: torch.Tensor, truth: torch.Tensor) -> float:
        """Dice of masks ``(R, H, W, D)``; a region that the truth does not have is left out."""
        return float(compute_dice(image[None].float(), truth[None].float()).nanmean())


class Segmenter:
    """A network that segments the tumour in the four sequences: this bundle's own, or that of another MONAI bundle.

    A bundle is read as the Model Zoo has them: ``network_def`` and, where it is there, ``inferer`` of
    ``configs/inference.json`` (or ``.yaml``), weights ``models/model.pt``, and the names of input and output channels
    (``channel_def``) of ``configs/metadata.json``. Inputs must be the four sequences, outputs logits of regions of
    ``REGIONS``, each by itself. Its configuration is code, and is run.

    Args:
        path: weights of a training with ``train_segmenter.json``, or a bundle's folder.
        device: where it computes, in float32.

    Raises:
        InputError: no such file or folder, or something else in it.
    """

    def __init__(self, path: str | Path, device: torch.device | str = "cpu") -> None:
        given = Path(path).expanduser()
        self.inputs, self.regions = list(SEQUENCES), list(REGIONS)
        if given.is_dir():
            root, weights = given, given / "models" / "model.pt"
            found = [root / "configs" / f"inference.{suffix}" for suffix in ("json", "yaml", "yml")]
            config = next((file for file in found if file.is_file()), None)
            if config is None:
                raise InputError("no MONAI bundle: it has no configs/inference.json", given)
            self.inputs, self.regions = _channels(root / "configs" / "metadata.json")
        else:
            root, weights = bundle_folder(__file__), given
            config = root / "configs" / CONFIG
        parser = ConfigParser()
        try:
            parser.read_config(str(config))
            parser["bundle_root"] = str(root)
            network = parser.get_parsed_content("network_def")
            self.inferer = parser.get_parsed_content("inferer") if "inferer" in parser else SlidingWindowInferer(ROI)
        except Exception as error:
            raise InputError(f"gives no network to segment with ({one_line(root_cause(error))})", config) from error
        self.network, self.device = load_into(network, weights).to(device).eval(), device

    def __call__(self, images: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Masks ``(R, H, W, D)`` of ``regions``.

        Args:
            images: ``(H, W, D)`` by sequence, 0 outside the brain. Each is brought to zero mean and unit variance in
                the brain, so their units do not matter.
        """
        image: Any = NORMALISE(torch.stack([as_tensor(images[name]).float().cpu() for name in self.inputs]))
        with torch.inference_mode():
            return self.inferer(as_tensor(image)[None].to(self.device), self.network)[0].sigmoid().cpu() > 0.5

    def truth(self, seg: torch.Tensor) -> torch.Tensor:
        """Masks ``(R, H, W, D)`` of ``regions`` in BraTS labels ``(1, H, W, D)``."""
        return regions_of(seg.cpu())[[REGIONS.index(name) for name in self.regions]]


def _channels(metadata: Path) -> tuple[list[str], list[str]]:
    """Sequences that a bundle takes and regions that it gives, in the order of their channels."""
    try:
        formats = json.loads(metadata.read_text(encoding="utf-8"))["network_data_format"]
        first = [next(iter(formats[side].values()))["channel_def"] for side in ("inputs", "outputs")]
        inputs, outputs = ([str(names[key]) for key in sorted(names, key=int)] for names in first)
        inputs = [checked_target(name) for name in inputs]
        regions = [name.lower().replace("tumor", "tumour") for name in outputs]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, StopIteration) as error:
        raise InputError(
            f"does not name the channels of a segmentation ({one_line(root_cause(error))})", metadata
        ) from error
    if sorted(inputs) != sorted(SEQUENCES) or not regions or not set(regions) <= set(REGIONS):
        told = f"takes {', '.join(inputs)} and gives {', '.join(outputs)}"
        raise InputError(f"{told}; expected {', '.join(SEQUENCES)} and {', '.join(REGIONS)}", metadata)
    return inputs, regions


def segmenter_at(path: Any, device: torch.device | str = "cpu") -> Segmenter | None:
    """The segmenter that ``--segmenter`` names, None for null; arguments and errors as for ``Segmenter``."""
    return None if optional(path) is None else Segmenter(path, device)


def downstream_metrics(segmenter: Segmenter, target: str, methods: Mapping[str, str]) -> dict[str, IgniteMetricHandler]:
    """``dice_real``, and for each method ``<prefix>dice_synthesised``: its image in the place of the real target.

    The other three sequences are the real ones, all in standardised units.

    Args:
        segmenter: finds the tumour.
        target: the sequence that is made.
        methods: keys of images ``(1, H, W, D)`` in the evaluator's output, by the prefix of their scores.
    """
    wanted = {"dice_real": "label", **{f"{prefix}dice_synthesised": key for prefix, key in methods.items()}}
    return {
        name: IgniteMetricHandler(TumourDice(), output_transform=partial(_segmented, segmenter, target, key))
        for name, key in wanted.items()
    }


def _segmented(
    segmenter: Segmenter, target: str, key: str, output: Sequence[Mapping[str, Any]]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Masks found with an image of the output as the target, and the true ones."""
    found = []
    for one in output:
        images = dict(zip(inputs_of(target), one["image"], strict=True))
        found.append(segmenter({**images, target: one[key][0]}))
    return found, [segmenter.truth(as_tensor(one["seg"])) for one in output]


def segmented_entries(dataset_dir: str | None, pattern: str, **split: Any) -> dict[str, list[dict[str, Any]]]:
    """Complete cases with a segmentation, split by patient, to train a segmenter; see ``data.training_entries``.

    Raises:
        InputError: no case has one.
    """
    cases = [{**case, "setting": "four sequences"} for case in training_cases(dataset_dir, pattern) if "seg" in case]
    if not cases:
        raise InputError("no case has a segmentation (CASE-seg.nii.gz)", dataset_dir)
    return split_entries(cases, **split)


class RegionsOfLabelsd(MapTransform):
    """Turns BraTS labels ``(1, H, W, D)`` into masks of ``REGIONS``, see ``regions_of``.

    Raises:
        InputError: unknown labels.
    """

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """The entry with its labels as masks ``(3, H, W, D)`` of uint8."""
        out = dict(data)
        for key in self.key_iterator(out):
            out[key] = like_image(regions_of(brats_labels(out[key])).to(torch.uint8), out[key])
        return out


class SegmentedCases(CacheDataset):
    """Decoded cases ``{"image": (4, H, W, D), "label": (3, H, W, D), "case", "setting"}``, kept in memory.

    Args:
        data: entries of ``segmented_entries``.
        transform: loads one.
    """

    def __init__(self, data: Sequence[Any], transform: Callable) -> None:
        super().__init__(data=data, transform=transform, num_workers=0, progress=len(data) > 3)

    def describe(self) -> str:
        """What it holds, for a run's first lines."""
        return f"{len(self)} case(s) with a segmentation"


class SegmenterPatches(Dataset):
    """Random patches of cases, randomness from (seed, epoch, index).

    Args:
        volumes: see ``SegmentedCases``.
        transform: MONAI's random transforms, of which one cuts the patch.
        patches: samples per epoch; the cases are taken in turn.
        seed: start of all randomness.
    """

    def __init__(self, volumes: Items, transform: Compose, patches: int, seed: int = 0) -> None:
        self.volumes, self.transform, self.patches = volumes, transform, patches
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose samples are drawn."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.patches

    def describe(self) -> str:
        """What it holds, for a run's first lines."""
        return f"{len(self.volumes)} cases, {self.patches} patches per epoch"

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        random = np.random.default_rng([self.seed, self.epoch, index])
        self.transform.set_random_state(seed=int(random.integers(2**31)))
        item: Any = self.transform(dict(self.volumes[index % len(self.volumes)]))
        item = item[0] if isinstance(item, list) else item  # MONAI's croppers give a list
        return {key: as_tensor(item[key]).float() for key in ("image", "label")}


def dice_of_brain() -> dict[str, IgniteMetricHandler]:
    """Dice of the trivial answer that all of the brain is tumour, as ``baseline_dice``."""

    def answer(output: Any) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        images, truths = from_engine(["image", "label"])(output)
        brains = [(as_tensor(image) != 0).any(dim=0, keepdim=True) for image in images]
        return [brain.expand_as(truth) for brain, truth in zip(brains, truths, strict=True)], truths

    return {"baseline_dice": IgniteMetricHandler(TumourDice(), output_transform=answer)}
