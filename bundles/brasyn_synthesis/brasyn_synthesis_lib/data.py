# SPDX-License-Identifier: Apache-2.0
"""Cases of four sequences: found by their names, by BraTS of 2021 or 2023 or BIDS, one 4D file, or explicit paths."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from common.data.datasets import entries_to_evaluate, held_out_brain, patient_of, split_entries
from common.data.sample_data import sample_brains
from common.errors import InputError
from common.io import bids
from common.io.find import stem_of
from common.io.inputs import check_headers, find_scans
from common.io.readers import grid_of
from common.utils.console import say
from common.utils.values import boolean, optional

__all__ = [
    "SEQUENCES",
    "checked_target",
    "evaluation_entries",
    "inference_cases",
    "inputs_of",
    "read_cases",
    "sample_case",
    "training_cases",
    "training_entries",
    "weights_of",
]

SEQUENCES = ("t1n", "t1c", "t2w", "t2f")
DEFAULT_TARGET = "t1c"
OLD_NAMES = {"t1ce": "t1c", "t1gd": "t1c", "flair": "t2f", "t1": "t1n", "t2": "t2w"}  # BraTS before 2023
NAME = re.compile(r"^(?:(?P<case>.*)[-_.])?(?P<kind>t1n|t1ce|t1gd|t1c|t1|t2w|t2f|t2|flair|seg)$", re.IGNORECASE)
BIDS_SEQUENCES = {"t1n": "T1w", "t1c": "ce-gadolinium_T1w", "t2w": "T2w", "t2f": "FLAIR"}
BIDS_NAMES = {"t1w": "t1n", "t2w": "t2w", "flair": "t2f"}
LESION = re.compile(r"(label|desc)-\w*?(lesion|tumou?r)", re.IGNORECASE)  # in the name of a mask, unlike a brain's
LAYOUT = "CASE/CASE-t1n.nii.gz, -t1c, -t2w, -t2f (or t1, t1ce, t2, flair) and -seg, one folder per case"
PATTERN = "**/*.nii*"
SAME_GRID = 1e-3  # mm: largest difference of affines that counts as the same grid


def checked_target(target: Any) -> str:
    """The name of a sequence, new or old style.

    Raises:
        InputError: another name.
    """
    name = str(optional(target) or "").lower()
    name = OLD_NAMES.get(name, name)
    if name not in SEQUENCES:
        raise InputError(f"target must be one of {', '.join(SEQUENCES)}; got {target!r}")
    return name


def inputs_of(target: str) -> list[str]:
    """The three other sequences in the order of the network's channels: t1n, t1c, t2w, t2f without the target."""
    return [name for name in SEQUENCES if name != target]


def weights_of(ckpt_dir: str, target: Any = None, weights: str | None = None) -> str:
    """The weights file for a target: the one given, else the bundle's ``model.pt`` (t1c) or ``targets/<target>.pt``.

    Args:
        ckpt_dir: the bundle's ``models``.
        target: the sequence to make; None for t1c.
        weights: a file in place of the bundle's.
    """
    name = checked_target(DEFAULT_TARGET if target is None else target)
    return weights or str(Path(ckpt_dir) / ("model.pt" if name == DEFAULT_TARGET else f"targets/{name}.pt"))


def read_cases(paths: Sequence[str]) -> tuple[dict[str, dict[str, str]], list[tuple[str, str]]]:
    """Sorts files into cases; files with other names are left out. A case of a BIDS dataset is a session.

    Returns:
        ``{case: {"t1n": path, ..., "seg": path}}``, and ``(case, reason)`` of those with a sequence twice.
    """
    cases: dict[str, dict[str, str]] = {}
    refused: dict[str, str] = {}
    for path in paths:
        named = _case_and_kind(path)
        if named is None:
            continue
        case, kind = named
        files = cases.setdefault(case, {})
        if kind in files:
            refused.setdefault(case, f"{kind} is there twice, as {Path(files[kind]).name} and {Path(path).name}")
        files[kind] = path
    return {case: files for case, files in cases.items() if case not in refused}, list(refused.items())


