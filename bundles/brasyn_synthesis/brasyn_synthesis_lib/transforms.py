# SPDX-License-Identifier: Apache-2.0
"""From files to what the network takes, and from its output to standardised images."""

from __future__ import annotations

import logging
import os
from collections.abc import Hashable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from scipy import ndimage

from common.console import say
from common.fingerprint import files_of
from common.images import like_image
from common.inputs import CheckVoxelsd, InputError
from common.provenance import describe
from common.readers import LoadScan
from common.savers import ExpectedResults, SaveRestoredd, result_path, stem_of
from common.settings import optional
from common.transforms.geometry import spacing_of
from common.transforms.intensity import foreground_mask, standardise

from .data import DEFAULT_TARGET, SAME_GRID, SEQUENCES, inference_cases, inputs_of, weights_of
from .landmarks import Landmarks, landmarks_path, read

__all__ = [
    "LoadSequencesd",
    "PackCased",
    "RestoreStandardd",
    "SaveSynthesisd",
    "StandardiseInputsd",
    "facts_by_target",
    "meta_text",
    "scaled_inputs",
]

logger = logging.getLogger(__name__)

LABELS = (0, 1, 2, 3, 4)  # of BraTS, before and since 2023
TOP = 99.9  # percentile of the inputs' foreground that becomes 1
TARGET, SCALE, DIGEST = "target", "target_scale", "landmarks"  # keys in an image's meta data


def meta_text(meta: Mapping, key: str) -> str:
    """A text in an image's meta data, also of a batch of one."""
    found = meta[key]
    return str(found[0] if isinstance(found, list | tuple) else found)


def scaled_inputs(images: Sequence[torch.Tensor], names: Sequence[str], landmarks: Landmarks) -> tuple[Any, ...]:
    """The three inputs standardised, with one scale for all of them (sec. 2.3).

    Departs from the paper: the minimum is the background's 0 (standardised values below it, from the darkest per cent
    of the foreground, are raised to it), and the 99.9 percentile of the foreground takes the maximum's place, since a
    single bright vessel would set the scale of all three images.

    Args:
        images: ``(1, H, W, D)`` each, any units.
        names: their sequences.
        landmarks: of the weights.

    Returns:
        Images ``(3, H, W, D)``, brain mask ``(H, W, D)``, and the standardised value that 1 stands for.
    """
    masks = [foreground_mask(image[0].as_subclass(torch.Tensor)) for image in images]
    standard = torch.stack(
        [
            standardise(image[0], landmarks.of(name), mask)
            for image, name, mask in zip(images, names, masks, strict=True)
        ]
    ).clamp_min(0)
    brain = torch.stack(masks).any(dim=0)
    scale = float(np.percentile(standard[:, brain].cpu().numpy(), TOP)) or 1.0
    return standard / scale, brain, scale


class PackCased(Transform):
    """Training case: standardised inputs as "image", and truth, tumour and brain as channels of "label".

    Args:
        target: the sequence to make.
        landmarks: of the weights.
    """

    def __init__(self, target: str, landmarks: Landmarks) -> None:
        self.target, self.landmarks = target, landmarks

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Adds "image" ``(3, H, W, D)``, "label" ``(3, H, W, D)``, "case", and "scale" of the inputs.

        Raises:
            InputError: sequences on different grids, or a segmentation with unknown labels.
        """
        out = dict(data)
        case = str(out["case"])
        shapes = {name: tuple(out[name].shape) for name in (*SEQUENCES, "seg") if name in out}
        if len(set(shapes.values())) > 1:
            raise InputError(f"sequences on different grids: {shapes}", case)
        placed = [out[name] for name in shapes if isinstance(out[name], MetaTensor)]
        for image in placed[1:]:  # what the headers do not tell of DICOM series
            if not torch.allclose(image.affine, placed[0].affine, atol=SAME_GRID):
                path = image.meta.get("filename_or_obj", case)
                raise InputError("lies on another grid than the other sequences", path)
        names = inputs_of(self.target)
        image, brain, scale = scaled_inputs([out[name] for name in names], names, self.landmarks)
        inside = foreground_mask(out[self.target][0].as_subclass(torch.Tensor))
        truth = standardise(out[self.target][0], self.landmarks.of(self.target), inside).clamp_min(0)
        tumour = torch.zeros_like(truth)
        if "seg" in out:
            seg = out["seg"][0].as_subclass(torch.Tensor).round()
            unknown = sorted(set(torch.unique(seg).tolist()) - set(LABELS))
            if unknown:
                path = getattr(out["seg"], "meta", {}).get("filename_or_obj", case)
                raise InputError(f"segmentation with unknown labels {unknown[:5]}; BraTS has {list(LABELS)}", path)
            tumour = (seg > 0).float()
        label = torch.stack([truth / self.landmarks.scale, tumour, (brain | inside).float()])
        out["image"], out["label"] = (like_image(x, out[self.target]) for x in (image, label))
        out["case"], out["scale"] = case, scale
        return out


def facts_by_target(
    bundle_root: str, ckpt_dir: str, weights: Any = None, settings: Mapping[str, Any] | None = None
) -> dict[str, dict[str, Any]]:
    """Facts for the sidecars of each target's results, see ``common.provenance.describe``."""
    given = optional(weights)
    return {name: describe(bundle_root, given or weights_of(ckpt_dir, name), settings) for name in SEQUENCES}


