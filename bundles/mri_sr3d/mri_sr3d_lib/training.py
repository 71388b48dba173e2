# SPDX-License-Identifier: Apache-2.0
"""Parameter groups of the optimizer."""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["parameter_groups"]


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
