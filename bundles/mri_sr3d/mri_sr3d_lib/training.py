# SPDX-License-Identifier: Apache-2.0
"""Parameter groups, and what a run says before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from common.console import convolution_rate, evaluation_line, multiplications, start_lines
from common.weights import bare

from .data import DegradedVolumes, setting_name

__all__ = ["announce", "announce_evaluation", "expected_seconds", "parameter_groups"]

BACKWARD = 3.0  # a training step costs about three forward passes


def parameter_groups(network: nn.Module, learning_rate: float, bias_factor: float = 0.1) -> list[dict[str, Any]]:
    """Weights and biases as two groups; Pham et al. 2019, sec. 3.2: multipliers 1 and 0.1.

    Args:
        network: any network.
        learning_rate: of the weights.
        bias_factor: the biases' learning rate as a share of it.
    """
    weights = [p for name, p in network.named_parameters() if not name.endswith("bias")]
    biases = [p for name, p in network.named_parameters() if name.endswith("bias")]
    return [{"params": weights, "lr": learning_rate}, {"params": biases, "lr": learning_rate * bias_factor}]


def expected_seconds(
    network: nn.Module, device: Any, patches: int, patch_voxels: int, held_out: DegradedVolumes, validations: int
) -> float:
    """Estimated time of a run from the machine's convolution rate, measured in a moment.

    Args:
        network: network to train.
        device: where.
        patches: training patches in all.
        patch_voxels: voxels of a patch.
        held_out: what is validated each time.
        validations: validations in all.
    """
    voxels = BACKWARD * patches * patch_voxels + validations * held_out.voxels()
    return multiplications(bare(network)) * voxels / convolution_rate(device)


def announce(
    budget: dict[str, Any],
    network: nn.Module,
    device: Any,
    train: Sequence,
    patches: int,
    held_out: DegradedVolumes,
    val_interval: int,
    weights: str,
    folder: Any,
) -> None:
    """Says before training what is going to happen.

    Args:
        budget: chosen numbers, with "epochs" and "patch_size".
        network, device: what is trained, and where.
        train: training volumes.
        patches: patches per epoch.
        held_out: validation items.
        val_interval: epochs between validations.
        weights: where the starting weights come from.
        folder: the run's folder.
    """
    epochs = budget["epochs"]
    voxels = int(np.prod(np.broadcast_to(budget["patch_size"], 3)))
    seconds = expected_seconds(network, device, patches * epochs, voxels, held_out, epochs // val_interval + 1)
    data = f"{len(train)} training volumes, {patches} patches per epoch; {_volumes_text(held_out, 'held-out ')}"
    start_lines("training", budget, device, data, weights, seconds, folder)


def announce_evaluation(network: nn.Module, device: Any, volumes: DegradedVolumes, weights: str) -> None:
    """Says before an evaluation what is going to happen, and how long it will take."""
    seconds = expected_seconds(network, device, 0, 0, volumes, 1)
    evaluation_line(weights, _volumes_text(volumes), seconds, device)


def _volumes_text(volumes: DegradedVolumes, kind: str = "") -> str:
    settings = ", ".join(setting_name(scale) for scale in volumes.scales)
    return f"{len(volumes.data)} {kind}volume(s) at {settings}"
