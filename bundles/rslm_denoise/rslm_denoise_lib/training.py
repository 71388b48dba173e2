# SPDX-License-Identifier: Apache-2.0
"""The objective's weights, checks before training, and how long it will take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from common.console import convolution_rate, evaluation_line, multiplications, start_lines
from common.inputs import InputError
from common.savers import stem_of
from common.settings import choice, quantity, triple
from common.weights import bare

from .data import NoisyVolumes

__all__ = ["announce", "announce_evaluation", "check_patches", "expected_seconds", "objective", "patch_shape"]

STEP = 4.0  # a generator step costs about four forward passes
OBJECTIVES = ("relative", "paper")
LEAST_EDGE = 4  # three scales of MS-SSIM, and three strides of the critic


def objective(name: Any, tau: Any, adversarial_weight: Any) -> dict[str, Any]:
    """Weights of the terms of an objective.

    Args:
        name: ``paper`` for eq. 5 and 6, tau for MS-SSIM, 1 - tau for L1, and the critic; ``relative`` for the error
            relative to the noisy image's alone (``common.losses.RelativeError``, an addition to the paper).
        tau: share of MS-SSIM.
        adversarial_weight: beta, the critic's weight.

    Returns:
        ``{"losses": {name: weight}, "adversarial": weight}``.

    Raises:
        InputError: an unknown name, tau outside [0, 1], or a negative weight.
    """
    share = quantity(tau, "tau", 0, 1)
    critic = quantity(adversarial_weight, "adversarial_weight", 0)
    if choice(name, "objective", OBJECTIVES) == "relative":
        return {"losses": {"relative": 1.0, "ms_ssim": 0.0, "l1": 0.0}, "adversarial": 0.0}
    return {"losses": {"relative": 0.0, "ms_ssim": share, "l1": 1 - share}, "adversarial": critic}


def patch_shape(patch_size: Any) -> tuple[int, int, int]:
    """Edge lengths of a patch in voxels, from one number or three.

    Raises:
        InputError: no whole numbers, or an edge below 4 voxels.
    """
    edges = triple(patch_size, "patch_size") or (0, 0, 0)
    if any(edge != int(edge) or edge < LEAST_EDGE for edge in edges):
        raise InputError(f"patch_size must be one or three whole numbers of at least {LEAST_EDGE}, got {patch_size!r}")
    return tuple(int(edge) for edge in edges)


def check_patches(volumes: Sequence[dict[str, Any]], patch: Sequence[int]) -> None:
    """Makes sure that a patch fits in every training volume.

    Raises:
        InputError: it does not, or a volume has fewer slices than a patch.
    """
    for item in volumes:
        image = item["image"]
        shape = tuple(image.shape[1:])
        source = stem_of(str(image.meta.get("filename_or_obj", "volume")))
        if shape[2] < patch[2] and all(n >= p for n, p in zip(shape[:2], patch[:2], strict=True)):
            raise InputError(
                f"{shape[2]} slices are fewer than the patch's {patch[2]}; give a smaller patch_size", source
            )
        if any(n < p for n, p in zip(shape, patch, strict=True)):
            raise InputError(f"patch_size {list(patch)} is larger than the volume {list(shape)}", source)


def expected_seconds(
    network: nn.Module,
    device: Any,
    patches: int,
    patch_voxels: int,
    trainer: Any,
    held_out: NoisyVolumes,
    validations: int,
) -> float:
    """Estimated time of a run from the machine's convolution rate, measured in a moment.

    Args:
        network: the generator.
        device: where.
        patches: training patches per epoch.
        patch_voxels: voxels of a patch.
        trainer: the ``AdversarialTrainer``, or None for an evaluation.
        held_out: what is validated each time.
        validations: validations in all.
    """
    voxels = float(validations * held_out.voxels())
    if trainer is not None:
        voxels += trainer.passes_left(generator=STEP, discriminator=1.0) * patches * patch_voxels
    return multiplications(bare(network)) * voxels / convolution_rate(device)


def announce(
    budget: dict[str, Any],
    network: nn.Module,
    device: Any,
    train: Sequence,
    patches: int,
    trainer: Any,
    held_out: NoisyVolumes,
    val_interval: int,
    weights: str,
    folder: Any,
) -> None:
    """Says before training what is going to happen.

    Args:
        budget: chosen numbers, with "epochs" and "patch_size".
        network: what is trained.
        device: where.
        train: training volumes.
        patches: patches per epoch.
        trainer: the ``AdversarialTrainer``.
        held_out: validation items.
        val_interval: epochs between validations.
        weights: where the starting weights come from.
        folder: the run's folder.
    """
    validations = budget["epochs"] // val_interval + 1
    voxels = math.prod(budget["patch_size"])
    seconds = expected_seconds(network, device, patches, voxels, trainer, held_out, validations)
    data = f"{len(train)} training volumes, {patches} patches per epoch; {_volumes_text(held_out, 'held-out ')}"
    start_lines("training", budget, device, data, weights, seconds, folder)


def announce_evaluation(network: nn.Module, device: Any, volumes: NoisyVolumes, weights: str) -> None:
    """Says before an evaluation what is going to happen, and how long the network will take."""
    seconds = expected_seconds(network, device, 0, 0, None, volumes, 1)
    evaluation_line(weights, _volumes_text(volumes), seconds, device)


def _volumes_text(volumes: NoisyVolumes, kind: str = "") -> str:
    levels = ", ".join(f"{level:g} %" for level in volumes.levels)
    return f"{len(volumes.data)} {kind}volume(s), noise {levels}"
