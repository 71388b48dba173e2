# SPDX-License-Identifier: Apache-2.0
"""What a step of an adversarial training is made of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from common.errors import InputError
from common.io.weights import bare

__all__ = ["BatchGroups", "add_term", "gradient_norm", "last_output", "not_stepped"]


class BatchGroups:
    """Hands on the batches of a loader in lists of equal length; an incomplete list at the end is left out.

    Args:
        loader: with a length.
        size: batches per list.

    Raises:
        InputError: the loader has fewer batches than one list needs.
    """

    def __init__(self, loader: DataLoader, size: int) -> None:
        if len(loader) < size:
            raise InputError(f"an epoch has {len(loader)} batches, but one training step takes {size}; give more data")
        self.loader = loader
        self.size = size

    @property
    def dataset(self) -> Any:
        """The loader's."""
        return self.loader.dataset

    def __len__(self) -> int:
        return len(self.loader) // self.size

    def __iter__(self) -> Iterator[list]:
        group = []
        for batch in self.loader:
            group.append(batch)
            if len(group) == self.size:
                yield group
                group = []


@contextmanager
def not_stepped(network: nn.Module) -> Iterator[None]:
    """Within, a network's parameters get no gradients; afterwards its buffers are what they were.

    So batch statistics and power iterations of the network that is not stepped stay untouched, although it runs in
    training mode as it does when it is stepped.
    """
    network = bare(network)
    flags = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    for parameter, _ in flags:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


def last_output(made: Any) -> torch.Tensor:
    """A generator's final image: its output, or the last of a list of outputs (coarse to fine)."""
    return made[-1] if isinstance(made, list | tuple) else made


def add_term(sums: dict[str, torch.Tensor], name: str, term: torch.Tensor, share: int) -> None:
    """Adds one batch's value of a term to a step's mean over ``share`` batches."""
    sums[name] = sums.get(name, 0) + term.detach().mean() / share


def gradient_norm(network: nn.Module) -> torch.Tensor:
    """Euclidean norm of all gradients of a network."""
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)
