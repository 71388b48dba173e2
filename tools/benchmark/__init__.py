# SPDX-License-Identifier: Apache-2.0
"""Speed of the parts against stock ways of doing the same: ``python -m tools.benchmark sr3d``."""

from __future__ import annotations

from tools.command import run_command

from . import denoise, despeckle, lesion, sr3d, synthesis

__all__ = ["main"]


def main() -> None:
    """Run the command line."""
    jobs = {"sr3d": sr3d.sr3d, "denoise": denoise.denoise, "despeckle": despeckle.despeckle}
    run_command({**jobs, "lesion": lesion.lesion, "synthesis": synthesis.synthesis}, "benchmark")
