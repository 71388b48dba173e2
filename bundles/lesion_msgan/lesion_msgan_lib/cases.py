# SPDX-License-Identifier: Apache-2.0
"""The user's pictures and volumes with their lesion masks, for training and for inference; and a sample case."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable
from typing import Any

import nibabel as nib
import numpy as np
import torch

from common.data import datasets
from common.data.datasets import guide_paths, held_out_brain, is_wanted
from common.data.sample_data import sample_brains
from common.errors import InputError
from common.io.files import replacing
from common.io.find import distinct, natural
from common.io.inputs import check_headers, find_scans
from common.transforms.geometry import grid_affine

from .slices import downsample, is_picture

__all__ = ["evaluation_entries", "inference_cases", "sample_case", "training_entries"]

LAYOUT = "NIfTI volumes or slices, DICOM series folders, PNG or JPEG pictures"
PATTERNS = ("**/*.nii*", "**/*.png", "**/*.jpg", "**/*.jpeg", "**/*.bmp")
SLAB = 8  # slices on both sides of the sample lesion's middle
FACTOR = 4
DETECTORS = ("mask", "any", "network", "foreground")  # of a training


def training_entries(
    dataset_dir: str | None, pattern: str, sequence: str | None, mask_name: str, detector: str | None, **split: Any
) -> dict[str, list[dict[str, Any]]]:
    """Scans of a folder with their lesion masks, split by subject.

    Args:
        dataset_dir: as for ``common.data.datasets.scan_entries``.
        pattern: likewise.
        sequence: likewise; of the sample brains T1c is taken.
        mask_name: takes the place of the sequence in the mask's name.
        detector: ``mask`` asks for a mask beside every scan, ``any`` and ``network`` take those that are there,
            ``foreground`` none.
        split: as for ``common.data.datasets.split_entries``.

    Raises:
        InputError: another detector, or as for those functions.
    """
    return _with_masks(datasets.training_entries, dataset_dir, pattern, sequence, mask_name, detector, **split)


def evaluation_entries(
    dataset_dir: str | None, pattern: str, sequence: str | None, mask_name: str, detector: str | None, **split: Any
) -> dict[str, list[dict[str, Any]]]:
    """All scans of a folder as validation entries; of the sample brains and of a split file those that are held out.

    Arguments and errors as for ``training_entries``.
    """
    return _with_masks(datasets.evaluation_entries, dataset_dir, pattern, sequence, mask_name, detector, **split)


def _with_masks(
    find: Callable[..., dict[str, list[dict[str, Any]]]],
    dataset_dir: str | None,
    pattern: str,
    sequence: str | None,
    mask_name: str,
    detector: str | None,
    **split: Any,
) -> dict[str, list[dict[str, Any]]]:
    if detector not in DETECTORS:
        raise InputError(f"detector must be one of {', '.join(DETECTORS)} in training, got {detector!r}")
    if dataset_dir is None:
        sequence = sequence or "t1c"
    parts = find(dataset_dir, pattern, sequence, [mask_name] if detector == "mask" else [], **split)
    if detector in ("any", "network"):
        for entry in itertools.chain(*parts.values()):
            with contextlib.suppress(InputError):
                entry["guide"] = guide_paths(entry["image"], [mask_name], sequence)
    return parts


def inference_cases(
    dataset_dir: str | None,
    pattern: str | None,
    sequence: str | None,
    mask: str | None,
    detector: str | None = None,
    allow_missing_slices: bool = False,
) -> dict[str, list]:
    """Cases of a folder or a single file, with those that cannot work.

    Args:
        dataset_dir: folder, file or DICOM series; None for a sample case with its mask.
        pattern: glob pattern below the folder; None for all kinds of images.
        sequence: last part of the names to take; None for all but label maps.
        mask: the mask's file, or the name that takes the place of the image's sequence beside it (``seg``); None for
            no masks, or ``seg`` where the detector is ``mask``.
        detector: see ``FindRegiond``.
        allow_missing_slices: take DICOM series of which some files cannot be read.

    Returns:
        ``{"entries": [{"image": path, "guide": [path]}], "failures": [(path, reason)]}``.
    """
    if mask is None and (detector == "mask" or (dataset_dir is None and detector is None)):
        mask = "seg"
    masks = [] if mask is None else [mask]
    entries, failures = [], []
    for path in _found(dataset_dir or sample_case(), pattern, sequence):
        good, refused = _checked(path, allow_missing_slices)
        failures += refused
        for one in good:
            try:
                entries.append({"image": one, "guide": guide_paths(one, masks, sequence)})
            except InputError as error:
                failures.append((one, error.reason.replace("guide sequence", "mask")))
    return {"entries": entries, "failures": failures}


def _found(folder: str, pattern: str | None, sequence: str | None) -> list[str]:
    if os.path.isfile(os.path.expanduser(folder)):
        return find_scans(folder)
    found: list[str] = []
    for one in (pattern,) if pattern else PATTERNS:
        try:
            found += find_scans(folder, one, LAYOUT)
        except InputError:
            if pattern:
                raise
    paths = [path for path in dict.fromkeys(found) if is_wanted(path, sequence)]
    if not found:  # says what is missing, or which DICOM series are mixed
        return find_scans(folder, PATTERNS[0], LAYOUT)
    if not paths:
        named = f"names ending in {sequence}" if sequence else "other names than those of label maps"
        raise InputError(f"no image among {len(found)} files under {folder}; expected {LAYOUT}, {named}")
    return distinct(sorted(paths, key=natural))


def _checked(path: str, allow_missing_slices: bool) -> tuple[list[str], list[tuple[str, str]]]:
    """A picture has two axes; a NIfTI file two or three."""
    if is_picture(path):
        return check_headers([path], ndim=2, color=True)
    good, failures = check_headers([path], allow_missing_slices=allow_missing_slices)
    if good or os.path.isdir(path):
        return good, failures
    flat, _ = check_headers([path], ndim=2)
    return (flat, []) if flat else (good, failures)


def sample_case() -> str:
    """Path of a made low-resolution scan (T1c) of the sample brain that training holds out, its lesion mask beside it.

    A slab of axial slices through the lesion, the plane down-sampled by 4; made on first use.
    """
    brains = sample_brains()
    case = held_out_brain(brains)
    target = brains.with_name(f"{brains.name}-{case.name}-lesion") / "sample-t1c.nii.gz"
    mask_path = target.with_name("sample-seg.nii.gz")
    if target.is_file() and mask_path.is_file():
        return str(target)
    scan, seg = (nib.Nifti1Image.from_filename(case / f"{case.name}-{name}.nii.gz") for name in ("t1c", "seg"))
    mask = np.asarray(seg.dataobj) > 0
    middle = int(np.flatnonzero(mask.any(axis=(0, 1))).mean())
    slab = slice(max(0, middle - SLAB), middle + SLAB)
    image = torch.as_tensor(scan.get_fdata(dtype=np.float32)[:, :, slab])
    low = downsample(image.movedim(-1, 0)).movedim(0, -1)
    affine = grid_affine(scan.affine, [FACTOR, FACTOR, 1])
    affine[:3, 3] += affine[:3, 2] * slab.start
    coarse = torch.as_tensor(mask[:, :, slab]).unflatten(0, (-1, FACTOR)).any(1).unflatten(1, (-1, FACTOR)).any(2)
    for path, array in ((mask_path, coarse.numpy().astype(np.uint8)), (target, low.numpy())):
        made = nib.Nifti1Image(array, affine)
        made.header["descrip"] = b"synthetic, not for diagnosis"
        with replacing(path) as partial:
            nib.save(made, partial)
    return str(target)
