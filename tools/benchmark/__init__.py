# SPDX-License-Identifier: Apache-2.0
"""Speed of the parts against stock ways of doing the same, and quality beside rivals: ``python -m tools.benchmark``."""

from __future__ import annotations

from tools.command import run_command

from . import denoise, despeckle, lesion, quality, sr3d, synthesis

__all__ = ["main"]


def main() -> None:
    """Run the command line."""
    jobs = {"sr3d": sr3d.sr3d, "denoise": denoise.denoise, "despeckle": despeckle.despeckle}
    jobs |= {"lesion": lesion.lesion, "synthesis": synthesis.synthesis, "quality": quality.quality}
    run_command(jobs, "benchmark")
