# SPDX-License-Identifier: Apache-2.0
"""Where a result comes from, written beside it without folders or other traces of the machine."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from common.weights import file_hash

__all__ = ["SUFFIX", "command_line_overrides", "describe", "write"]

SUFFIX = ".provenance.json"  # behind the result's whole file name


def command_line_overrides(arguments: list[str] | None = None) -> dict[str, str]:
    """Keys given on the command line of ``python -m monai.bundle run``, folders cut to their last part."""
    arguments = sys.argv[1:] if arguments is None else arguments
    keys: dict[str, str] = {}
    for argument, following in pairwise([*arguments, "--"]):
        match = re.fullmatch(r"--([\w:#+-]+?)(?:=(.*))?", argument, flags=re.DOTALL)
        if match:
            alone = "true" if following.startswith("--") else following
            keys[match[1].replace("-", "_")] = _without_folders(alone if match[2] is None else match[2])
    return keys


def _without_folders(text: str) -> str:
    """Cuts a path, or each quoted path of a list, to its last part."""
    if re.search(r"['\"\[\]]", text):
        return re.sub(r"[^'\",\[\]=]*[/\\]", "", text)
    return re.split(r"[/\\]", text.rstrip("/\\"))[-1]


def describe(bundle_root: str, weights: str | None, **more: Any) -> dict[str, Any]:
    """Facts common to all results of a run.

    Args:
        bundle_root: the bundle's folder, with ``configs/metadata.json``.
        weights: weights file, or None.
        more: further plain values.
    """
    metadata = json.loads((Path(bundle_root) / "configs" / "metadata.json").read_text())
    return {
        "bundle": metadata["name"],
        "version": metadata["version"],
        "weights_sha256": file_hash(weights) if weights and os.path.isfile(weights) else None,
        "overrides": command_line_overrides(),
        "not_for": "diagnosis",
        **more,
    }


def write(result: str | os.PathLike, facts: Mapping[str, Any], source: str) -> Path:
    """Writes ``<result>.provenance.json``.

    Args:
        result: the result's file.
        facts: see ``describe``.
        source: the input; only its name is kept.
    """
    path = Path(str(result) + SUFFIX)
    path.write_text(json.dumps({**facts, "input": Path(source).name}, indent=4, default=str) + "\n")
    return path
