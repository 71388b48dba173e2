# SPDX-License-Identifier: Apache-2.0
"""BIDS datasets: what of them is read, whose a scan is, and what its name says (specification 1.10)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

__all__ = ["DESCRIPTION", "anatomical", "is_dataset", "is_sequence", "name_parts", "stem_without", "subject_of"]

DESCRIPTION = "dataset_description.json"
NAME = re.compile(r"sub-[a-z0-9+]+(_[a-z0-9]+-[a-z0-9+]+)*_[a-z0-9]+", re.IGNORECASE)
SUBJECT = re.compile(r"sub-[a-z0-9+]+", re.IGNORECASE)
# folders that hold no scans of a dataset's own, and data types other than anatomical images
OTHERS = {"derivatives", "sourcedata", "code", "stimuli", "phenotype", "beh", "dwi", "eeg", "emg", "fmap", "func"} | {
    "ieeg", "meg", "micr", "motion", "mrs", "nirs", "perf", "pet",
}  # fmt: skip


def is_dataset(folder: str | os.PathLike) -> bool:
    """Whether a folder is a BIDS dataset, or a subject's or session's folder of one."""
    folder, places = Path(folder), ("anat", "ses-*/anat", "sub-*/anat", "sub-*/ses-*/anat")
    return (folder / DESCRIPTION).is_file() or any(next(folder.glob(place), None) for place in places)


def anatomical(paths: Iterable[str], root: str, pattern: str = "") -> list[str]:
    """Scans of a BIDS dataset; derivatives, source data and other data types only where a pattern names their folder.

    Args:
        paths: files below the root.
        root: the dataset's folder.
        pattern: the glob pattern that found them.
    """
    left_out = OTHERS - set(pattern.split("/"))
    return [path for path in paths if not left_out.intersection(Path(os.path.relpath(path, root)).parts[:-1])]


def name_parts(stem: str) -> list[str]:
    """``["sub-01", "ce-gadolinium", "T1w"]`` of ``sub-01_ce-gadolinium_T1w``; nothing of a name that is not BIDS."""
    return stem.split("_") if NAME.fullmatch(stem) else []


def is_sequence(stem: str, sequence: str) -> bool:
    """Whether a BIDS name is of a sequence: a suffix, with entities where they tell it (``ce-gadolinium_T1w``).

    Scans with a contrast agent are none of ``T1w``.
    """
    parts, wanted = (text.lower().split("_") for text in (stem, sequence))
    contrast = any(part.startswith("ce-") for part in wanted)
    if not contrast and any(part.startswith("ce-") for part in parts):
        return False
    return parts[-1] == wanted[-1] and set(wanted[:-1]) <= set(parts)


def stem_without(stem: str, sequence: str | None) -> str:
    """A BIDS name without its suffix and the entities of a sequence: ``sub-01_`` of ``sub-01_ce-gadolinium_T1w``."""
    dropped = set((sequence or "").lower().split("_"))
    return "".join(f"{part}_" for part in stem.split("_")[:-1] if part.lower() not in dropped)


def subject_of(path: str | os.PathLike, root: str | os.PathLike) -> str | None:
    """``sub-01`` of a file in that folder, or named so; with the folders above, below a root of several datasets.

    All sessions of a subject, and all sequences in folders of their own, give the same.

    Args:
        path: the file.
        root: a folder that tells no subjects apart.

    Returns:
        The subject, or None where neither folders nor name tell one.
    """
    root = os.path.normpath(os.path.expanduser(root))
    inner = Path(path).relative_to(root) if Path(path).is_relative_to(root) else Path(Path(path).name)
    for depth, part in enumerate(inner.parts[:-1], start=1):
        if SUBJECT.fullmatch(part):
            return "/".join(inner.parts[:depth])
    named = re.match(r"sub-[^_]+", inner.name)
    return named[0] if named else None
