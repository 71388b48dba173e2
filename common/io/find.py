# SPDX-License-Identifier: Apache-2.0
"""Names of files as users mean them: patterns, their order, and links."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from common.errors import shown

__all__ = ["any_case", "distinct", "files_matching", "folders_below", "natural", "stem_of"]

logger = logging.getLogger(__name__)

ENDING = re.compile(r"(?:\.[A-Za-z]+)+\*?$")


def any_case(pattern: str) -> str:
    """A glob pattern that takes its file ending in small and capital letters: ``*.[nN][iI][iI]*`` for ``*.nii*``.

    Programs on Windows and old scanners write ``SCAN.NII.GZ`` and ``A.PNG``, and Linux tells them apart.
    """
    return ENDING.sub(lambda end: re.sub("[A-Za-z]", lambda c: f"[{c[0].lower()}{c[0].upper()}]", end[0]), pattern)


def natural(path: str | os.PathLike) -> list[tuple[int, int, str]]:
    """Key for sorting by numbers in names: ``case2`` before ``case10``."""
    parts = re.split(r"(\d+)", os.fspath(path).casefold())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


def stem_of(path: str | os.PathLike) -> str:
    """File name without ``.nii.gz`` or its last ending; a DICOM folder's name."""
    name = Path(path).name
    for ending in (".nii.gz", ".nii"):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name if Path(path).is_dir() else Path(path).stem


def folders_below(root: str | os.PathLike, hidden: bool = False) -> Iterator[tuple[str, list[str]]]:
    """A folder and those below it with the names in them, links followed, each real folder once.

    A link to a folder inside ``root`` is left out, since that folder has its own turn; so no loop is endless.
    """
    root = os.fspath(root)
    seen = {os.path.realpath(root)}
    for folder, below, names in os.walk(root, followlinks=True):
        kept = []
        for name in sorted(below, key=natural):
            path = os.path.join(folder, name)
            real = os.path.realpath(path)
            away = os.path.islink(path) and _is_visited(real, os.path.realpath(root))
            if (hidden or not name.startswith(".")) and real not in seen and not away:
                seen.add(real)
                kept.append(name)
        below[:] = kept
        yield folder, sorted(names, key=natural)


def _is_visited(real: str, root: str) -> bool:
    """Whether a walk from ``root`` comes by a real path without a link."""
    inner = os.path.relpath(real, root)
    return inner == "." or not any(part.startswith(".") for part in inner.split(os.sep))


def files_matching(root: str | os.PathLike, patterns: Sequence[str]) -> list[str]:
    """Files below a folder that match one of some glob patterns, in natural order.

    Unlike ``glob`` it follows a loop of links no further than once. Links to nowhere are among the files, for those who
    read them to name.

    Args:
        root: the folder.
        patterns: below it, ``**`` for any number of folders; hidden names only match patterns that begin with a dot.
    """
    split = [pattern.replace(os.sep, "/").split("/") for pattern in patterns]
    hidden = any(part.startswith(".") and part != "." for parts in split for part in parts)
    found = []
    for folder, names in folders_below(root, hidden):
        inner = os.path.relpath(folder, root)
        parents = [] if inner == "." else inner.split(os.sep)
        for name in names:
            if any(_matches([*parents, name], parts) for parts in split):
                found.append(os.path.join(folder, name))
    return sorted(found, key=natural)


def _matches(names: Sequence[str], parts: Sequence[str]) -> bool:
    if not parts or not names:
        return not names and not any(part != "**" for part in parts)
    first, name = parts[0], names[0]
    if first == "**":
        return _matches(names, parts[1:]) or (not name.startswith(".") and _matches(names[1:], parts))
    if first == ".":
        return _matches(names, parts[1:])
    if name.startswith(".") and not first.startswith("."):
        return False
    return fnmatchcase(name, first) and _matches(names[1:], parts[1:])


def distinct(paths: Iterable[str]) -> list[str]:
    """Paths without those that are the same file as another by way of links; the file's own name is kept."""
    paths = list(paths)
    own = {os.path.realpath(path): path for path in reversed(paths)}
    own |= {os.path.realpath(path): path for path in paths if not os.path.islink(path)}
    kept = [path for path in paths if own[os.path.realpath(path)] == path]
    for path in sorted(set(paths) - set(kept)):
        logger.info("%s: the same file as %s, taken once", shown(path), shown(own[os.path.realpath(path)]))
    return kept
