# SPDX-License-Identifier: Apache-2.0
"""Rivals of brasyn_synthesis: what simple methods make of the other sequences, and the challenge's containers."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from monai.transforms import Orientation

from brasyn_synthesis_lib.standardisation import Standardisation
from brasyn_synthesis_lib.transforms import MARGIN
from common.io.readers import LoadScan
from common.transforms.intensity import foreground_mask, standardise
from common.utils.images import as_tensor

from .rival import Evaluation, Rival

__all__ = ["CAPTION", "LOWER", "SCORES", "WHOLE", "rivals", "subject"]

SCORES = ("ssim_healthy", "ssim_tumour", "psnr_healthy", "psnr_tumour")
LOWER = False
WHOLE = {"validate::dataset::slices": None}
CAPTION = "whole volumes, nine views; PSNR in dB; multiplications per voxel"
CONTAINER = "MissingMRI(algorithm=MissingMRIAlgorithms.BraTS23_1).infer_batch(CASES, RESULTS)"  # see the bundle's card
RAS = Orientation(axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S")))


def subject(case: str) -> str:
    """What counts as one case of the statistics: a patient's scan."""
    return case


def rivals(evaluation: Evaluation, given: Mapping[str, Any]) -> list[Rival]:
    """The methods, those that are absent with their reasons.

    Args:
        evaluation: of the bundle.
        given: ``brats``: folder of what the winner's container has made, ``CASE-TARGET.nii.gz`` on the case's grid.
    """
    name = "BraTS 2023 winner's container (brats)"
    if given.get("brats"):
        made = Rival(
            "brats",
            name,
            made_elsewhere(evaluation.dataset, Path(str(given["brats"])).expanduser()),
            note="made elsewhere; its histogram standardised as the truth's",
            timed=False,
        )
    else:
        docker = "" if shutil.which("docker") else "needs Docker, which is not here: "
        how = f"pip install brats, {CONTAINER}, then --rival_weights \"{{'brats': 'RESULTS'}}\""
        made = Rival("brats", name, reason=docker + how)
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
        made,
    ]


def made_elsewhere(dataset: Any, folder: Path) -> Callable[[Mapping[str, Any]], torch.Tensor]:
    """Another program's results as a method of held-out items, in the truth's standardised scale.

    Args:
        dataset: the evaluation's, see ``brasyn_synthesis_lib.volumes.HeldOutCases``.
        folder: holds ``CASE-TARGET.nii.gz``.
    """
    places = {entry["case"]: index for index, entry in enumerate(dataset.data)}

    def apply(item: Mapping[str, Any]) -> torch.Tensor:
        image = as_tensor(RAS(LoadScan()(folder / f"{item['case']}-{dataset.target}.nii.gz")))
        pair = torch.cat([image, foreground_mask(image).to(image)])
        around = dataset.decoded[places[item["case"]]]["around"]
        if not dataset.whole:
            pair = F.pad(F.pad(pair, [-edge for edge in around]), [MARGIN] * 6)
        mask, known = (pair[1:] > 0) & (item["label"][2:] > 0.5), Standardisation.of(dataset.network)
        return standardise(pair[:1], known.landmarks[dataset.target], mask).clamp_min(0) / known.scale

    return apply
