# SPDX-License-Identifier: Apache-2.0
"""Which weights denoise, and what is saved."""

from __future__ import annotations

import os
from typing import Any

from common.inputs import InputError
from common.settings import boolean, choice

from .training import OBJECTIVES

__all__ = ["results", "weights_file"]


def weights_file(folder: str | os.PathLike, objective: Any) -> str:
    """The shipped weights that were trained with an objective: ``model.pt``, or ``paper_objective.pt`` for the paper's.

    Args:
        folder: the bundle's ``models``.
        objective: see ``rslm_denoise_lib.training.objective``.

    Raises:
        InputError: an unknown objective.
    """
    # longer than model.pt: MONAI Label takes the shortest name by default
    name = choice(objective, "objective", OBJECTIVES)
    return os.path.join(folder, "paper_objective.pt" if name == "paper" else "model.pt")


def results(save_residual: Any, tta: Any, save_std: Any) -> dict[str, str]:
    """Keys of the images to save, each with what its file's name ends in.

    Args:
        save_residual: what was taken away, too.
        tta: whether results are averaged over flips.
        save_std: their standard deviation, too.

    Raises:
        InputError: ``save_std`` without ``tta``.
    """
    if boolean(save_std) and not boolean(tta):
        raise InputError("save_std saves the spread over the flips, so it needs --tta true")
    kept = {"pred": True, "residual": boolean(save_residual), "std": boolean(save_std)}
    return {key: "denoised" if key == "pred" else key for key, wanted in kept.items() if wanted}
