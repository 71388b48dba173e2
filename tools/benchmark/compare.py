# SPDX-License-Identifier: Apache-2.0
"""What every benchmark shares: timing in turn, comparisons with a target, and their table."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import monai
import numpy as np
import scipy
import torch

from common.handlers.scores import markdown_table

__all__ = ["Comparison", "check_counts", "chosen_device", "in_turn", "report", "seconds_text", "timed"]


@dataclass
class Comparison:
    """One measured ratio and what it should be: at ``least``, or at ``most`` (then told in per cent)."""

    what: str
    ours: str
    other: str
    ratio: float
    least: float | None = None
    most: float | None = None

    @property
    def met(self) -> bool:
        """Whether the ratio is within its target."""
        return (self.least is None or self.ratio >= self.least) and (self.most is None or self.ratio <= self.most)

    def row(self) -> list[str]:
        """The table's row."""
        if self.most is None:
            ratio, target = f"{self.ratio:.2f}", f"at least {self.least:.2f}"
        else:
            ratio, target = f"{100 * self.ratio:.2f} %", f"at most {100 * self.most:.0f} %"
        return [self.what, self.ours, self.other, ratio, target, "yes" if self.met else "no"]


def check_counts(**numbers: object) -> None:
    """Makes sure that all are whole numbers of at least 1.

    Raises:
        ValueError: one is not.
    """
    for name, number in numbers.items():
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {number}")


def chosen_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        ValueError: there is none.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name} cannot be used: {str(error).splitlines()[0]}") from error
    return device


def timed(job: Callable[[], object], device: torch.device) -> float:
    """Seconds that a job takes, to the end of what it started on the device."""
    _wait(device)
    start = time.perf_counter()
    job()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def in_turn(
    jobs: Sequence[Callable[[], object]], repeats: int, device: torch.device, warm_up: bool = True
) -> list[float]:
    """Best time of each job in seconds, the jobs run in turn (A, B, A, B, ...) so that other load meets all of them.

    Args:
        jobs: what is compared.
        repeats: timed runs of each.
        device: where they run.
        warm_up: run each once before, untimed.
    """
    if warm_up:
        for job in jobs:
            job()
    times = [[timed(job, device) for job in jobs] for _ in range(max(1, int(repeats)))]
    return [min(column) for column in zip(*times, strict=True)]


def seconds_text(seconds: float) -> str:
    """A measured time: "12.3 s", "45.6 ms"."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def report(
    title: str,
    device: torch.device,
    comparisons: Sequence[Comparison],
    notes: Sequence[str] = (),
    markdown: str | None = None,
) -> None:
    """Prints the comparisons under a heading with the machine's facts, and writes them to a file if one is named."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    versions = (
        f"torch {torch.__version__}, MONAI {monai.__version__}, numpy {np.__version__}, scipy {scipy.__version__}"
    )
    header = ["what", "ours", "other", "ratio", "target", "met"]
    lines = [
        f"## {title}",
        "",
        f"{device} ({name}), {os.cpu_count()} CPU cores, {versions}; one process, both sides in turn, best of each.",
        "",
        markdown_table(header, [comparison.row() for comparison in comparisons]),
        "",
        *[f"- {note}" for note in notes],
    ]
    text = "\n".join(lines).rstrip() + "\n"
    print(text, flush=True)
    if markdown:
        Path(str(markdown)).write_text(text, encoding="utf-8")
