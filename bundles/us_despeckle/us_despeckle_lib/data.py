# SPDX-License-Identifier: Apache-2.0
"""Two probes' folders: entries, decoded frames, and held-out frames with their regions of interest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import CacheDataset, MetaTensor
from monai.transforms import MapTransform

from common.console import say
from common.datasets import check_entries, read_split
from common.inputs import InputError
from common.sample_data import is_sample, sample_probes
from common.savers import stem_of
from common.settings import optional, value

from .frames import find_frames, read_frames
from .metrics import histogram
from .region import parse_box, ultrasound_region
from .rois import find_rois, given_rois

__all__ = [
    "HeldOutFrames",
    "LoadFramesd",
    "ProbeFrames",
    "check_frames",
    "inference_entries",
    "pooled_histogram",
    "probe_entries",
    "sample_frame",
]

LAYOUT = "low/ with frames of the probe to improve and high/ with frames of the reference probe"


def probe_entries(
    dataset_dir: Any,
    val_fraction: float,
    seed: int,
    most: int | None = None,
    held_out: bool = True,
    split: Any = None,
) -> dict[str, list[dict[str, str]]]:
    """Entries ``{"image": path}`` of the files in ``low/`` and ``high/``.

    Args:
        dataset_dir: holds the two folders; None for the sample probes, which are made on first use.
        val_fraction: share of the files in ``low/`` that validate, at least one.
        seed: chooses which.
        most: validation files at most, None for all.
        held_out: False validates on all files of ``low/``, of the sample probes on those held out from training, of a
            split on its "test" files, and takes all of ``high/`` as reference.
        split: a JSON file with lists of file names without ending instead of ``val_fraction`` and ``seed``, see
            ``common.datasets.read_split``; names of ``high/`` in "validate" or "test" are no reference in training.

    Returns:
        ``{"train": low, "validate": low, "reference": high}``; a single file in ``low/`` both trains and validates.

    Raises:
        InputError: a folder missing or empty, the same file in both, or a split that does not fit.
    """
    if not 0 < val_fraction < 1:
        raise InputError(f"val_fraction must lie between 0 and 1, got {val_fraction}")
    folder = optional(dataset_dir)
    root = Path(folder or sample_probes()).expanduser()
    low, high = (_side(root, name) for name in ("low", "high"))
    known = {_hash(path): path for path in high}
    for path in low:
        if _hash(path) in known:
            raise InputError(f"the same file as {known[_hash(path)]}; low/ and high/ need different probes", path)
    if optional(split) is not None:
        parts = _split_sides(low, high, optional(split), held_out)
        return {name: [{"image": path} for path in paths] for name, paths in parts.items()}
    order = np.random.default_rng(seed).permutation(len(low))
    count = min(max(1, round(val_fraction * len(low))), max(1, len(low) - 1))
    validate = [low[i] for i in sorted(order[:count])]
    train = [low[i] for i in sorted(order[count:])]
    if not train:
        if held_out:
            say("one file in low/ only: it both trains and validates, so the scores are those of known data")
        train = validate
    if not held_out and folder is not None:
        validate = low
    parts = {"train": train, "validate": validate[:most], "reference": high}
    return {name: [{"image": path} for path in paths] for name, paths in parts.items()}


def _split_sides(low: list[str], high: list[str], split: str, held_out: bool) -> dict[str, list[str]]:
    """Files of the low probe that train and validate, and of the reference probe, as a split file says."""
    parts = {name: set(stems) for name, stems in read_split(split, [stem_of(path) for path in low + high]).items()}
    scored = parts["validate"] if held_out else parts["test"] or parts["validate"]
    kept = parts["validate"] | parts["test"] if held_out else set()
    return {
        "train": [path for path in low if stem_of(path) in parts["train"]],
        "validate": [path for path in low if stem_of(path) in scored],
        "reference": [path for path in high if stem_of(path) not in kept],
    }


def check_frames(
    train: Sequence[Mapping[str, Any]], validate: Sequence[Mapping[str, Any]], reference: Sequence[Mapping[str, Any]]
) -> None:
    """``common.datasets.check_entries``, and that own frames are not trained towards the sample's probe.

    Raises:
        InputError: something is missing, or the reference alone is sample data.
    """
    check_entries(train, validate)
    path = train[0]["image"]
    if is_sample(reference[0]["image"]) and not is_sample(path):
        raise InputError("no reference probe for these frames: dataset_dir must name a folder with high/", path)


def _side(root: Path, name: str) -> list[str]:
    if not (root / name).is_dir():
        raise InputError(f"has no folder {name}/; expected {LAYOUT}", root)
    return find_frames(root / name)


def _hash(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def inference_entries(dataset_dir: Any) -> list[dict[str, str]]:
    """Entries ``{"image": path}`` of one file or of a folder's files; of a sample frame without ``dataset_dir``."""
    return [{"image": path} for path in find_frames(optional(dataset_dir) or sample_frame())]


