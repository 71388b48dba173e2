# SPDX-License-Identifier: Apache-2.0
"""Speed of the parts against stock ways of doing the same: ``python -m tools.benchmark sr3d``."""

from __future__ import annotations

import sys

import fire

from . import denoise, despeckle, lesion, sr3d, synthesis

__all__ = ["main"]


def main() -> None:
    """Run the command line; what the user can put right is told in one line, with exit status 1."""
    try:
        jobs = {"sr3d": sr3d.sr3d, "denoise": denoise.denoise, "despeckle": despeckle.despeckle}
        fire.Fire({**jobs, "lesion": lesion.lesion, "synthesis": synthesis.synthesis}, name="benchmark")
    except (ValueError, TypeError, OSError) as error:
        sys.exit(f"error: {error}")
