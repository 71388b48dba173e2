# SPDX-License-Identifier: Apache-2.0
"""Several processes under ``torchrun``: NCCL on GPUs, gloo on CPUs."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from monai.data import DistributedSampler
from torch.utils.data import Dataset

from common.errors import InputError
from common.utils.types import Items

__all__ = [
    "device",
    "device_ids",
    "from_all",
    "from_first",
    "held_out_sampler",
    "is_main_process",
    "processes",
    "rank",
    "sampler",
    "start",
    "start_if_launched",
    "stop",
]

T = TypeVar("T")

WAIT = timedelta(days=1)  # the others wait while one restores or scores a large case; torchrun ends them if it dies
_store: dist.Store | None = None  # where processes meet, as long as they live
_groups = itertools.count()  # of groups joined, alike in all processes


def device() -> torch.device:
    """This process's device: the GPU of its local rank, or the CPU."""
    return torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu")


def device_ids(device: torch.device | str) -> list[torch.device] | None:
    """``DistributedDataParallel``'s argument of that name for a device that the configuration may give as text."""
    return [torch.device(device)] if torch.device(device).type == "cuda" else None


def start(backend: str | None = None) -> None:
    """Joins the group of processes; stands in ``run`` before anything else is made.

    Args:
        backend: None for NCCL on GPUs and gloo on CPUs.

    Raises:
        InputError: not started by ``torchrun``.
    """
    global _store
    if "LOCAL_RANK" not in os.environ:
        raise InputError("a configuration for several processes needs torchrun, see the bundle's card")
    if not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(device())
        backend = backend or ("nccl" if torch.cuda.is_available() else "gloo")
        if _store is None:
            _store, _, _ = next(dist.rendezvous("env://", timeout=WAIT))
        number, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        # a prefix of its own: what an earlier group of this process has left in the store would mislead a new one
        store = dist.PrefixStore(f"group-{next(_groups)}", _store)
        dist.init_process_group(backend, store=store, rank=number, world_size=size, timeout=WAIT)


def start_if_launched() -> None:
    """Joins the group of the processes that ``torchrun`` started; nothing for a process of its own."""
    if {"LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys():
        start()


def is_main_process() -> bool:
    """Whether this process is the only one, or the first of several."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


def stop() -> None:
    """Leaves the group; an item of ``finalize``."""
    if dist.is_initialized():
        dist.barrier()  # a process that leaves while another still talks to it makes that one abort
        dist.destroy_process_group()


def processes() -> int:
    """How many processes work together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number among them, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def from_first(make: Callable[[], T]) -> T:
    """What the first process makes, handed to all of them; an only process makes it for itself.

    Raises:
        InputError: the one that ``make`` raised, in every process.
    """
    if not dist.is_initialized():
        return make()
    made: list[Any] = [None]
    if dist.get_rank() == 0:
        try:
            made[0] = make()
        except InputError as error:
            made[0] = error
    dist.broadcast_object_list(made, src=0)
    if isinstance(made[0], InputError):
        raise made[0]
    return made[0]


def from_all(mine: T) -> list[T]:
    """What every process gives, by rank, in every process."""
    if not dist.is_initialized():
        return [mine]
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, mine)
    return gathered


def sampler(dataset: Items, held_out: bool = False) -> DistributedSampler | None:
    """A process's share of a dataset; None for a process of its own, which takes all.

    Args:
        dataset: what the processes share, in the same order in all.
        held_out: each item once; else as many items for every process.

    Raises:
        InputError: fewer held-out items than processes.
    """
    if processes() == 1:
        return None
    return held_out_sampler(dataset) if held_out else _shared(dataset, even_divisible=True)


def held_out_sampler(held_out: Items) -> DistributedSampler:
    """Shares held-out items among processes, each item once.

    Raises:
        InputError: fewer items than processes.
    """
    if len(held_out) < processes():
        count = f"{processes()} processes need as many held-out items, there are {len(held_out)}"
        raise InputError(f"{count}; give more data or a larger val_fraction, or start fewer processes")
    return _shared(held_out, even_divisible=False)


def _shared(items: Items, even_divisible: bool) -> DistributedSampler:
    # torch asks for a ``Dataset``, but needs the length alone
    return DistributedSampler(cast(Dataset, items), even_divisible=even_divisible, shuffle=False)
