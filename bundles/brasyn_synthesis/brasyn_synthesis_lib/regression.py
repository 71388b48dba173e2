# SPDX-License-Identifier: Apache-2.0
"""Voxel-wise linear regression of a sequence on the three others: a simple rival, and where training starts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from common.io.weights import bare
from common.utils.console import say

__all__ = ["linear_regression", "regression_of", "start_linear"]

ENOUGH = 8  # volumes that settle four numbers


def linear_regression(image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """The inputs' best voxel-wise linear combination, fitted to this very case in its brain: more than a user has.

    Args:
        image: inputs ``(C, H, W, D)``.
        label: ``(3, H, W, D)``: truth, tumour, brain.

    Returns:
        ``(1, H, W, D)``, at least 0, and 0 outside the brain.
    """
    brain = label[2] > 0.5
    values = _with_ones(image, brain)
    made = torch.zeros_like(label[:1])
    made[0, brain] = (_solved(*_normal_equations(values, label[0][brain])) @ values).clamp_min(0).to(made.dtype)
    return made


def regression_of(volumes: Iterable[dict[str, Any]]) -> list[float]:
    """Weights of the inputs and a bias that fit the truth best over the brains of training volumes."""
    left = right = torch.zeros(())
    for item in volumes:
        image, label = (item[key].float() for key in ("image", "label"))
        brain = label[2] > 0.5
        matrix, vector = _normal_equations(_with_ones(image, brain), label[0][brain])
        left, right = left + matrix, right + vector
    return _solved(left, right).tolist()


def start_linear(
    wanted: bool, from_scratch: bool, resume: bool, network: Any, volumes: Sequence[dict[str, Any]]
) -> None:
    """Lets random weights start as the linear regression of the training volumes, which training then improves on.

    An addition to the paper: without it a short training spends most of its steps on getting that far.

    Args:
        wanted: whether to; a network without ``linear_skip`` cannot.
        from_scratch: as in ``train.json``; other weights stay as they are.
        resume: as in ``train.json``; a run that goes on keeps its own.
        network: the generator.
        volumes: training volumes, of which the first ones are enough.
    """
    network = bare(network)
    if wanted and from_scratch and not resume and network.last_skip is not None:
        *weights, bias = regression_of(volumes[i] for i in range(min(len(volumes), ENOUGH)))
        network.start_linear(weights, bias)
        say("random weights, whose last layer starts as the linear regression of the inputs")


def _with_ones(image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return torch.cat([image[:, mask], image.new_ones(1, int(mask.sum()))]).double()


def _normal_equations(values: torch.Tensor, truth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return values @ values.T, values @ truth.double()


def _solved(matrix: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    ridge = 1e-9 * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)  # where two inputs are one
    return torch.linalg.solve(matrix + ridge, vector)
