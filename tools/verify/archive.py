# SPDX-License-Identifier: Apache-2.0
"""Check a stranger's zip before anything of it is written or run."""

from __future__ import annotations

import json
import stat
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from .files import FILES

__all__ = ["MOST_BYTES", "check_archive", "unpack"]

MOST_BYTES = 2**30  # unpacked, of all members together
MOST_FILES = 10_000
MOST_JSON = 2**20  # bytes of a JSON file
ODD = '<>:"|?*\\'  # what a drive, a share or a folder of Windows would need


def check_archive(archive: zipfile.ZipFile) -> str:
    """The name of the one folder that all members lie in.

    Raises:
        ValueError: a member that would lie outside, is a link or another special file, is there twice or encrypted;
            another number of top folders; or more than can be.
    """
    members = archive.infolist()
    if len(members) > MOST_FILES:
        raise ValueError(f"{len(members)} members; a bundle has at most {MOST_FILES}")
    size = sum(member.file_size for member in members)
    if size > MOST_BYTES:
        raise ValueError(f"{size / 2**30:.1f} GiB unpacked; at most {MOST_BYTES / 2**30:g} GiB is unpacked")
    seen: set[str] = set()
    for member in members:
        wrong = _wrong_with(member)
        if wrong is None and member.filename.rstrip("/").casefold() in seen:
            wrong = "is there twice"
        if wrong is not None:
            raise ValueError(f"member {member.filename!r:.200} {wrong}")
        seen.add(member.filename.rstrip("/").casefold())
    files = [m.filename.rstrip("/").casefold() for m in members if not m.is_dir()]
    below = {str(parent) for name in files for parent in PurePosixPath(name).parents}
    if below & set(files):
        raise ValueError(f"member {sorted(below & set(files))[0]!r:.200} is a file and a folder")
    tops = {member.filename.split("/")[0] for member in members}
    if len(tops) != 1 or all(member.is_dir() for member in members):
        raise ValueError(f"holds {len(tops)} top folders instead of one")
    return tops.pop()


def _wrong_with(member: zipfile.ZipInfo) -> str | None:
    # the name as it is stored: zipfile cuts it at a NUL, and some systems' separators are replaced
    name, parts = member.orig_filename, member.filename.rstrip("/").split("/")
    if any(part in ("", ".", "..") for part in parts) or any(c in ODD or not c.isprintable() for c in name):
        return "would lie outside its folder, or has a name that no bundle needs"
    if len(parts) < 2 and not member.is_dir():
        return "lies in no folder"
    mode = member.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or another special file"
    if member.flag_bits & 1:
        return "is encrypted"
    return None


def check_json(archive: zipfile.ZipFile, top: str) -> list[str]:
    """What is wrong with a bundle's files, without running or unpacking it: those that miss, and JSON files.

    Args:
        archive: see ``check_archive``.
        top: its one folder.
    """
    there = {member.filename: member.file_size for member in archive.infolist()}
    wanted = [*FILES, f"{top}_lib/__init__.py", "common/__init__.py"]
    wrong = [f"{path} is missing" for path in wanted if f"{top}/{path}" not in there]
    for name in sorted(there):
        if name.endswith(".json"):
            wrong += [f"{name.removeprefix(f'{top}/')} {what}" for what in _wrong_json(archive, name, there[name])]
    return wrong


def _wrong_json(archive: zipfile.ZipFile, name: str, size: int) -> Iterable[str]:
    if size > MOST_JSON:
        return ["is over 1 MB"]
    try:
        content = json.loads(archive.read(name).decode("utf-8"))
    except RecursionError:
        return ["is nested too deeply"]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
        return [f"is no JSON ({error})"]
    return [] if isinstance(content, dict) or "/configs/" not in name else ["is no JSON object"]


def unpack(archive: zipfile.ZipFile, folder: Path) -> None:
    """Unpacks what ``check_archive`` accepts, and no byte more than it counted.

    Raises:
        ValueError: a member is larger than it says, damaged, or packed in a way that is not known.
    """
    for member in archive.infolist():
        try:
            archive.extract(member, folder)
        except (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError, zlib.error) as error:
            raise ValueError(f"member {member.filename!r:.200} is damaged ({error})") from error
