# SPDX-License-Identifier: Apache-2.0
"""From a folder of scans to entries for training and validation."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import MetaTensor
from monai.transforms import MapTransform

from common.data.sample_data import sample_brains
from common.data.subjects import by_table
from common.errors import InputError, one_line
from common.io import bids
from common.io.find import stem_of
from common.io.headers import NIFTI_SUFFIXES
from common.io.inputs import check_headers, find_scans
from common.io.pictures import SUFFIXES as PICTURES
from common.utils.console import say
from common.utils.values import boolean, names, optional, quantity, value

__all__ = [
    "TakePartd",
    "check_entries",
    "entries_to_evaluate",
    "evaluation_entries",
    "guide_paths",
    "held_out_brain",
    "inference_entries",
    "is_wanted",
    "patient_of",
    "read_split",
    "scan_entries",
    "split_entries",
    "training_entries",
]

LAYOUT = "NIfTI files in the folder or its sub-folders, one folder or one name per subject"
LABELS = re.compile(r"(^|[-_.])((d|prob)?seg|(deface)?mask|labels?|pred)$", re.IGNORECASE)  # label maps are no images
SEQUENCES = re.compile(r"[-_.](t1n?|t1c|t1ce|t1w|t1gd|t2|t2w|t2f|flair|pd|pdw)$", re.IGNORECASE)
BRATS = re.compile(r"(BraTS-.+-\d{5})-\d{3}", re.IGNORECASE)  # patient, time point
PARTS = ("whole", "train", "held_out")
HELD_OUT = 0.3  # share of a single volume that validates


def scan_entries(
    dataset_dir: Any, pattern: str, sequence: Any, guides: Any = None, sample_sequence: str = "t1n"
) -> list[dict[str, Any]]:
    """Entries ``{"image": path, "guide": [paths], "subject": name}`` of the images in a folder.

    Args:
        dataset_dir: folder or one file; None for the sample brains, which are made on first use.
        pattern: glob pattern of the images below the folder.
        sequence: last part of the names to take, such as "t1n" for ``*-t1n.nii.gz``, of BIDS names the suffix, with
            entities where they tell the sequence (``ce-gadolinium_T1w``); None for all.
        guides: sequences that guide, found beside each image by their names.
        sample_sequence: of the sample brains, where none is given.

    Raises:
        InputError: nothing there, or a guide missing.
    """
    folder = optional(dataset_dir)
    wanted = optional(sequence)
    if folder is None:
        folder, wanted = str(sample_brains()), wanted or sample_sequence
    layout = LAYOUT if wanted is None else f"{LAYOUT}, names ending in {wanted}"
    paths = _wanted_scans(folder, pattern, wanted, layout)
    good, failures = check_headers(paths)
    for path, reason in failures:
        say(f"left out {path}: {reason}")
    if not good:
        raise InputError(f"none of the {len(paths)} files under {folder} can be used; the lines above name the reasons")
    wanted_guides = names(guides)
    # folders that all scans share tell no subjects apart: BraTS/training/case-01/... counts from case-01
    root = Path(os.path.commonpath([os.path.dirname(p) for p in good]))
    return [{"image": p, "guide": guide_paths(p, wanted_guides, wanted), "subject": _subject(p, root)} for p in good]


def training_entries(
    dataset_dir: Any,
    pattern: str,
    sequence: Any,
    guides: Any = None,
    sample_sequence: str = "t1n",
    **split: Any,
) -> dict[str, list[dict[str, Any]]]:
    """Images of a folder, split by subject; arguments and errors as for ``scan_entries`` and ``split_entries``."""
    return split_entries(scan_entries(dataset_dir, pattern, sequence, guides, sample_sequence), **split)


def evaluation_entries(
    dataset_dir: Any,
    pattern: str,
    sequence: Any,
    guides: Any,
    val_fraction: float,
    seed: int,
    split: Any = None,
    subjects_table: Any = None,
    sample_sequence: str = "t1n",
) -> dict[str, list[dict[str, Any]]]:
    """Images of a folder to evaluate; arguments and errors as for ``scan_entries`` and ``entries_to_evaluate``."""
    entries = scan_entries(dataset_dir, pattern, sequence, guides, sample_sequence)
    return entries_to_evaluate(entries, dataset_dir, val_fraction, seed, split, subjects_table)


def entries_to_evaluate(
    entries: Sequence[dict[str, Any]],
    dataset_dir: Any,
    val_fraction: float,
    seed: int,
    split: Any = None,
    subjects_table: Any = None,
) -> dict[str, list[dict[str, Any]]]:
    """All entries for validation; of the sample data (no ``dataset_dir``) only those held out from training.

    With a split file its "test" subjects, or "validate" where it names none for testing.

    Arguments and errors as for ``split_entries``.
    """
    file, entries = optional(split), by_table(entries, subjects_table)
    if file is not None:
        parts = read_split(file, sorted({entry["subject"] for entry in entries}))
        wanted = parts["test"] or parts["validate"]
        entries = [entry for entry in entries if entry["subject"] in wanted]
    elif optional(dataset_dir) is None:
        entries = split_entries(entries, val_fraction, seed)["validate"]
    return {"train": [], "validate": list(entries)}


def inference_entries(
    dataset_dir: Any,
    pattern: str,
    sequence: Any,
    guides: Any,
    sample: Callable[[], str],
    allow_missing_slices: Any = False,
) -> dict[str, list]:
    """Cases of a folder or a single file for inference, with those whose headers already rule them out.

    Args:
        dataset_dir: folder of scans or of DICOM series, or one file; None for a sample case.
        pattern: as for ``scan_entries``.
        sequence: as for ``scan_entries``.
        guides: as for ``scan_entries``.
        sample: makes the sample case and returns its path.
        allow_missing_slices: take DICOM series of which some files cannot be read.

    Returns:
        ``{"entries": [{"image": path, "guide": [paths]}], "failures": [(path, reason)]}``.
    """
    folder = optional(dataset_dir) or sample()
    wanted = optional(sequence)
    paths = _wanted_scans(folder, pattern, wanted, LAYOUT)
    entries, failures = [], []
    good, refused = check_headers(paths, allow_missing_slices=boolean(allow_missing_slices))
    for path in good:
        try:
            entries.append({"image": path, "guide": guide_paths(path, names(guides), wanted)})
        except InputError as error:
            failures.append((path, error.reason))
    return {"entries": entries, "failures": [*refused, *failures]}


def _wanted_scans(folder: str, pattern: str, sequence: str | None, layout: str) -> list[str]:
    """Images below a folder without label maps and other sequences; one named file is taken whatever its name."""
    found = find_scans(folder, pattern, layout)
    if os.path.isfile(os.path.expanduser(folder)):
        return found
    paths = [p for p in found if is_wanted(p, sequence)]
    if not paths:
        raise InputError(f"no file matches {pattern} under {folder}; expected {layout}")
    return paths


def is_wanted(path: str, sequence: str | None) -> bool:
    """Whether a file is of a sequence: its name ends so, or by BIDS; without a sequence, whether it is no label map."""
    stem = stem_of(path)
    if sequence is None:
        return not LABELS.search(stem)
    if bids.name_parts(stem):
        return bids.is_sequence(stem, sequence)
    return re.search(rf"(^|[-_.]){re.escape(sequence)}$", stem, re.IGNORECASE) is not None


def guide_paths(image: str, guides: Sequence[str], sequence: str | None = None) -> list[str]:
    """Files of the guide sequences beside an image.

    A guide is a path, or the name that takes the place of the image's sequence: for "t2w" beside
    ``case-t1n.nii.gz`` the file ``case-t2w.nii.gz``.

    Raises:
        InputError: no such file.
    """
    found = []
    for guide in [guides] if isinstance(guides, str) else guides:
        if Path(guide).is_file():
            found.append(str(guide))
            continue
        stem = stem_of(image)
        base = stem[: -len(sequence)] if sequence else re.sub(r"[^-_.]+$", "", stem)
        base = bids.stem_without(stem, sequence) if bids.name_parts(stem) else base
        if os.path.dirname(guide) or guide.lower().endswith((*NIFTI_SUFFIXES, *PICTURES)):
            raise InputError(f"guide sequence {guide!r} not found: no such file", image)
        near = Path(image).parent / (base + guide + Path(image).name[len(stem) :])
        if not near.is_file():
            raise InputError(f"guide sequence {guide!r} not found, expected {near.name} beside it", image)
        found.append(str(near))
    return found


def patient_of(name: str) -> str:
    """The patient of a BraTS case: ``BraTS-GLI-00002`` of ``BraTS-GLI-00002-001``; other names stay as they are.

    Time points of a patient must not lie on both sides of a split.
    """
    match = BRATS.fullmatch(name)
    return match[1] if match else name


def _subject(path: str, root: Path) -> str:
    """By BIDS, or the patient of the first folder below the root, or, where files lie flat, of the name's beginning."""
    if (told := bids.subject_of(path, root)) is not None:
        return told
    inner = Path(path).relative_to(root) if Path(path).is_relative_to(root) else Path(Path(path).name)
    inner = inner if inner.parts else Path(root.name)
    if len(inner.parts) > 1:
        return patient_of(inner.parts[0])
    return patient_of(SEQUENCES.sub("", stem_of(inner.name)))


