# SPDX-License-Identifier: Apache-2.0
"""From files to what the network takes, and from its output to standardised images."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from scipy import ndimage

from common.data.datasets import TakePartd
from common.engine.domain import Measures, measure, measure_file, warn_outside
from common.errors import InputError
from common.io.find import stem_of
from common.io.hashes import files_of
from common.io.inputs import CheckVoxelsd
from common.io.provenance import describe
from common.io.readers import LoadScan
from common.io.savers import FILES, ExpectedResults, SaveRestoredd, checked_place, result_path
from common.transforms.intensity import foreground_mask, standardise
from common.utils.console import say
from common.utils.images import as_tensor, like_image
from common.utils.values import optional

from .data import BIDS_SEQUENCES, DEFAULT_TARGET, SAME_GRID, SEQUENCES, inference_cases, inputs_of, weights_of
from .standardisation import Standardisation

__all__ = [
    "CompactCased",
    "LoadSequencesd",
    "PackCased",
    "RestoreStandardd",
    "SaveSynthesisd",
    "StandardiseInputsd",
    "brats_labels",
    "facts_by_target",
    "measured",
    "meta_text",
    "scaled_inputs",
]

LABELS = (0, 1, 2, 3, 4)  # of BraTS, before and since 2023
TOP = 99.9  # percentile of the inputs' foreground that becomes 1
LEVELS = 2**16 - 1  # of the foreground where a case is kept; one more is the background's
MARGIN = 6  # voxels around the brain, more than the SSIM window reaches
TARGET, SCALE, DIGEST = "target", "target_scale", "standardisation"  # keys in an image's meta data


def meta_text(meta: Mapping, key: str) -> str:
    """A text in an image's meta data, also of a batch of one."""
    found = meta[key]
    return str(found[0] if isinstance(found, list | tuple) else found)


