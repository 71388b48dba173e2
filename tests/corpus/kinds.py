# SPDX-License-Identifier: Apache-2.0
"""What a kind of file is: how it is made, and what must come of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ALL", "DICOM", "KINDS", "PICTURES", "VOLUMES", "Kind", "kind"]

VOLUMES = ("mri_sr3d", "rslm_denoise", "brasyn_synthesis", "lesion_msgan")
PICTURES = ("us_despeckle", "lesion_msgan")
DICOM = ("us_despeckle",)
ALL = ("mri_sr3d", "rslm_denoise", "us_despeckle", "brasyn_synthesis", "lesion_msgan")


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Args:
        name: a few words.
        make: writes it as ``make(folder, stem)`` and gives its path, or None where nothing is to be found.
        says: pattern of the reason it is refused with; None where it must work; "" where either will do, in one line.
        bundles: that it is sent through.
        warns: pattern of a line that the log holds beside the result.
        place: gives the affine in mm that the result must have, from the file's path; None for nibabel's.
        shape: voxels per axis of files other than NIfTI; negative where a reader may turn the axis.
        results: 2 where another file of the kind gives a result although this one is refused.
        keys: keys that the run needs, by bundle name; such kinds run alone.
        dicom: it is a DICOM series or file, which volumes' bundles look for where there is no NIfTI.
        affine: False leaves the place unchecked, for formats other than NIfTI.
    """

    name: str
    make: Callable[[Path, str], Path | None]
    says: str | None = None
    bundles: Sequence[str] = VOLUMES
    warns: str | None = None
    place: Callable[[Path], object] | None = None
    shape: Sequence[int] | None = None
    results: int = 1
    keys: dict | None = None
    dicom: bool = False
    affine: bool = True

    def __str__(self) -> str:
        return self.name


KINDS: list[Kind] = []


def kind(name: str, says: str | None = None, bundles: Sequence[str] = VOLUMES, **more) -> Callable:
    """Registers a function that makes a file."""

    def register(make: Callable) -> Callable:
        assert all(known.name != name for known in KINDS), name
        KINDS.append(Kind(name, make, says, bundles, **more))
        return make

    return register