def split_entries(
    entries: Sequence[dict[str, Any]],
    val_fraction: float,
    seed: int,
    most: int | None = None,
    subjects: Any = None,
    split: Any = None,
    subjects_table: Any = None,
) -> dict[str, list[dict[str, Any]]]:
    """Training and validation entries, split by subject; a single volume is split in two slabs.

    Args:
        entries: see ``scan_entries``.
        val_fraction: share of the subjects that validate, at least one.
        seed: chooses which.
        most: validation volumes at most, None for all.
        subjects: training subjects at most (figure 8 of Pham et al. 2019), None for all.
        split: a JSON file with lists of subjects, see ``read_split``, instead of ``val_fraction`` and ``seed``.
        subjects_table: a file that tells whose the scans are, see ``common.data.subjects.by_table``, or None.

    Returns:
        ``{"train": [...], "validate": [...]}``.

    Raises:
        InputError: values that cannot be.
    """
    val_fraction, seed = quantity(val_fraction, "val_fraction"), quantity(seed, "seed", least=0, whole=True)
    if not 0 < val_fraction < 1:
        raise InputError(f"val_fraction must lie between 0 and 1, got {val_fraction}")
    limit = value(subjects)
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise InputError(f"subjects must be a number of at least 1, got {subjects!r}")
    entries = by_table(entries, subjects_table)
    known = sorted({entry["subject"] for entry in entries})
    file = optional(split)
    if file is not None:
        parts = read_split(file, known)
        if empty := [part for part in ("train", "validate") if not parts[part]]:
            raise InputError(f"names no subject to {' and '.join(empty)}", file)
        kept = set(parts["train"][:limit])
        return {
            "train": [entry for entry in entries if entry["subject"] in kept],
            "validate": [entry for entry in entries if entry["subject"] in parts["validate"]][:most],
        }
    if len(known) == 1:
        say(f"one subject only: {HELD_OUT:.0%} of each of its volumes validate, the rest trains")
        slabs = {"train": "train", "validate": "held_out"}
        both = {key: [{**entry, "part": part} for entry in entries] for key, part in slabs.items()}
        return {"train": both["train"], "validate": both["validate"][:most]}
    order = np.random.default_rng(seed).permutation(len(known))
    count = min(len(known) - 1, max(1, round(val_fraction * len(known))))
    held_out = {known[i] for i in order[:count]}
    kept = {known[i] for i in order[count:][:limit]}
    return {
        "train": [entry for entry in entries if entry["subject"] in kept],
        "validate": [entry for entry in entries if entry["subject"] in held_out][:most],
    }


