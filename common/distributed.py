# SPDX-License-Identifier: Apache-2.0
"""Several processes under ``torchrun``: NCCL on GPUs, gloo on CPUs."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist

from common.inputs import InputError

__all__ = ["device", "device_ids", "start", "stop"]


def device() -> torch.device:
    """This process's device: the GPU of its local rank, or the CPU."""
    return torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu")


def device_ids(device: torch.device | str) -> list[torch.device] | None:
    """``DistributedDataParallel``'s argument of that name for a device that the configuration may give as text."""
    return [torch.device(device)] if torch.device(device).type == "cuda" else None


def start() -> None:
    """Joins the group of processes; stands in ``run`` before anything else is made.

    Raises:
        InputError: not started by ``torchrun``.
    """
    if "LOCAL_RANK" not in os.environ:
        raise InputError("a configuration for several processes needs torchrun, see the bundle's card")
    if not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(device())
        dist.init_process_group(backend="nccl" if torch.cuda.is_available() else "gloo")


def stop() -> None:
    """Leaves the group; an item of ``finalize``."""
    if dist.is_initialized():
        dist.barrier()  # a process that leaves while another still talks to it makes that one abort
        dist.destroy_process_group()
