# SPDX-License-Identifier: Apache-2.0
"""Claims that keep two processes from doing one thing at once: lock files that a dead process no longer holds."""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

try:
    import fcntl
except ImportError:  # no such locks on Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["Claim", "claimed_folder", "release_all"]

UNKNOWN = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # a file system without locks
_held: dict[Path, Claim] = {}


class Claim:
    """A lock file that tells process and host, held by one process until it is released or the process ends.

    The lock is the system's (POSIX ``lockf``), not the file: what a killed process left behind, here or on another node
    of a shared file system, is free at once, and a process that happens to have its number is not taken for it. Where
    the file system or the operating system knows no such locks, every claim is granted.

    Args:
        path: the lock file, in a folder that exists.
        on_takeover: called once the claim is held where an earlier holder was killed, to remove what it left.
    """

    def __init__(self, path: str | os.PathLike, on_takeover: Callable[[], None] | None = None) -> None:
        self.path = Path(path).parent.resolve() / Path(path).name
        self.on_takeover = on_takeover
        self._file: int | None = None

    def take(self) -> bool:
        """Whether this process holds the claim now; it may hold it already."""
        if self.path in _held:
            return True
        while (taken := self._try()) is None:
            pass
        return taken

    def _try(self) -> bool | None:
        """True or False as for ``take``; None to try again."""
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            locked = _lock(file)
            if locked is False or not _is(file, self.path):  # if it is not, its holder has removed it just now
                os.close(file)
                return None if locked is not False else False
            left = locked and os.fstat(file).st_size > 0
            os.ftruncate(file, 0)
            os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        except BaseException:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)
            os.close(file)
            raise
        self._file = file
        _held[self.path] = self
        if left and self.on_takeover is not None:
            self.on_takeover()
        return True

    def holder(self) -> str:
        """Process and host that hold it, as a person would be told."""
        if self.path in _held:  # reading it here would end the lock: POSIX locks go with any close of their file
            return "this process"
        with contextlib.suppress(OSError, UnicodeDecodeError):
            return self.path.read_text(encoding="utf-8").strip() or "another process"
        return "another process"

    def release(self) -> None:
        """Gives it up, and removes the file."""
        if _held.get(self.path) is self and self._file is not None:
            del _held[self.path]
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)  # before the lock goes, else it might be another's
            os.close(self._file)
            self._file = None


def _lock(file: int) -> bool | None:
    """Whether the lock was taken; None where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return None if error.errno in UNKNOWN else False
    return True


def _is(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def claimed_folder() -> Path | None:
    """The folder of the first claim that this process holds: where its results go."""
    return next((path.parent for path in _held), None)


def release_all() -> None:
    """Releases what this process holds; done at its end."""
    for claim in list(_held.values()):
        claim.release()


def _forget() -> None:
    """In a forked child: the claims are its parent's."""
    for claim in _held.values():
        if claim._file is not None:
            os.close(claim._file)
            claim._file = None
    _held.clear()


atexit.register(release_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
