# SPDX-License-Identifier: Apache-2.0
"""Parameter groups, and weights grown from a shallower network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from common.console import convolution_rate, multiplications

from .data import DegradedVolumes, setting_name
from .networks import deepen

__all__ = ["data_text", "expected_seconds", "grow", "parameter_groups"]

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


def grow(state: Mapping[str, torch.Tensor], network: nn.Module) -> dict[str, torch.Tensor] | None:
    """Weights of a shallower network of the same kind made as deep as ``network``, or None."""
    try:
        return deepen(state, sum(isinstance(layer, nn.Conv3d) for layer in network.layers))
    except (ValueError, AttributeError):
        return None


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
    return multiplications(network) * voxels / convolution_rate(device)


def data_text(train: Any, held_out: DegradedVolumes, patches: int) -> str:
    """Counts of the data for the lines at the start."""
    settings = ", ".join(setting_name(scale) for scale in held_out.scales)
    return f"{len(train)} training volumes, {patches} patches per epoch; {len(held_out.data)} held out, at {settings}"
