# SPDX-License-Identifier: Apache-2.0
"""Two probes' folders: entries, decoded frames, and held-out frames with their regions of interest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import CacheDataset, MetaTensor

from common.data.datasets import read_split
from common.data.sample_data import sample_probes
from common.data.subjects import by_table
from common.errors import InputError
from common.io.find import stem_of
from common.transforms.geometry import extent_of
from common.utils.console import say

from .frames import find_frames, read_frames
from .rois import CONTRAST, boxes_of, find_rois, given_rois

__all__ = [
    "HeldOutFrames",
    "ProbeFrames",
    "inference_entries",
    "probe_entries",
    "sample_frame",
]

LAYOUT = "low/ with frames of the probe to improve and high/ with frames of the reference probe"


def probe_entries(
    dataset_dir: str | None,
    val_fraction: float,
    seed: int,
    most: int | None = None,
    held_out: bool = True,
    split: str | None = None,
    subjects_table: str | None = None,
) -> dict[str, list[dict[str, str]]]:
    """Entries ``{"image": path, "subject": name}`` of the files in ``low/`` and ``high/``.

    Args:
        dataset_dir: holds the two folders; None for the sample probes, which are made on first use.
        val_fraction: share of the subjects in ``low/`` that validate, at least one.
        seed: chooses which.
        most: validation files at most, None for all.
        held_out: False validates on all files of ``low/``, of the sample probes on those held out from training, of a
            split on its "test" files, and takes all of ``high/`` as reference.
        split: a JSON file with lists of subjects instead of ``val_fraction`` and ``seed``, see
            ``common.data.datasets.read_split``.
        subjects_table: tells whose the frames of both folders are, see ``common.data.subjects.by_table``; None: each
            file counts by itself, named without its ending, and a file of ``high/`` of a name that ``low/`` has, too,
            as ``high/NAME``. What ``high/`` has of subjects that validate or test is no reference in training.

    Returns:
        ``{"train": low, "validate": low, "reference": high}``; a single subject in ``low/`` both trains and validates.

    Raises:
        InputError: a folder missing or empty, the same file in both, a table or a split that does not fit, or a
            reference of subjects that are held out alone.
    """
    root = Path(dataset_dir or sample_probes()).expanduser()
    low, high = (_side(root, name) for name in ("low", "high"))
    hashes = {_hash(entry["image"]): entry["image"] for entry in high}
    for path in (entry["image"] for entry in low):
        if (same := hashes.get(_hash(path))) is not None:
            raise InputError(f"the same file as {same}; low/ and high/ need different probes", path)
    if subjects_table is None:
        names = {entry["subject"] for entry in low}
        high = [{**e, "subject": f"high/{e['subject']}"} if e["subject"] in names else e for e in high]
    low, high = by_table(low, subjects_table), by_table(high, subjects_table)
    known = list(dict.fromkeys(entry["subject"] for entry in low))
    if split is not None:
        parts = read_split(split, sorted({entry["subject"] for entry in (*low, *high)}))
        apart = {*parts["validate"], *parts["test"]}
        train, validate = parts["train"], parts["validate"] if held_out else parts["test"] or parts["validate"]
    else:
        order = np.random.default_rng(seed).permutation(len(known))
        count = min(max(1, round(val_fraction * len(known))), max(1, len(known) - 1))
        validate, train = ([known[i] for i in part] for part in (order[:count], order[count:]))
        apart = set(validate)
        if not train:
            if held_out:
                what = "one file" if len(low) == 1 else "one subject"
                say(f"{what} in low/ only: it both trains and validates, so the scores are those of known data")
            train, apart = validate, set()
        if not held_out and dataset_dir is not None:
            validate = known
    reference = [entry for entry in high if not held_out or entry["subject"] not in apart]
    if not reference:
        raise InputError("all frames are of subjects that are held out; the reference needs others", root / "high")
    scored = [entry for entry in low if entry["subject"] in validate]
    return {
        "train": [entry for entry in low if entry["subject"] in train],
        "validate": scored if split is not None else scored[:most],
        "reference": reference,
    }


def _side(root: Path, name: str) -> list[dict[str, str]]:
    if not (root / name).is_dir():
        raise InputError(f"has no folder {name}/; expected {LAYOUT}", root)
    return [{"image": path, "subject": stem_of(path)} for path in find_frames(root / name)]


def _hash(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def inference_entries(dataset_dir: str | None) -> dict[str, list]:
    """Cases of a file, a folder or, without ``dataset_dir``, a sample frame: see ``common.engine.sharing.plan``."""
    return {"entries": [{"image": path} for path in find_frames(dataset_dir or sample_frame())], "failures": []}


def sample_frame() -> str:
    """Path of a sample frame of the low probe, made on first use."""
    return find_frames(sample_probes() / "low")[0]


class ProbeFrames(CacheDataset):
    """Decoded frames of a probe's files, kept in memory.

    Args:
        data: entries ``{"image": path}``.
        transform: loads an entry, see ``LoadFramesd``.
    """

    def __init__(self, data: Sequence[Any], transform: Callable) -> None:
        super().__init__(data=data, transform=transform, num_workers=0, progress=False)


class HeldOutFrames(CacheDataset):
    """Frames to validate on: "image" ``(1, H, W)`` and "label" ``(4, H, W)``, with "case" and "setting".

    The label's channels are the frame itself, its ultrasound region, the regions of interest (see ``rois``) and the
    clean echogenicity, where a folder ``truth/`` beside ``low/`` has it. Of a loop the middle frame is taken.

    Args:
        data: entries ``{"image": path}``.
        transform: loads an entry, see ``LoadFramesd``.
        crop: edge of the middle part of the region to take, None for all of it.
        roi, contrast_roi, roi_mask: see ``given_rois``; without them ``find_rois`` looks.
        progress: show MONAI's bar while frames are loaded.
        say_rois: print each frame's regions of interest once, as boxes that ``roi`` and ``contrast_roi`` take.

    Raises:
        InputError: a region of interest outside a picture.
    """

    def __init__(
        self,
        data: Sequence[Any],
        transform: Callable,
        crop: int | None = None,
        roi: Any = None,
        contrast_roi: Any = None,
        roi_mask: Any = None,
        progress: bool = False,
        say_rois: bool = False,
    ) -> None:
        super().__init__(data=data, transform=transform, num_workers=0, progress=progress)
        self.crop, self.say_rois = crop, say_rois
        self.rois = (roi, contrast_roi, roi_mask)
        self._items: dict[int, dict[str, Any]] = {}

    @property
    def has_clean(self) -> bool:
        """Whether every frame has its clean echogenicity."""
        return bool(self.data) and all(_clean_path(entry["image"]).is_file() for entry in self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:  # type: ignore[override]  # MONAI's takes slices, too
        if index not in self._items:
            self._items[index] = self._item(super().__getitem__(index)["image"])
        return dict(self._items[index])

    def _item(self, image: MetaTensor) -> dict[str, Any]:
        path = str(image.meta["filename_or_obj"])
        frame = image.as_tensor()[len(image) // 2].cpu()
        region = image.meta["region"].numpy() > 0
        height, width = frame.shape
        given = given_rois((height, width), *self.rois, path)
        clean = np.zeros((height, width), np.float32)
        if self.has_clean:
            clean = read_frames(_clean_path(path)).grey()[0] * region
        window = _middle(region, self.crop)
        rois = (find_rois(frame.numpy()[window], region[window]) if given is None else given[window]).astype(np.float32)
        if self.say_rois:
            boxes = boxes_of(rois, (window[0].start, window[1].start))
            contrast = boxes.pop(CONTRAST, None)
            how = "given" if given is not None else "found, the most homogeneous ones"
            say(f"{Path(path).name}: patches of tissue {list(boxes.values())} ({how}), contrasted with {contrast}")
        channels = [frame[window], *(torch.from_numpy(x[window].astype(np.float32)) for x in (region, clean))]
        label = torch.stack([channels[0], channels[1], torch.from_numpy(rois), channels[2]])
        labels = {"case": stem_of(path), "setting": "low", **extent_of([self.crop] * 2 if self.crop else None)}
        return {"image": channels[0][None].clone(), "label": label, **labels}

    def describe(self) -> str:
        """What it holds, for a run's first lines."""
        return f"{len(self)} frame(s)"


def _clean_path(path: str) -> Path:
    source = Path(path)
    return source.parent.parent / "truth" / source.name


def _middle(region: np.ndarray, crop: int | None) -> tuple[slice, slice]:
    """The region's box, or the middle part of it."""

    def side(axis: int) -> slice:
        hits = np.flatnonzero(region.any(axis=1 - axis))
        start, stop = (int(hits[0]), int(hits[-1]) + 1) if len(hits) else (0, region.shape[axis])
        length = stop - start if crop is None else min(int(crop), stop - start)
        first = start + (stop - start - length) // 2
        return slice(first, first + length)

    return side(0), side(1)
