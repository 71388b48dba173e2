# SPDX-License-Identifier: Apache-2.0
"""The error that a user's input causes, and other libraries' errors as one line."""

from __future__ import annotations

import os
import re

__all__ = ["InputError", "one_line"]


class InputError(ValueError):
    """The user's input cannot work; the text is one line that names the file and the reason.

    Args:
        reason: what is wrong and, where that is short, what to do about it.
        path: the file, folder or case concerned; it stands in front of the reason.
    """

    def __init__(self, reason: str, path: str | os.PathLike | None = None) -> None:
        self.reason = plain(reason)
        self.path: str | None = None if path is None else os.fspath(path)
        super().__init__(self.reason if self.path is None else f"{shown(self.path)}: {self.reason}")


def plain(text: object) -> str:
    """A text as one line that any terminal and log can take."""
    return shown(" ".join(str(text).split()))


def shown(path: str) -> str:
    """A path as one line: control characters and bytes that are no text are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in path)


def one_line(error: BaseException, limit: int = 200) -> str:
    """Return the telling part of a library's error text as one line of at most `limit` characters."""
    text = str(error).strip()
    if "Traceback (most recent call last)" in text:  # MONAI's LoadImage quotes the traceback of every reader it tried
        text = text.splitlines()[-1]
    text = re.sub(r".*ITK ERROR: (\w+\(0x[0-9a-fA-F]+\): )?", "", text, flags=re.DOTALL)
    text = re.sub(r"<([\w.]+) object at 0x[0-9a-f]+>", r"\1", plain(text))
    if not text or isinstance(error, LookupError):  # whose text is only the missing key
        text = f"{type(error).__name__} {text}".strip()
    return text if len(text) <= limit else text[: limit - 3] + "..."
