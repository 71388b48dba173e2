# SPDX-License-Identifier: Apache-2.0
"""Weights and checkpoints: flat state dicts of tensors that load with ``weights_only`` on any device."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import nn

from common.errors import InputError
from common.io.files import replacing
from common.utils.values import boolean, value

Network = TypeVar("Network", bound=nn.Module)

__all__ = [
    "bare",
    "build",
    "fits",
    "in_format",
    "load_checkpoint",
    "load_domain",
    "load_flat",
    "load_into",
    "save_atomically",
    "with_domain",
]

DOMAIN = "domain"  # in the metadata of a state dict, in the entry of the whole network


def bare(network: nn.Module) -> nn.Module:
    """The network inside wrappers for several processes or for compilation."""
    while True:
        wrapped = isinstance(network, nn.parallel.DistributedDataParallel | nn.DataParallel)
        inner = getattr(network, "module" if wrapped else "_orig_mod", None)  # the latter in what torch.compile returns
        if not isinstance(inner, nn.Module):
            return network
        network = inner


def in_format(network: Network, form: torch.memory_format, device: torch.device | str | None = None) -> Network:
    """A network with its weights in a memory format, such as channels last, and on a device unless it is None."""
    return network.to(device=device, memory_format=form)  # type: ignore[call-overload]  # torch's stubs lack the format


def save_atomically(state: Any, path: str | os.PathLike) -> None:
    """Writes a checkpoint so that a killed process, or a full disk, leaves the old file whole.

    Raises:
        StorageError: the folder is full or read-only.
    """
    with replacing(path) as partial, partial.open("wb") as file:  # torch's own opening hides the system's error
        torch.save(state, file)


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
    """The network's state dict in a file: flat, or under "network" or "model" in a larger checkpoint.

    Raises:
        InputError: none there, or one with NaN or infinite numbers.
    """
    state = _network_in(load_checkpoint(path))
    if not isinstance(state, Mapping) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise InputError(f"{path}: holds no network's weights")
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise InputError(f"{path}: {name} holds NaN or infinite numbers; weights of a training that diverged?")
    # weights may be stored in half precision; networks compute in float32
    return {name: v.float() if v.is_floating_point() else v for name, v in state.items()}


def _network_in(state: Any) -> Any:
    for key in ("network", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    return state


def with_domain(state: Mapping[str, torch.Tensor], domain: Mapping[str, Any]) -> OrderedDict[str, torch.Tensor]:
    """A state dict that tells what its weights were trained on, see ``common.engine.domain``.

    The numbers lie in the metadata that torch keeps with a state dict, beside the versions of its modules: names and
    shapes stay the network's own, so whatever loads the file, strictly or not, loads it as before.

    Args:
        state: of a network.
        domain: plain numbers and texts in lists and dictionaries.
    """
    told = OrderedDict(state)
    metadata = dict(getattr(state, "_metadata", {}))
    told._metadata = {**metadata, "": {**metadata.get("", {}), DOMAIN: dict(domain)}}  # type: ignore[attr-defined]
    return told


def load_domain(path: str | os.PathLike) -> dict[str, Any]:
    """What ``with_domain`` stored in a file; empty where it has no such numbers.

    Raises:
        InputError: as in ``load_checkpoint``.
    """
    metadata = getattr(_network_in(load_checkpoint(path)), "_metadata", {})
    return dict(metadata.get("", {}).get(DOMAIN, {}))


def build(
    network: type[Network], weights: Any, form: Mapping[str, Any], from_scratch: Any = False, **given: Any
) -> Network:
    """The network that a weights file holds; for random weights, the one that a budget describes.

    Args:
        network: a class with ``form_of(state)``, which reads constructor arguments off the names and shapes of a state
            dict, and raises ``ValueError`` where the state dict is not one of this class.
        weights: the file.
        form: constructor arguments for random weights.
        from_scratch: start from random weights, whatever the file holds.
        given: constructor arguments that the user gave; None for those that are left to the file or the budget.

    Raises:
        InputError: no such file, or it holds another kind of network, or one that contradicts a given argument.
    """
    given = {name: plain for name, text in given.items() if (plain := value(text)) is not None}
    path = Path(str(weights))
    if boolean(from_scratch):
        return network(**{**form, **given})
    try:
        held = cast(Any, network).form_of(load_flat(path))
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"holds no weights of a {network.__name__} ({error})", path) from error
    for name, wanted in given.items():
        if name in held and held[name] != wanted:
            reason = f"holds a network with {name} {held[name]}, not {wanted}; add --from_scratch true to start anew"
            raise InputError(reason, path)
    return network(**{**held, **{name: wanted for name, wanted in given.items() if name not in held}})


def fits(state: Mapping[str, torch.Tensor], network: nn.Module) -> bool:
    """Whether a state dict has just the network's names and shapes."""
    own = bare(network).state_dict()
    return state.keys() == own.keys() and all(state[k].shape == v.shape for k, v in own.items())


def load_into(network: Network, path: str | os.PathLike) -> Network:
    """Loads weights that must fit.

    Raises:
        InputError: the file's names or shapes are not the network's.
    """
    state = load_flat(path)
    if not fits(state, network):
        raise InputError(f"{path}: these weights belong to another network shape")
    bare(network).load_state_dict(state)
    return network
