# SPDX-License-Identifier: Apache-2.0
"""Where a bundle's folder lies: in a clone, in a zip that was unpacked, or where pip put it."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

__all__ = ["bundle_folder", "installed_folders"]

PROJECT = "restoration-bundles"


def bundle_folder(library: str) -> Path:
    """The folder with the configurations and weights of the bundle whose library a module belongs to.

    Args:
        library: ``__file__`` of a module of the library.
    """
    around = Path(library).resolve().parents[1]
    if (around / "configs").is_dir():
        return around
    return installed_folders().get(Path(library).resolve().parent.name.removesuffix("_lib"), around)


def installed_folders() -> dict[str, Path]:
    """Where pip put the bundles' configurations and weights, by name; empty where they were not installed."""
    try:
        files = metadata.files(PROJECT) or []
    except metadata.PackageNotFoundError:
        return {}
    wanted = (file for file in files if file.match("bundles/*/configs/metadata.json"))
    found = sorted(Path(str(file.locate())).resolve() for file in wanted)
    return {path.parents[1].name: path.parents[1] for path in found if path.is_file()}
