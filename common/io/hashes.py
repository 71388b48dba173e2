# SPDX-License-Identifier: Apache-2.0
"""What a case's files hold, as one hash: it tells two inputs of one name apart and names no folder."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["INPUT", "SUFFIX", "file_hash", "files_of", "fingerprint", "mark"]

SUFFIX = ".provenance.json"  # behind a result's whole file name
INPUT = "input_sha256"  # key in a loaded case and in a sidecar
BLOCK = 1 << 20


def file_hash(path: str | os.PathLike) -> str:
    """SHA-256 of a file as hexadecimal text, read block by block.

    Raises:
        OSError: no file, or one that is none on a disk: a pipe or a device may never end.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(f"{path} is not a regular file")
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def fingerprint(paths: Iterable[str | os.PathLike]) -> str | None:
    """SHA-256 of what files and DICOM folders hold; of one file just its own, as ``sha256sum`` prints it.

    Of several, and of a folder, the hash of their hashes in a row; a folder's files by name, without hidden ones and
    results of this collection.

    Returns:
        Hexadecimal text, or None where there are no paths, or one cannot be read or is a folder without files.
    """
    try:
        hashes = [_in_a_row(_files_in(path)) if os.path.isdir(path) else file_hash(path) for path in paths]
    except OSError:
        return None
    known = [one for one in hashes if one is not None]  # not of a folder without files
    if len(known) < len(hashes):
        return None
    return known[0] if len(known) == 1 else _in_a_row(known)


def _files_in(folder: str | os.PathLike) -> list[str]:
    files = sorted(p for p in Path(folder).iterdir() if p.is_file() and not p.name.startswith("."))
    own = {p.name for p in files if p.name.endswith(SUFFIX)}
    return [file_hash(p) for p in files if p.name not in own and p.name + SUFFIX not in own]


def _in_a_row(hashes: Iterable[str]) -> str | None:
    text = "".join(hashes)
    return hashlib.sha256(text.encode()).hexdigest() if text else None


def files_of(entry: Mapping[Hashable, Any]) -> list[str]:
    """Files and DICOM folders that a case consists of: its image, or its image's "files", then its guides and masks.

    Args:
        entry: as a configuration's ``cases`` lists it.
    """
    image, guides = entry.get("image"), entry.get("guide", ())
    images = image.get("files", {}).values() if isinstance(image, Mapping) else [image]
    both = [*images, *([guides] if isinstance(guides, str) else guides)]
    return [os.fspath(path) for path in both if isinstance(path, (str, os.PathLike))]


def mark(entry: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
    """A case's entry with the fingerprint of its files, for the sidecars of its results."""
    found = fingerprint(files_of(entry))
    return {**entry, INPUT: found} if found else dict(entry)
