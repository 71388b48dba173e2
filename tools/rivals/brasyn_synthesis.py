# SPDX-License-Identifier: Apache-2.0
"""Rivals of brasyn_synthesis: what simple methods make of the other sequences, and the challenge's containers."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

from .rival import Evaluation, Rival

__all__ = ["CAPTION", "LOWER", "SCORES", "WHOLE", "rivals", "subject"]

SCORES = ("ssim_healthy", "ssim_tumour", "psnr_healthy", "psnr_tumour")
LOWER = False
WHOLE = {"validate::dataset::slices": None}
CAPTION = "whole volumes, nine views; PSNR in dB; multiplications per voxel"
CONTAINER = "brats.MissingMRI(algorithm=brats.constants.MissingMRIAlgorithms.BraTS23_1).infer_single(...)"


def subject(case: str) -> str:
    """What counts as one case of the statistics: a patient's scan."""
    return case


def rivals(evaluation: Evaluation, given: Mapping[str, Any]) -> list[Rival]:
    """The methods, those that are absent with their reasons; ``given`` is not used."""
    there = "its image is not fetched here" if shutil.which("docker") else "needs Docker, which is not here"
    return [
        Rival(
            "input",
            "best single input",
            lambda item: item["baseline"],
            note="chosen by the truth",
            timed=False,
            baseline=True,
        ),
        Rival(
            "regression",
            "linear regression",
            lambda item: item["regression"],
            note="fitted to this very case's truth",
            work=3,
            timed=False,
        ),
        Rival("brats", "BraTS 2023 winner's container (brats)", reason=f"{there}: pip install brats, then {CONTAINER}"),
    ]
