# SPDX-License-Identifier: Apache-2.0
"""Results as a BIDS derivative dataset (specification 1.10): names, sidecars, and the dataset's description."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import nibabel as nib
import numpy as np

from common.errors import InputError
from common.io import bids
from common.io.files import replacing
from common.io.find import stem_of
from common.io.hashes import SUFFIX
from common.io.headers import NIFTI_SUFFIXES

__all__ = ["Derivatives"]

INNER = Path("derivatives", "restoration-bundles")
KEPT: dict[str, Any] = {"SkullStripped": bool, "SpatialReference": (str, dict)}  # of the source's sidecar
IGNORED = f"*{SUFFIX}\nreport.html\n"  # what lies beside the results and is not of BIDS


class Derivatives:
    """A dataset of results below ``<output_dir>/derivatives/restoration-bundles``, which the bundles share.

    Args:
        output_dir: the folder above, such as the dataset that the scans come from.
        label: of the bundle's results, which their names tell as ``desc-<label>``.
    """

    def __init__(self, output_dir: str | os.PathLike, label: str) -> None:
        self.root, self.label = Path(output_dir).expanduser() / INNER, label
        self._facts_of = lru_cache(maxsize=1)(_facts_of)  # a case has several results

    def place(self, source: str, kind: str = "", sequence: str | None = None) -> Path:
        """Where a result goes: ``sub-01/ses-1/anat/sub-01_ses-1_desc-<label><kind>_T1w.nii.gz`` below the root.

        Args:
            source: the scan, or a case that names subject and session.
            kind: of a result beside the image itself, such as "std".
            sequence: what a case's result is, such as "T2w".

        Raises:
            InputError: the source's name is not of BIDS.
        """
        stem = stem_of(source)
        parts = bids.name_parts(f"{stem}_{sequence}" if sequence else stem)
        if not parts or not (sequence or source.lower().endswith(NIFTI_SUFFIXES)):
            raise InputError("its name is not of BIDS, such as sub-01_T1w.nii.gz, which --bids true asks for", source)
        *entities, suffix = (part for part in parts if not part.startswith(("desc-", "res-")))
        folders = [part for part in entities if part.startswith(("sub-", "ses-"))]
        name = "_".join([*entities, f"desc-{self.label}{kind.capitalize()}", suffix])
        return self.root.joinpath(*folders, "anat", f"{name}.nii.gz")

    def describe(self, result: Path, sources: Sequence[str], facts: Mapping[str, Any], text: str) -> None:
        """Writes what BIDS wants beside a result: its sidecar, and the dataset's description where it lacks the bundle.

        Args:
            result: the result's file.
            sources: the scans that it was made of.
            facts: with the "bundle" and its "version".
            text: what the result is.

        Raises:
            InputError: there is a description that cannot be read.
            StorageError: the folder cannot be written to.
        """
        dataset = self.root.parents[1].resolve()
        inside = bids.is_dataset(dataset) and all(Path(path).resolve().is_relative_to(dataset) for path in sources)
        self._tell_bundle({"Name": facts["bundle"], "Version": facts["version"]}, inside)
        names = [f"bids:raw:{Path(path).resolve().relative_to(dataset).as_posix()}" for path in sources if inside]
        told = {"Description": text, **({"Sources": names} if inside else {}), **self._facts_of(sources[0])}
        _write(result.with_name(result.name.replace(".nii.gz", ".json")), told)

    def _tell_bundle(self, bundle: Mapping[str, str], inside: bool) -> None:
        """Adds a bundle to those that the dataset was made by, and where it lies in theirs, a link to the scans'."""
        path = self.root / bids.DESCRIPTION
        told = _read(path) if path.exists() else {}
        others = told.get("GeneratedBy", []) if told is not None else None
        if told is None or not isinstance(others, list):
            raise InputError("no description of a BIDS dataset; mend it, or move it away", path)
        wanted = {
            "Name": "Images by restoration-bundles, not for diagnosis",
            "BIDSVersion": "1.10.0",
            "DatasetType": "derivative",
            **({"DatasetLinks": {"raw": "../.."}} if inside else {}),
            **told,
            "GeneratedBy": [bundle, *(one for one in others if one != bundle)],
        }
        if bundle not in others or wanted.keys() != told.keys():
            _write(path, wanted)
            with replacing(self.root / ".bidsignore") as partial:
                partial.write_text(IGNORED, encoding="utf-8")


def _facts_of(source: str) -> dict[str, Any]:
    """What a scan's sidecar tells that is true of results, too; whether there is more than the brain at least."""
    told = _read(Path(source).with_name(f"{stem_of(source)}.json")) or {}
    kept = {key: told[key] for key, kind in KEPT.items() if isinstance(told.get(key), kind)}
    return kept if "SkullStripped" in kept else {"SkullStripped": _is_masked(source), **kept}


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON file's object; None where there is no such file, or something else in it."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) else None


def _is_masked(path: str) -> bool:
    """Whether all outer faces of a volume hold one value: a head goes on below, a brain does not."""
    volume = np.asarray(cast(Any, nib.load(path)).dataobj)
    faces = [np.take(volume, end, axis).ravel() for axis in range(3) for end in (0, -1)]
    return bool(np.ptp(np.concatenate(faces)) == 0)


def _write(path: Path, content: Mapping[str, Any]) -> None:
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
