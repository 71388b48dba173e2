# SPDX-License-Identifier: Apache-2.0
"""Weights and checkpoints: flat state dicts of tensors that load with ``weights_only`` on any device."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.inputs import InputError

__all__ = ["bare", "fits", "load_checkpoint", "load_flat", "load_into", "save_atomically"]


def bare(network: nn.Module) -> nn.Module:
    """The network inside wrappers for several processes or for compilation."""
    while True:
        if isinstance(network, nn.parallel.DistributedDataParallel | nn.DataParallel):
            network = network.module
        elif hasattr(network, "_orig_mod"):  # what torch.compile returns
            network = network._orig_mod
        else:
            return network


def save_atomically(state: Any, path: str | os.PathLike) -> None:
    """Writes a checkpoint so that a killed process leaves the old file whole."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def load_checkpoint(path: str | os.PathLike) -> Any:
    """A checkpoint's content on the CPU.

    Raises:
        InputError: no such file, or not a checkpoint of tensors and plain numbers.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such weights file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(f"{path}: not a weights file ({type(error).__name__})") from error


def load_flat(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """The network's state dict in a file: flat, or under "network" or "model" in a larger checkpoint."""
    state = load_checkpoint(path)
    for key in ("network", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise InputError(f"{path}: holds no network's weights")
    return dict(state)


def fits(state: Mapping[str, torch.Tensor], network: nn.Module) -> bool:
    """Whether a state dict has just the network's names and shapes."""
    own = bare(network).state_dict()
    return state.keys() == own.keys() and all(state[k].shape == v.shape for k, v in own.items())


def load_into(network: nn.Module, path: str | os.PathLike) -> nn.Module:
    """Loads weights that must fit.

    Raises:
        InputError: the file's names or shapes are not the network's.
    """
    state = load_flat(path)
    if not fits(state, network):
        raise InputError(f"{path}: these weights belong to another network shape")
    bare(network).load_state_dict(state)
    return network
