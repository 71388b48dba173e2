# SPDX-License-Identifier: Apache-2.0
"""The objective's weights, checks before training, and how long it will take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from common.console import convolution_rate, multiplications
from common.inputs import InputError
from common.savers import stem_of
from common.settings import triple, value

from .data import NoisyVolumes

__all__ = ["check_patches", "data_text", "expected_seconds", "objective", "patch_shape"]

STEP = 4.0  # a generator step costs about four forward passes
LEAST_EDGE = 4  # three scales of MS-SSIM, and three strides of the critic


def objective(tau: Any) -> dict[str, float]:
    """Weights of the structurally-sensitive loss, eq. 5: tau for MS-SSIM and 1 - tau for L1.

    Raises:
        InputError: tau outside [0, 1].
    """
    plain = value(tau)
    if isinstance(plain, bool) or not isinstance(plain, int | float) or not 0 <= plain <= 1:
        raise InputError(f"tau must lie in [0, 1], got {tau!r}")
    return {"ms_ssim": float(plain), "l1": 1 - float(plain)}


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
    batch: dict[str, int],
    trainer: Any,
    held_out: NoisyVolumes,
    validations: int,
) -> float:
    """Estimated time of a run from the machine's convolution rate, measured in a moment.

    Args:
        network: the generator.
        device: where.
        batch: "patches" per epoch and "voxels" of a patch.
        trainer: the ``AdversarialTrainer``, or None for an evaluation.
        held_out: what is validated each time.
        validations: validations in all.
    """
    voxels = float(validations * held_out.voxels())
    if trainer is not None:
        critics, generators = trainer.critic_steps, trainer.generator_steps
        playing = (critics + STEP * generators) / (critics + generators)
        cost = {"generator": STEP, "discriminator": 1.0, "both": playing}
        for epoch in range(trainer.state.epoch + 1, trainer.state.max_epochs + 1):
            voxels += cost[trainer.stage(epoch)] * batch["patches"] * batch["voxels"]
    return multiplications(network) * voxels / convolution_rate(device, filters=32)


def data_text(train: Any, held_out: NoisyVolumes, patches: int) -> str:
    """Counts of the data for the lines at the start."""
    levels = ", ".join(f"{level:g} %" for level in held_out.levels)
    return f"{len(train)} training volumes, {patches} patches per epoch; {len(held_out.data)} held out, noise {levels}"