def scaled_inputs(
    images: Sequence[torch.Tensor], names: Sequence[str], standardisation: Standardisation, masks: Any = None
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """The three inputs standardised, with one scale for all of them (sec. 2.3).

    Departs from the paper: the minimum is the background's 0 (standardised values below it, from the darkest per cent
    of the foreground, are raised to it), and the 99.9 percentile of the foreground takes the maximum's place, since a
    single bright vessel would set the scale of all three images.

    Args:
        images: ``(1, H, W, D)`` each, any units.
        names: their sequences.
        standardisation: of the weights.
        masks: foreground ``(H, W, D)`` of each, where it is known.

    Returns:
        Images ``(3, H, W, D)``, brain mask ``(H, W, D)``, and the standardised value that 1 stands for.
    """
    if masks is None:
        masks = [foreground_mask(image[0].as_subclass(torch.Tensor)) for image in images]
    standard = torch.stack(
        [
            standardise(image[0], standardisation.landmarks[name], mask)
            for image, name, mask in zip(images, names, masks, strict=True)
        ]
    ).clamp_min(0)
    brain = torch.stack(list(masks)).any(dim=0)
    scale = float(np.percentile(standard[:, brain].cpu().numpy(), TOP)) or 1.0
    return standard / scale, brain, scale


class CompactCased(Transform):
    """Training case as it is kept: the box of the brain, 16-bit voxels and 8-bit labels, not standardised yet.

    So one cached case serves all targets and runs: 9 bytes for each voxel of the box.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Gives int16 ``(H, W, D)`` of each sequence, uint8 "seg", "case", "part", "around", "ranges" ``(4, 2)``.

        "around" are the voxels left out in front and behind, last axis first as ``torch.nn.functional.pad`` has them.

        -32768 is background; -32767 to 32767 are the foreground from its least to its largest value, see "ranges".

        Raises:
            InputError: sequences on different grids, or a segmentation with unknown labels.
        """
        case = str(data["case"])
        shapes = {name: tuple(data[name].shape) for name in (*SEQUENCES, "seg") if name in data}
        if len(set(shapes.values())) > 1:
            raise InputError(f"sequences on different grids: {shapes}", case)
        placed = [data[name] for name in shapes if isinstance(data[name], MetaTensor)]
        for image in placed[1:]:  # what the headers do not tell of DICOM series
            if not torch.allclose(image.affine, placed[0].affine, atol=SAME_GRID):
                path = image.meta.get("filename_or_obj", case)
                raise InputError("lies on another grid than the other sequences", path)
        images = {name: data[name][0].as_subclass(torch.Tensor) for name in shapes}
        masks = {name: foreground_mask(images[name]) for name in SEQUENCES}
        box = box_of(torch.stack(list(masks.values())).any(dim=0))
        sizes = shapes[SEQUENCES[0]][1:]
        sides = [side.indices(n)[:2] for side, n in zip(box, sizes, strict=True)]
        around = [edge for (low, high), n in reversed([*zip(sides, sizes, strict=True)]) for edge in (low, n - high)]
        out: dict[Hashable, Any] = {"case": case, "part": data.get("part", "whole"), "around": around}
        ranges = []
        for name, mask in masks.items():
            image, mask = images[name][box].double(), mask[box]
            inside = image[mask] if mask.any() else image.flatten()[:1]
            low, high = float(inside.min()), float(inside.max())
            levels = ((image - low) * ((LEVELS - 1) / ((high - low) or 1.0))).round().clamp(0, LEVELS - 1) + 1
            out[name] = (torch.where(mask, levels, 0.0) - 2**15).to(torch.int16)
            ranges.append([low, high])
        out["ranges"] = torch.tensor(ranges, dtype=torch.float64)
        if "seg" in images:
            out["seg"] = brats_labels(data["seg"], case)[0][box]
        return out


def brats_labels(seg: torch.Tensor, case: str = "") -> torch.Tensor:
    """A segmentation as labels of uint8.

    Args:
        seg: as it was loaded, ``(1, H, W, D)``.
        case: for messages, where the segmentation does not tell its file.

    Raises:
        InputError: labels that BraTS does not have.
    """
    labels = as_tensor(seg).round()
    unknown = sorted(set(torch.unique(labels).tolist()) - set(LABELS))
    if unknown:
        path = getattr(seg, "meta", {}).get("filename_or_obj", case)
        raise InputError(f"segmentation with unknown labels {unknown[:5]}; BraTS has {list(LABELS)}", path)
    return labels.to(torch.uint8)


class PackCased(Transform):
    """Training case for a target: standardised inputs as "image"; truth, tumour and brain as channels of "label".

    Args:
        standardisation: of the weights, which names the target.
        whole: give the grid of the case's files; else the box of the brain and 6 voxels around it.
        labels: give "seg", too, the segmentation's labels ``(1, H, W, D)``; 0 where there is none.
    """

    def __init__(self, standardisation: Standardisation, whole: bool = False, labels: bool = False) -> None:
        self.standardisation, self.whole, self.labels = standardisation, whole, labels

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Gives "image" and "label" ``(3, H, W, D)`` in half precision, "case", and "scale" of the inputs.

        Args:
            data: what ``CompactCased`` gives; of the "part" see ``common.data.datasets.TakePartd``.
        """
        images, masks = {}, {}
        for name, (low, high) in zip(SEQUENCES, data["ranges"].tolist(), strict=True):
            levels = data[name].int() + 2**15
            masks[name] = levels > 0
            images[name] = (low + (levels - 1).double() * ((high - low) / (LEVELS - 1)))[None].float()
        target = self.standardisation.target
        names = inputs_of(target)
        image, brain, scale = scaled_inputs(
            [images[name] for name in names], names, self.standardisation, [masks[name] for name in names]
        )
        truth = standardise(images[target][0], self.standardisation.landmarks[target], masks[target]).clamp_min(0)
        seg = data["seg"].float() if "seg" in data else torch.zeros_like(truth)
        label = torch.stack([truth / self.standardisation.scale, (seg > 0).float(), (brain | masks[target]).float()])
        keys = ("image", "label", "seg") if self.labels else ("image", "label")
        item = TakePartd(keys)({"image": image, "label": label, "seg": seg[None], "part": data["part"]})
        around = data["around"] if self.whole and data["part"] == "whole" else [MARGIN] * 6
        packed: dict[Hashable, Any] = {key: F.pad(item[key], around).half() for key in keys}
        return {**packed, "case": data["case"], "scale": scale}


def box_of(mask: torch.Tensor) -> tuple[slice, ...]:
    """The smallest box around what is true in ``(H, W, D)``; all of an empty mask."""
    sides = [torch.nonzero(mask.movedim(axis, 0).flatten(1).any(dim=1)).flatten() for axis in range(3)]
    return tuple(slice(int(side[0]), int(side[-1]) + 1) if len(side) else slice(None) for side in sides)


def facts_by_target(
    bundle_root: str, ckpt_dir: str, weights: str | None = None, settings: Mapping[str, Any] | None = None
) -> dict[str, dict[str, Any]]:
    """Facts for the sidecars of each target's results, see ``common.io.provenance.describe``."""
    return {name: describe(bundle_root, weights_of(ckpt_dir, name, weights), settings) for name in SEQUENCES}


class LoadSequencesd(MapTransform):
    """Loads the three sequences of a case as channels, in the order t1n, t1c, t2w, t2f without the target.

    Args:
        keys: entries of ``data.inference_cases``, or a path as MONAI Label gives it: a 4D file or a case folder.
        target: what to make; None for the missing one. A "target" in the data stands before it. Of a 4D file that
            comes as a path t1c is made where neither names another, and one line says so.

        allow_missing_slices: see ``common.io.readers.SeriesReader``.

    Raises:
        InputError: what ``data.inference_cases`` finds, other grids, one image as two sequences, or voxels that cannot
            work.
    """

    def __init__(self, keys: KeysCollection = "image", target: Any = None, allow_missing_slices: Any = False) -> None:
        super().__init__(keys)
        self.target, self.allow_missing_slices = target, allow_missing_slices
        self.load = LoadScan(allow_missing_slices)
        self.check = CheckVoxelsd("image")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The entry with its inputs as one image ``(3, H, W, D)``, what was asked of it in the meta data."""
        out = dict(data)
        for key in self.key_iterator(out):
            entry = out[key] if isinstance(out[key], Mapping) else self._entry(out)
            files, target = entry["files"], entry["target"]
            out[FILES] = list(files.values())
            if "stack" in files:
                first = self.load(files["stack"])
                channels = list(first.split(1))
            else:
                channels = [self.load(path) for path in files.values()]
                first = channels[0]
                for channel, path in zip(channels, files.values(), strict=True):
                    same = channel.shape == first.shape and torch.allclose(channel.affine, first.affine, atol=SAME_GRID)
                    if not same:
                        raise InputError("lies on another grid than the other sequences", path)
            for channel in channels:
                self.check({"image": channel})
            for one, other in combinations(range(len(channels)), 2):
                if torch.equal(channels[one].as_tensor(), channels[other].as_tensor()):
                    names = inputs_of(target)
                    raise InputError(f"{names[one]} and {names[other]} hold the same image", str(entry["name"]))
            image = like_image(torch.cat([c.as_tensor() for c in channels]), first)
            image.meta["filename_or_obj"], image.meta[TARGET] = str(entry["name"]), target
            out[key] = image
        return out

    def _entry(self, data: Mapping[Hashable, Any]) -> dict[str, Any]:
        path, target = data["image"], optional(data.get(TARGET)) or self.target
        if target is None and os.path.isfile(path):
            target = DEFAULT_TARGET
            say(f"{path}: no target is named, so its volumes are taken as {', '.join(inputs_of(target))}")
        cases = inference_cases(path, target, allow_missing_slices=self.allow_missing_slices)
        if cases["failures"]:
            path, reason = cases["failures"][0]
            raise InputError(reason, path)
        return cases["entries"][0]["image"]


class StandardiseInputsd(MapTransform):
    """Standardises the inputs as the target's weights want it, and remembers the target's scale.

    One line tells of each input that lies outside what these weights were trained on.

    Args:
        keys: images of ``LoadSequencesd``.
        ckpt_dir: the bundle's ``models``.
        weights: a weights file in place of the bundle's, or None.
    """

    def __init__(self, keys: KeysCollection, ckpt_dir: str, weights: str | None = None) -> None:
        super().__init__(keys)
        self.ckpt_dir, self.weights = ckpt_dir, weights
        self._known: dict[tuple, Standardisation] = {}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The entry with its inputs standardised as the weights of their target ask for."""
        out = dict(data)
        for key in self.key_iterator(out):
            image = out[key]
            target = meta_text(image.meta, TARGET)
            standardisation = self._standardisation(target)
            images, names = list(image.split(1)), inputs_of(target)
            for one, name in zip(images, names, strict=True):
                source = f"{meta_text(image.meta, 'filename_or_obj')}, {name}"
                warn_outside(measure(one, name), weights_of(self.ckpt_dir, target, self.weights), source)
            scaled, _, _ = scaled_inputs(images, names, standardisation)
            out[key] = like_image(scaled, image)
            out[key].meta[SCALE], out[key].meta[DIGEST] = standardisation.scale, standardisation.digest
        return out

    def _standardisation(self, target: str) -> Standardisation:
        """That of the weights as they lie there now; large files are not read again for each case."""
        path = weights_of(self.ckpt_dir, target, self.weights)
        key = (path, target, os.path.getmtime(path) if os.path.isfile(path) else None)
        if key not in self._known:
            self._known[key] = Standardisation.read(path, target)
        return self._known[key]


def measured(entry: Mapping[str, Any], target: str) -> Iterator[Measures]:
    """Measures of a training case's inputs, by sequence, see ``common.engine.domain``; none of an augmented variant.

    Args:
        entry: a path for each sequence.
        target: the sequence that is made.
    """
    for name in inputs_of(target) if "variant" not in entry else ():
        yield measure_file(entry[name], name)


class RestoreStandardd(MapTransform):
    """Gives each channel of a prediction its own key, in the target's standardised scale, with the input's affine.

    What lies outside the brain, where all inputs are 0, becomes 0; holes in it are brain.

    Args:
        keys: the prediction ``(n, H, W, D)``.
        names: key of each channel; values of the first are at least 0.
        ref_key: the input, with the scale that ``StandardiseInputsd`` remembered; without one the scale is 1.
    """

    def __init__(self, keys: KeysCollection, names: Sequence[str] = ("pred",), ref_key: str = "image") -> None:
        super().__init__(keys)
        self.names, self.ref_key = tuple(names), ref_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The entry with a channel of the prediction under each name, 0 outside the brain."""
        out = dict(data)
        image = out[self.ref_key]
        meta = image.meta if isinstance(image, MetaTensor) else {}
        scale = float(np.asarray(meta.get(SCALE, 1.0)))
        seen = (torch.as_tensor(image).as_subclass(torch.Tensor) != 0).any(dim=0)
        brain = torch.as_tensor(ndimage.binary_fill_holes(seen.cpu().numpy())).to(seen.device)
        for key in self.key_iterator(data):
            channels = torch.as_tensor(data[key]).as_subclass(torch.Tensor)
            for name, channel in zip(self.names, channels, strict=True):
                result = (channel[None] * scale).clamp_min(0) * brain.to(channel.device)
                out[name] = like_image(result, image) if isinstance(image, MetaTensor) else result
        return out


class SaveSynthesisd(SaveRestoredd):
    """Saves ``<case>-<target>.nii.gz``, and ``<case>-<target>-std.nii.gz`` for the map of the views' deviation.

    Args:
        facts: by target, see ``common.io.provenance.describe``.
        args, kwargs: as for ``SaveRestoredd``; ``output_postfix`` is what follows the target.
    """

    def place_of(self, image: MetaTensor, source: str, postfix: str) -> Path:
        """Where a result goes."""
        return self._place(source, meta_text(image.meta, TARGET), postfix)

    def _place(self, source: str, target: str, postfix: str) -> Path:
        if self.derivatives:
            return checked_place(self.derivatives.place(source, self.kind_of(postfix), BIDS_SEQUENCES[target]), source)
        file = source.lower().endswith((".nii", ".nii.gz"))
        case = stem_of(source) if file else source.replace("\\", "/").split("/")[-1]
        return result_path(source, self.output_dir, "", self.root, f"{case}-{target}{postfix}.nii.gz")

    def expect(self, entry: Mapping[Hashable, Any]) -> ExpectedResults:
        """What will be written for an entry of ``data.inference_cases``."""
        case = entry["image"]
        source, target = str(case["name"]), case["target"]
        files = [self._place(source, target, postfix) for postfix in self.postfixes]
        return ExpectedResults(source, files_of(entry), files, self.facts[target])

    def facts_of(self, image: MetaTensor) -> Mapping[str, Any]:
        """What the sidecar tells, with the target and the scale of its intensities."""
        target = meta_text(image.meta, TARGET)
        scale = f"standardised {target} (histograms {meta_text(image.meta, DIGEST)[:12]}), no scanner's units"
        return {**self.facts[target], "target": target, "intensities": scale}