def _case_and_kind(path: str) -> tuple[str, str] | None:
    """The case that a file's name tells, with its folder, and the sequence or "seg"."""
    stem = stem_of(path)
    parts = [part.lower() for part in bids.name_parts(stem)]
    kind = BIDS_NAMES.get(parts[-1]) if parts else None
    if parts and parts[-1] in ("mask", "dseg", "seg") and any(LESION.match(part) for part in parts):
        kind = "seg"
    if kind:
        if kind == "t1n" and any(part.startswith("ce-") for part in parts):
            kind = "t1c"
        case = "_".join(part for part in stem.split("_") if part.lower().startswith(("sub-", "ses-")))
        return str(Path(path).parent / case), kind
    match = NAME.match(stem)
    if not match:
        return None
    kind = match["kind"].lower()
    case = match["case"] or Path(path).resolve().parent.name
    return str(Path(path).parent / case), OLD_NAMES.get(kind, kind)


def check_grids(files: Mapping[str, str], allow_missing_slices: Any = False) -> None:
    """Makes sure from the headers that all files of a case can be read, are different ones, and lie on one grid.

    Raises:
        InputError: the first file that does not.
    """
    _, failures = check_headers(files.values(), allow_missing_slices=boolean(allow_missing_slices))
    if failures:
        raise InputError(failures[0][1], failures[0][0])
    known: dict[str, str] = {}
    for name, path in files.items():
        other = known.setdefault(os.path.realpath(path), name)
        if other != name:
            raise InputError(f"{name} is the same file as {other}", path)
    first = None
    for name, path in files.items():
        if not path.lower().endswith((".nii", ".nii.gz")):
            continue  # a DICOM series; its grid is compared when it is loaded
        shape, affine = grid_of(path)
        if first is None:
            first = (name, shape, affine)
        elif shape[:3] != first[1][:3] or not np.allclose(affine, first[2], atol=SAME_GRID):
            sizes = [" x ".join(map(str, of[:3])) for of in (shape, first[1])]
            raise InputError(f"{name} lies on another grid ({sizes[0]}) than {first[0]} ({sizes[1]})", path)


