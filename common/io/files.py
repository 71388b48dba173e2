# SPDX-License-Identifier: Apache-2.0
"""Files that appear whole or not at all, and one line where a place cannot be written to."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from common.errors import InputError
from common.io.claims import claimed_folder

__all__ = ["StorageError", "check_folder", "remove_partials", "replacing", "storage_error", "writing"]

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
CLOSED = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG}
PARTIAL = re.compile(r"\.[0-9a-f]{8}\.")
ROOM = 1 << 16  # bytes: with less free, writers that hide the system's error have met a full disk


class StorageError(InputError):
    """A file cannot be written; the text names the path, the system's reason and the free space.

    Args:
        reason, path: as for ``InputError``.
        everywhere: whether later files have to fail as well: the disk is full or read-only.
    """

    def __init__(self, reason: str, path: str | os.PathLike | None = None, everywhere: bool = True) -> None:
        super().__init__(reason, path)
        self.everywhere = everywhere


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A file to write under a name of its own in the same folder, which then takes the path's name.

    What is there stays until then, and where writing fails; what was written so far is removed. A killed process leaves
    the hidden file, see ``remove_partials``.

    Args:
        path: the name that it takes; the folder is made if missing.

    Raises:
        StorageError: the folder is full, read-only or no folder.
    """
    path = Path(path)
    partial = path.with_name(f".{secrets.token_hex(4)}.{path.name}")  # the ending tells writers what to write
    try:
        with writing(path):  # which measures the free space before what was written is removed
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Turns what a full or read-only place raises into a ``StorageError``.

    Args:
        path: the file or folder that is written inside the context.
    """
    try:
        yield
    except Exception as error:
        told = storage_error(error, path)
        if told is None or told is error:
            raise
        raise told from error


def remove_partials(path: str | os.PathLike) -> None:
    """Removes what killed processes left of a file, or of all files in a folder and below; for who holds the claim."""
    path = Path(path)
    found = path.rglob(".????????.*") if path.is_dir() else path.parent.glob(".????????.*")
    for left in found:
        if PARTIAL.fullmatch(left.name[:10]) and (path.is_dir() or left.name[10:] == path.name):
            left.unlink(missing_ok=True)


def storage_error(error: BaseException, path: str | os.PathLike | None = None) -> StorageError | None:
    """What a failed write is due to, found in the chain of an error's causes; None where it is not the storage.

    Args:
        error: what was raised.
        path: the file; None for the one that the error names, or the folder that this process has claimed.
    """
    seen: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in seen:
        if isinstance(link, StorageError):
            return link
        if isinstance(link, InputError):
            return None
        if isinstance(link, OSError) and _is_storage(link, path):
            named = path or link.filename or claimed_folder() or "results"  # some writers do not say which file
            return _told(link.strerror, named, link.errno in FULL | {errno.EROFS})
        seen.append(link)
        link = link.__cause__ or link.__context__
    # torch's and Pillow's own writers raise other errors where the disk is full
    if path is not None and isinstance(error, RuntimeError | OSError) and (_free(path) or (ROOM,))[0] < ROOM:
        return _told(os.strerror(errno.ENOSPC), path, True)
    return None


def _is_storage(error: OSError, path: str | os.PathLike | None) -> bool:
    if error.errno in FULL | {errno.EROFS}:
        return True
    if error.errno not in CLOSED or path is None or error.filename is None:
        return False
    folder, named = Path(path).absolute().parent, Path(os.fsdecode(error.filename)).absolute()
    return named.parent == folder or folder.is_relative_to(named)  # not a file that was read meanwhile


def _told(reason: str | None, path: str | os.PathLike, everywhere: bool) -> StorageError:
    space = _free(path)
    text = "" if space is None else f", {_size(space[0])} of {_size(space[1])} free"
    return StorageError(f"cannot be written: {reason}{text}", path, everywhere)


def _free(path: str | os.PathLike) -> tuple[int, int] | None:
    """Free and total bytes where a path would lie."""
    path = Path(path).expanduser().absolute()
    for folder in (path, *path.parents):
        with contextlib.suppress(OSError):
            usage = shutil.disk_usage(folder)
            return usage.free, usage.total
    return None


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def check_folder(folder: str | os.PathLike) -> Path:
    """A folder for results, made if missing, in which a file can be written.

    Raises:
        StorageError: it is a file, read-only, full, or on a drive that is not there.
    """
    folder = Path(folder).expanduser()
    probe = folder / ".probe"
    with replacing(probe) as partial:
        partial.write_bytes(b"\0")
    probe.unlink(missing_ok=True)
    return folder
