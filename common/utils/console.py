# SPDX-License-Identifier: Apache-2.0
"""A few plain lines for the person at the terminal."""

from __future__ import annotations

import sys
import time

import torch
from torch import nn

from common.errors import shown
from common.utils.distributed import is_main_process

__all__ = [
    "convolution_rate",
    "device_text",
    "duration",
    "multiplications",
    "say",
]


def say(text: str) -> None:
    """Prints lines at once, in the first process only, whatever characters the terminal knows."""
    if is_main_process():
        lines = "\n".join(map(shown, text.split("\n")))
        print(_known(lines, getattr(sys.stdout, "encoding", None) or "utf-8"), flush=True)


def _known(text: str, encoding: str) -> str:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:  # a machine without a UTF-8 locale: no reason to lose a run at its last line
        return text.replace("\N{PLUS-MINUS SIGN}", "+-").encode(encoding, "replace").decode(encoding)
    return text


def duration(seconds: float) -> str:
    """A time span as a person would say it: "40 s", "6 min", "3.5 h"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def multiplications(network: nn.Module) -> int:
    """Multiplications per input voxel: what the network says itself, else that its convolutions all keep the grid."""
    own = getattr(network, "multiplications", None)
    if own is not None:
        return int(own)
    return sum(m.weight.numel() for m in network.modules() if isinstance(m, nn.Conv2d | nn.Conv3d))


def convolution_rate(device: torch.device | str, edge: int = 24) -> float:
    """Multiplications per second of a bare 64-to-64 3x3x3 convolution, measured in a moment."""
    layer = nn.Conv3d(64, 64, 3, padding=1).to(device)
    nn.utils.convert_conv3d_weight_memory_format(layer, torch.channels_last_3d)
    image = torch.zeros(1, 64, edge, edge, edge, device=device).to(memory_format=torch.channels_last_3d)
    best = float("inf")
    with torch.inference_mode():
        for _ in range(4):
            _wait(device)
            start = time.perf_counter()
            layer(image)
            _wait(device)
            best = min(best, time.perf_counter() - start)
    return layer.weight.numel() * edge**3 / best


def _wait(device: torch.device | str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def device_text(device: torch.device | str) -> str:
    """A device with the GPU's name or the CPU's threads."""
    device = torch.device(device)
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({torch.get_num_threads()} threads)"