class LoadSequencesd(MapTransform):
    """Loads the three sequences of a case as channels, in the order t1n, t1c, t2w, t2f without the target.

    Args:
        keys: entries of ``data.inference_cases``, or a path as MONAI Label gives it: a 4D file or a case folder.
        target: what to make; None for the missing one. A "target" in the data stands before it. Of a 4D file that
            comes as a path t1c is made where neither names another, and one line says so.

        allow_missing_slices: see ``common.readers.SeriesReader``.

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
        out = dict(data)
        for key in self.key_iterator(out):
            entry = out[key] if isinstance(out[key], Mapping) else self._entry(out)
            files, target = entry["files"], entry["target"]
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
        path, target = data["image"], optional(data.get(TARGET)) or optional(self.target)
        if target is None and os.path.isfile(path):
            target = DEFAULT_TARGET
            say(f"{path}: no target is named, so its volumes are taken as {', '.join(inputs_of(target))}")
        cases = inference_cases(path, target, allow_missing_slices=self.allow_missing_slices)
        if cases["failures"]:
            path, reason = cases["failures"][0]
            raise InputError(reason, path)
        return cases["entries"][0]["image"]


class StandardiseInputsd(MapTransform):
    """Standardises the inputs with the landmarks of the target's weights, and remembers the target's scale.

    Args:
        keys: images of ``LoadSequencesd``.
        ckpt_dir: the bundle's ``models``.
        weights: a weights file in place of the bundle's, or None.
    """

    def __init__(self, keys: KeysCollection, ckpt_dir: str, weights: str | None = None) -> None:
        super().__init__(keys)
        self.ckpt_dir, self.weights = ckpt_dir, weights

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        out = dict(data)
        for key in self.key_iterator(out):
            image = out[key]
            target = meta_text(image.meta, TARGET)
            landmarks = read(landmarks_path(self.weights or weights_of(self.ckpt_dir, target)), target)
            spacing = spacing_of(image.affine)
            if np.abs(spacing - 1).max() > 0.2:
                source = meta_text(image.meta, "filename_or_obj")
                logger.warning("%s: voxels of %s mm; the weights were trained on 1 mm", source, np.round(spacing, 2))
            scaled, _, _ = scaled_inputs(list(image.split(1)), inputs_of(target), landmarks)
            out[key] = like_image(scaled, image)
            out[key].meta[SCALE], out[key].meta[DIGEST] = landmarks.scale, landmarks.digest
        return out


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
        facts: by target, see ``common.provenance.describe``.
        args, kwargs: as for ``SaveRestoredd``; ``output_postfix`` is what follows the target.
    """

    def name_of(self, image: MetaTensor, source: str, postfix: str) -> str:
        """The result's file name."""
        return self._name(source, meta_text(image.meta, TARGET), postfix)

    @staticmethod
    def _name(source: str, target: str, postfix: str) -> str:
        name = (
            stem_of(source)
            if source.lower().endswith((".nii", ".nii.gz"))
            else source.replace("\\", "/").split("/")[-1]
        )
        return f"{name}-{target}{postfix}.nii.gz"

    def expect(self, entry: Mapping[Hashable, Any]) -> ExpectedResults:
        """What will be written for an entry of ``data.inference_cases``."""
        case = entry["image"]
        source, target = str(case["name"]), case["target"]
        names = [self._name(source, target, postfix) for postfix in self.postfixes]
        files = [result_path(source, self.output_dir, "", self.root, name) for name in names]
        return ExpectedResults(source, files_of(entry), files, self.facts[target])

    def facts_of(self, image: MetaTensor) -> Mapping[str, Any]:
        """What the sidecar tells, with the target and the scale of its intensities."""
        target = meta_text(image.meta, TARGET)
        scale = f"standardised {target} (landmarks {meta_text(image.meta, DIGEST)[:12]}), no scanner's units"
        return {**self.facts[target], "target": target, "intensities": scale}