def read_split(path: str, known: Sequence[str]) -> dict[str, list[str]]:
    """Lists of subjects in a JSON file, ``{"train": [...], "validate": [...], "test": [...]}``; "test" may be left out.

    Args:
        path: the file.
        known: subjects of the data.

    Raises:
        InputError: no such lists, a subject in two of them, or one that the data do not have.
    """
    try:
        parts = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"not a split file ({one_line(error)})", path) from error
    if not isinstance(parts, dict) or not {"train", "validate"} <= parts.keys() <= {"train", "validate", "test"}:
        raise InputError('expected {"train": [...], "validate": [...], "test": [...]}', path)
    if not all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in parts.values()):
        raise InputError("expected lists of subjects", path)
    listed = [name for names in parts.values() for name in names]
    if twice := sorted({name for name in listed if listed.count(name) > 1}):
        raise InputError(f"{', '.join(twice)} stands in more than one place", path)
    if missing := sorted(set(listed) - set(known)):
        raise InputError(f"the data have no subject {', '.join(missing)}; there are {', '.join(known)}", path)
    return {"test": [], **parts}


def held_out_brain(brains: Path) -> Path:
    """Folder of the sample brain that trainings with the default seed hold out, for inference to show.

    Every bundle's default ``val_fraction`` holds out one of the four.

    Args:
        brains: see ``common.data.sample_data.sample_brains``.
    """
    cases = sorted(path for path in brains.iterdir() if path.is_dir())
    if len(cases) == 1:
        return cases[0]
    return split_entries([{"subject": case.name, "case": case} for case in cases], 0.2, seed=0)["validate"][0]["case"]


def check_entries(train: Sequence[Any], validate: Sequence[Any], keys: Sequence[str] = ("image",)) -> None:
    """Makes sure that there is something to train and to validate on, whoever made the entries.

    MONAI Label makes its own, ``{"image": path, "label": path}`` of the images with a label tagged "final".

    Args:
        train: entries to train on.
        validate: entries to validate on.
        keys: what each entry must name.

    Raises:
        InputError: one of them is empty, or an entry lacks a key.
    """
    for entries, what in ((train, "train"), (validate, "validate")):
        if not entries:
            raise InputError(f"no image to {what} on; in MONAI Label: give images a final label, and a val_split")
    for entry in (*train, *validate):
        lacking = [key for key in keys if key not in entry]
        if lacking:
            raise InputError(f"training also needs {', '.join(lacking)} of the same case", entry.get("image"))


class TakePartd(MapTransform):
    """Cuts the slab out of a single volume that its entry's "part" names: whole, train, or held_out.

    The slabs lie across the last axis of ``(C, H, W, D)`` and do not overlap; the affine follows.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The entry with its images cut along their last axis, unless its part is the whole."""
        out = dict(data)
        part = out.get("part", "whole")
        if part not in PARTS:
            raise InputError(f"part must be one of {PARTS}, got {part!r}")
        for key in self.key_iterator(out):
            image = out[key]
            if part == "whole":
                continue
            border = round(image.shape[-1] * (1 - HELD_OUT))
            window = slice(0, border) if part == "train" else slice(border, None)
            cut = image[..., window]
            if isinstance(cut, MetaTensor) and window.start:
                affine = cut.affine.clone()
                affine[:3, 3] += affine[:3, 2] * window.start
                cut.affine = affine
            out[key] = cut
        return out