def sample_frame() -> str:
    """Path of a sample frame of the low probe, made on first use."""
    return find_frames(sample_probes() / "low")[0]


class LoadFramesd(MapTransform):
    """Reads all frames of a file as float32 ``(N, H, W)`` grey levels in [0, 1], 0 outside the ultrasound region.

    The image is a ``MetaTensor`` whose meta data hold "filename_or_obj" and "region", the region's mask ``(H, W)``.

    Args:
        keys: paths.
        region: the region as ``[left, top, right, bottom]``; None to take it from DICOM or to find it.

    Raises:
        InputError: see ``read_frames`` and ``ultrasound_region``; a constant picture.
    """

    def __init__(self, keys: KeysCollection, region: Any = None) -> None:
        super().__init__(keys)
        self.region = parse_box(region)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        out = dict(data)
        for key in self.key_iterator(out):
            path = str(out[key])
            frames = read_frames(path)
            grey = frames.grey()
            if np.ptp(grey) == 0:
                raise InputError(f"constant image: every pixel is {frames.pixels.flat[0]}", path)
            region = ultrasound_region(frames, self.region, path)
            image = torch.from_numpy(np.where(region, grey, np.float32(0)))
            meta = {"filename_or_obj": path, "region": torch.from_numpy(region.astype(np.uint8))}
            out[key] = MetaTensor(image, meta=meta)
        return out


class ProbeFrames(CacheDataset):
    """Decoded frames of a probe's files, kept in memory.

    Args:
        data: entries ``{"image": path}``.
        transform: loads an entry, see ``LoadFramesd``.
    """

    def __init__(self, data: Sequence[Any], transform: Callable) -> None:
        super().__init__(data=data, transform=transform, num_workers=0, progress=False)


def pooled_histogram(frames: Iterable[Mapping[str, Any]]) -> torch.Tensor:
    """Counts ``(256,)`` of the grey levels of all frames inside their ultrasound regions."""
    total = torch.zeros(256, dtype=torch.float64)
    for item in frames:
        image = item["image"]
        total += histogram(image.as_tensor(), image.meta["region"].expand(image.shape))
    return total


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

    Raises:
        InputError: a region of interest outside a picture.
    """

    def __init__(
        self,
        data: Sequence[Any],
        transform: Callable,
        crop: Any = None,
        roi: Any = None,
        contrast_roi: Any = None,
        roi_mask: Any = None,
        progress: bool = False,
    ) -> None:
        super().__init__(data=data, transform=transform, num_workers=0, progress=progress)
        self.crop = value(crop)
        self.rois = (roi, contrast_roi, roi_mask)
        self._items: dict[int, dict[str, Any]] = {}

    @property
    def has_clean(self) -> bool:
        """Whether every frame has its clean echogenicity."""
        return bool(self.data) and all(_clean_path(entry["image"]).is_file() for entry in self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index not in self._items:
            self._items[index] = self._item(super().__getitem__(index)["image"])
        return dict(self._items[index])

    def _item(self, image: MetaTensor) -> dict[str, Any]:
        path = str(image.meta["filename_or_obj"])
        frame = image.as_tensor()[len(image) // 2].cpu()
        region = image.meta["region"].numpy() > 0
        shape = tuple(frame.shape)
        given = given_rois(shape, *self.rois, path)
        clean = np.zeros(shape, np.float32)
        if self.has_clean:
            clean = read_frames(_clean_path(path)).grey()[0] * region
        window = _middle(region, self.crop)
        rois = (find_rois(frame.numpy()[window], region[window]) if given is None else given[window]).astype(np.float32)
        channels = [frame[window], *(torch.from_numpy(x[window].astype(np.float32)) for x in (region, clean))]
        label = torch.stack([channels[0], channels[1], torch.from_numpy(rois), channels[2]])
        return {"image": channels[0][None].clone(), "label": label, "case": stem_of(path), "setting": "low"}

    def pixels(self) -> int:
        """Pixels that a network computes for all frames."""
        return sum(self[i]["image"].numel() for i in range(len(self)))


def _clean_path(path: str) -> Path:
    source = Path(path)
    return source.parent.parent / "truth" / source.name


def _middle(region: np.ndarray, crop: int | None) -> tuple[slice, slice]:
    """The region's box, or the middle part of it."""
    sides = []
    for axis in (1, 0):
        hits = np.flatnonzero(region.any(axis=axis))
        start, stop = (int(hits[0]), int(hits[-1]) + 1) if len(hits) else (0, region.shape[1 - axis])
        length = stop - start if crop is None else min(int(crop), stop - start)
        first = start + (stop - start - length) // 2
        sides.append(slice(first, first + length))
    return tuple(sides)