def _once(cases: Mapping[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """Cases without those whose images are another's by way of links; label maps may be shared."""
    kept: dict[str, dict[str, str]] = {}
    known: dict[Any, Any] = {}
    for case, files in cases.items():
        images = tuple(sorted(os.path.realpath(path) for name, path in files.items() if name != "seg"))
        other = known.setdefault(images, case)
        if other == case:
            kept[case] = files
        else:
            say(f"{case}: the same files as {other}, taken once")
    return kept


def training_cases(dataset_dir: Any, pattern: str = PATTERN) -> list[dict[str, str]]:
    """Complete cases: a path under each sequence's name, "seg" where there is one; "case", "subject", "image".

    Args:
        dataset_dir: a folder; None for the sample brains, which are made on first use.
        pattern: glob pattern below the folder.

    Raises:
        InputError: no complete case.
    """
    folder = optional(dataset_dir) or str(sample_brains())
    cases, refused = read_cases(find_scans(folder, pattern, LAYOUT, unique=False))
    cases = _once(cases)
    for case, reason in refused:
        say(f"left out {case}: {reason}")
    entries = []
    for case, files in cases.items():
        missing = [name for name in SEQUENCES if name not in files]
        try:
            if missing:
                raise InputError(f"has no {', '.join(missing)}", case)
            check_grids(files)
        except InputError as error:
            say(f"left out {error}")
            continue
        name = Path(case).name
        subject = bids.subject_of(files["t1n"], folder) or patient_of(name)
        entries.append({**files, "image": files["t1n"], "case": name, "subject": subject})
    if not entries:
        raise InputError(f"no complete case under {folder}; expected {LAYOUT}")
    return entries


def training_entries(
    dataset_dir: str | None, pattern: str, variants: int = 0, **split: Any
) -> dict[str, list[dict[str, Any]]]:
    """Complete cases of a folder, split by patient.

    Args:
        dataset_dir: see ``training_cases``.
        pattern: see ``training_cases``.
        variants: of each training case beside itself, for ``augmentation.AugmentCased`` to make.
        split: further arguments of ``common.data.datasets.split_entries``.
    """
    parts = split_entries(training_cases(dataset_dir, pattern), **split)
    numbers = [{}, *({"variant": number, "seed": split["seed"]} for number in range(1, variants + 1))]
    return {**parts, "train": [{**entry, **number} for entry in parts["train"] for number in numbers]}


def evaluation_entries(dataset_dir: str | None, pattern: str, **split: Any) -> dict[str, list[dict[str, str]]]:
    """Complete cases of a folder to evaluate; further arguments as for ``common.data.datasets.entries_to_evaluate``."""
    return entries_to_evaluate(training_cases(dataset_dir, pattern), dataset_dir, **split)


def sample_case() -> str:
    """Folder of a sample brain without its t1c, from the subject that training holds out; made on first use."""
    brains = sample_brains()
    source = held_out_brain(brains)
    folder = brains.with_name(brains.name + "-without-t1c") / source.name
    folder.mkdir(parents=True, exist_ok=True)
    for name in inputs_of(DEFAULT_TARGET):
        link = folder / f"{source.name}-{name}.nii.gz"
        if not link.exists():
            os.link(source / link.name, link)
    return str(folder)


def inference_cases(
    dataset_dir: Any,
    target: Any,
    pattern: str = PATTERN,
    explicit: Mapping[str, Any] | None = None,
    allow_missing_slices: Any = False,
) -> dict[str, list]:
    """Cases for inference with their missing sequence, and those that their names or headers rule out.

    Args:
        dataset_dir: a case folder, a folder of such, or a 4D file with three volumes (the sequences t1n, t1c, t2w, t2f
            in this order without the target); None for a sample case.
        target: what to make; None for the sequence that is missing. With it a complete case's own is left unread.
        pattern: glob pattern below the folder.
        explicit: files by sequence that are one case; then ``dataset_dir`` is not read.
        allow_missing_slices: take DICOM series of which some files cannot be read.

    Returns:
        ``{"entries": [{"image": {"files": {...}, "target": name, "name": path}}], "failures": [(case, reason)]}``;
        entries also name their "case".
    """
    wanted = None if optional(target) is None else checked_target(target)
    given = {name: str(path) for name, path in (explicit or {}).items() if optional(path) is not None}
    if given:
        first = next(iter(given.values()))
        told = _case_and_kind(first)
        case = told[0] if told else str(Path(first).parent / stem_of(first))
        cases: dict[str, dict[str, str]] = {case: given}
        failures: list[tuple[str, str]] = []
    else:
        folder = optional(dataset_dir) or sample_case()
        found = find_scans(folder, pattern, LAYOUT, unique=False)
        if os.path.isfile(os.path.expanduser(folder)):
            cases, failures = {found[0]: {"stack": found[0]}}, []
        else:
            cases, failures = read_cases(found)
            cases = _once(cases)
            named = {path for files in cases.values() for path in files.values()}  # told as part of their case
            cases.update({path: {"stack": path} for path in found if path not in named and _volumes(path) > 1})
            if not cases and not failures:
                raise InputError(f"no file under {folder} is named as a sequence; expected {LAYOUT}")
    entries = []
    for name, files in cases.items():
        try:
            entries.append({"image": _entry(name, files, wanted, allow_missing_slices), "case": name})
        except InputError as error:
            failures.append((error.path or name, error.reason))
    return {"entries": entries, "failures": failures}


def _volumes(path: str) -> int:
    try:
        image = nib.load(path)
        assert isinstance(image, nib.Nifti1Pair)
        shape = image.shape
    except Exception:  # what cannot be read is told where it belongs to a case
        return 0
    return shape[3] if len(shape) == 4 else 1


def _entry(case: str, files: dict[str, str], target: str | None, allow_missing_slices: Any = False) -> dict[str, Any]:
    if "stack" in files:
        return {"files": files, "target": check_stack(files["stack"], target), "name": case}
    present = [name for name in SEQUENCES if name in files]
    missing = [name for name in SEQUENCES if name not in files]
    if target is None:
        if not missing:
            raise InputError("no sequence is missing; give --target to make one all the same", case)
        if len(missing) > 1:
            raise InputError(f"{len(missing)} sequences are missing ({', '.join(missing)}); one can be made", case)
        target = missing[0]
    lacking = [name for name in inputs_of(target) if name not in present]
    if lacking:
        raise InputError(f"{target} is made of the three others, but {', '.join(lacking)} is not there", case)
    kept = {name: files[name] for name in inputs_of(target)}
    check_grids(kept, allow_missing_slices)
    return {"files": kept, "target": target, "name": case}


def check_stack(path: str, target: str | None) -> str:
    """The target of a 4D file with three volumes.

    Raises:
        InputError: not such a file, a header that cannot work, or no target.
    """
    _, failures = check_headers([path], volumes=True)
    if failures:
        raise InputError(failures[0][1], path)
    try:
        shape = grid_of(path)[0]
    except Exception as error:
        raise InputError(f"cannot be read ({type(error).__name__})", path) from error
    if len(shape) != 4 or shape[3] != 3:
        size = " x ".join(map(str, shape))
        raise InputError(f"one file must be 4D with the three sequences as volumes, this is {size}", path)
    if target is None:
        raise InputError("a 4D file does not say which sequence is missing; give --target", path)
    return target
