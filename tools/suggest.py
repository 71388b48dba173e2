# SPDX-License-Identifier: Apache-2.0
"""What a file or folder is, and which bundles can do something with it, with the commands to type."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom

from brasyn_synthesis_lib.data import SEQUENCES, read_cases
from common.data.datasets import is_wanted
from common.io.bids import anatomical, is_dataset
from common.io.find import files_matching, stem_of
from common.io.pictures import SUFFIXES
from common.io.series import is_dicom
from tools.package import bundle_folder

__all__ = ["suggestions"]

RESULTS = "--output_dir results"
ISOTROPIC = 1.05  # the coarsest edge of a voxel by its finest


def suggestions(place: str) -> list[str]:
    """Lines that say what a file or folder is and what to type next.

    Args:
        place: NIfTI, DICOM or picture file, a DICOM series' folder, or a folder of any of them.

    Raises:
        ValueError: no such place, or nothing in it that a bundle reads.
    """
    path = Path(place).expanduser()
    if not path.exists():
        raise ValueError(f"{place}: no such bundle, file or folder")
    return _folder(path) if path.is_dir() else _file(path)


def _file(path: Path) -> list[str]:
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        return _nifti(path, str(path))
    if name.endswith(tuple(SUFFIXES)):
        return [
            f"{path.name}: a picture",
            *_do("ultrasound of one probe: give it the speckle of a better one", "us_despeckle", path),
            *_do("a slice of brain MR: four times as fine around a lesion", "lesion_msgan", path),
        ]
    if is_dicom(str(path)):
        return _dicom(path, path)
    raise ValueError(f"{path}: no NIfTI, DICOM or picture file; no bundle reads it")


def _nifti(path: Path, place: str) -> list[str]:
    try:
        shape, spacing = _grid(path)
    except Exception as error:
        raise ValueError(f"{path}: cannot be read as NIfTI ({str(error).splitlines()[0]})") from error
    size, edges = " x ".join(map(str, shape)), " x ".join(f"{edge:.3g}" for edge in spacing)
    lines = [f"{path.name}: {size} voxels of {edges} mm"]
    if len(shape) == 4 and shape[3] == 3:
        told = "three sequences of one brain: make the fourth (here FLAIR)"
        return [*lines, *_do(told, "brasyn_synthesis", place, "--target t2f")]
    if len(shape) != 3 or min(shape) == 1:
        return [*lines, *_do("slices: four times as fine around a lesion", "lesion_msgan", place)]
    return [*lines, *_volumes(place, spacing)]


def _grid(path: str | Path) -> tuple[tuple[int, ...], np.ndarray]:
    image: Any = nib.load(path)
    return image.shape, np.asarray(image.header.get_zooms()[:3], float)


def _volumes(place: str | Path, spacing: np.ndarray, keys: str = "", results: str = RESULTS) -> list[str]:
    thick = spacing.max() > spacing.min() * ISOTROPIC
    scale = "" if thick else '--scale "[2,2,2]"'
    told = f"to isotropic voxels of {spacing.min():.3g} mm" if thick else "to voxels of half the size"
    return [
        *_do(told, "mri_sr3d", place, f"{keys} {scale}".strip(), results),
        *_do("remove noise", "rslm_denoise", place, keys, results),
        *_do("slices four times as fine around a lesion", "lesion_msgan", place, keys, results),
    ]


def _dicom(path: Path, place: Path) -> list[str]:
    header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
    modality = str(header.get("Modality", "unknown"))
    if modality == "US":
        return [f"{place.name}: DICOM ultrasound", *_do("give it a better probe's speckle", "us_despeckle", place)]
    if modality != "MR":
        raise ValueError(f"{place}: DICOM of modality {modality}; the bundles work on MR and ultrasound")
    plane = [float(edge) for edge in header.get("PixelSpacing", [1, 1])]
    step = float(header.get("SpacingBetweenSlices") or header.get("SliceThickness") or plane[0])
    folder = place if place.is_dir() else place.parent
    return [f"{folder.name}: a DICOM series of MR", *_volumes(folder, np.array([*plane, step]))]


def _folder(path: Path) -> list[str]:
    if (path / "low").is_dir() and (path / "high").is_dir():
        told = "train a despeckling network on the two probes"
        return [f"{path.name}: frames of two probes", *_do(told, "us_despeckle", path, job="train")]
    files = files_matching(path, ["**/*"])
    volumes = [file for file in files if file.lower().endswith((".nii", ".nii.gz"))]
    pictures = [file for file in files if file.lower().endswith(tuple(SUFFIXES))]
    if volumes:
        return _scans(path, volumes)
    if pictures:
        told = "ultrasound of one probe: give it the speckle of a better one"
        return [f"{path.name}: {len(pictures)} pictures", *_do(told, "us_despeckle", path)]
    series = next((file for file in files if is_dicom(file)), None)
    if series is None:
        raise ValueError(f"{path}: no NIfTI, DICOM or picture file in it")
    return _dicom(Path(series), path)


def _scans(path: Path, volumes: Sequence[str]) -> list[str]:
    keys, kind, bids = "", "a folder", is_dataset(path)
    if bids:
        kind, volumes = "a BIDS dataset", anatomical(volumes, str(path)) or volumes
        suffixes = [stem_of(file).split("_")[-1] for file in volumes if is_wanted(file, None)]
        keys = f"--sequence {max(sorted(set(suffixes)), key=suffixes.count)}" if suffixes else ""
    results = f"--bids true --output_dir {shlex.quote(str(path))}" if bids else RESULTS
    lines = [f"{path.name}: {kind} of {len(volumes)} NIfTI file{'s' * (len(volumes) > 1)}"]
    cases = read_cases(volumes)[0]
    whole = [case for case, found in cases.items() if set(SEQUENCES) <= set(found)]
    missing = {
        next(iter(set(SEQUENCES) - set(found))) for found in cases.values() if len(set(found) & set(SEQUENCES)) == 3
    }
    if whole:
        told = f"{len(whole)} case(s) have all four sequences: train the synthesis of one (here t1c)"
        lines += _do(told, "brasyn_synthesis", path, "--target t1c", job="train")
    for target in sorted(missing):
        lines += _do(f"cases lack {target}: make it", "brasyn_synthesis", path, f"--target {target}", results)
    scan = next((file for file in volumes if is_wanted(file, None)), volumes[0])
    lines += _volumes(path, _grid(scan)[1], keys, results)
    lines += _do("train super-resolution on these scans", "mri_sr3d", path, keys, job="train")
    return lines + _do("train denoising on these scans", "rslm_denoise", path, keys, job="train")


def _do(
    told: str, bundle: str, place: str | Path, keys: str = "", results: str = RESULTS, job: str = "inference"
) -> list[str]:
    config = Path(os.path.relpath(bundle_folder(bundle) / "configs" / f"{job}.json"))
    words = ["python -m monai.bundle run --config_file", shlex.quote(config.as_posix())]
    words += ["--dataset_dir", shlex.quote(str(place)), keys, results if job == "inference" else ""]
    return [f"\n{told} ({bundle}):", "    " + " ".join(word for word in words if word)]
