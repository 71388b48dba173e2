# SPDX-License-Identifier: Apache-2.0
"""What ran, for the report: network, weights, settings and results, without folders of this machine."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from torch import nn

from common.io.hashes import SUFFIX, file_hash
from common.io.weights import bare

__all__ = ["failed", "network_text", "restored", "settings", "sidecar_facts", "weights_text"]


def network_text(network: nn.Module) -> str:
    """A network's class, the form that its weights tell, and its parameters."""
    network = bare(network)
    try:
        told = cast(Any, type(network)).form_of(network.state_dict())
    except (AttributeError, ValueError):  # weights that do not tell, or layers folded for inference
        told = {}
    form = ", ".join(f"{name} {value}" for name, value in told.items())
    count = sum(p.numel() for p in network.parameters())
    return f"{type(network).__name__}{f' ({form})' if form else ''}, {count:,} parameters"


def weights_text(source: str | os.PathLike) -> str:
    """A weights file's name and hash, or what else the weights come from."""
    path = Path(source)
    return f"{path.name}, SHA-256 {file_hash(path)}" if path.is_file() else str(source)


def settings(given: Mapping[str, Any], keys: Mapping[str, Any]) -> list[dict[str, str]]:
    """A configuration's values of the keys that a user may set, with their meaning.

    Args:
        given: values by key.
        keys: ``common.engine.Key`` by name.
    """
    return [
        {"key": name, "value": _text(given[name]), "meaning": key.meaning.replace("`", "")}
        for name, key in keys.items()
        if name in given
    ]


def _text(value: Any) -> str:
    if isinstance(value, str):
        return "computed" if value.startswith("$") else value
    return json.dumps(value)


def restored(sources: Mapping[Path, str], folder: str | os.PathLike, root: Any = None) -> list[dict[str, Any]]:
    """Inputs below their folder, and their results below theirs.

    Args:
        sources: input of each result.
        folder: where results lie.
        root: where inputs lie; None, or a file, leaves only their names.
    """
    found: dict[str, list[str]] = {}
    for result, source in sources.items():
        found.setdefault(source, []).append(_below(result, folder))
    return [{"input": _below(source, root), "files": files} for source, files in found.items()]


def failed(failures: Sequence[tuple[str, str]], root: Any = None) -> list[dict[str, str]]:
    """Cases that failed, below their folder; reasons that name folders are left to the terminal."""
    return [
        {"input": _below(path, root), "reason": "failed, see the log" if "/" in reason or "\\" in reason else reason}
        for path, reason in failures
    ]


def _below(path: str | os.PathLike, root: Any) -> str:
    inner = Path(os.path.relpath(path, Path(root).expanduser())) if root else Path("..")
    return Path(path).name if inner == Path() or ".." in inner.parts else inner.as_posix()


def sidecar_facts(results: Sequence[Path]) -> dict[str, Any]:
    """What the first result's sidecar tells of weights and settings; empty without results."""
    for result in results:
        path = Path(f"{result}{SUFFIX}")
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
    return {}
