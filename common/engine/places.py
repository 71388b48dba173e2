# SPDX-License-Identifier: Apache-2.0
"""Where a bundle's folder lies: in a clone, in a zip that was unpacked, or where pip put it."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

__all__ = ["bundle_folder", "installed_folder"]

PROJECT = "restoration-bundles"


def bundle_folder(library: str) -> Path:
    """The folder with the configurations and weights of the bundle whose library a module belongs to.

    Args:
        library: ``__file__`` of a module of the library.
    """
    around = Path(library).resolve().parents[1]
    if (around / "configs").is_dir():
        return around
    return installed_folder(Path(library).resolve().parent.name.removesuffix("_lib")) or around


def installed_folder(name: str) -> Path | None:
    """Where pip put a bundle's configurations and weights; None where they were not installed.

    Args:
        name: of the bundle.
    """
    try:
        files = metadata.files(PROJECT) or []
    except metadata.PackageNotFoundError:
        return None
    wanted = ("bundles", name, "configs", "metadata.json")
    found = (Path(str(file.locate())).resolve() for file in files if file.parts[-4:] == wanted)
    return next((path.parents[1] for path in found if path.is_file()), None)
