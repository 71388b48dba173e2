# SPDX-License-Identifier: Apache-2.0
"""Speed of the parts against stock ways of doing the same: ``python -m tools.benchmark sr3d|denoise|lesion``."""

from __future__ import annotations

import sys

import fire

from . import denoise, lesion, sr3d

__all__ = ["main"]


def main() -> None:
    """Run the command line; what the user can put right is told in one line, with exit status 1."""
    try:
        fire.Fire({"sr3d": sr3d.sr3d, "denoise": denoise.denoise, "lesion": lesion.lesion}, name="benchmark")
    except (ValueError, TypeError, OSError) as error:
        sys.exit(f"error: {error}")
