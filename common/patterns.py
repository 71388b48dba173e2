# SPDX-License-Identifier: Apache-2.0
"""Patterns of file names as users mean them."""

from __future__ import annotations

import re

__all__ = ["any_case"]

ENDING = re.compile(r"(?:\.[A-Za-z]+)+\*?$")


def any_case(pattern: str) -> str:
    """A glob pattern that takes its file ending in small and capital letters: ``*.[nN][iI][iI]*`` for ``*.nii*``.

    Programs on Windows and old scanners write ``SCAN.NII.GZ`` and ``A.PNG``, and Linux tells them apart.
    """
    return ENDING.sub(lambda end: re.sub("[A-Za-z]", lambda c: f"[{c[0].lower()}{c[0].upper()}]", end[0]), pattern)
