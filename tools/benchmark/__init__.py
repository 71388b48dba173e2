# SPDX-License-Identifier: Apache-2.0
"""Speed of the parts against stock ways of doing the same: ``python -m tools.benchmark sr3d|denoise|synthesis``."""

from __future__ import annotations

import sys

import fire

from . import denoise, sr3d, synthesis

__all__ = ["main"]


def main() -> None:
    """Run the command line; what the user can put right is told in one line, with exit status 1."""
    try:
        jobs = {"sr3d": sr3d.sr3d, "denoise": denoise.denoise, "synthesis": synthesis.synthesis}
        fire.Fire(jobs, name="benchmark")
    except (ValueError, TypeError, OSError) as error:
        sys.exit(f"error: {error}")
