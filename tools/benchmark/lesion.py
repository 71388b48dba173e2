# SPDX-License-Identifier: Apache-2.0
"""Lesion-focused super-resolution: the region against the whole slice, the networks against bare convolutions."""

from __future__ import annotations

import torch
from monai.data import MetaTensor
from torch import nn

from common.inferers import RegionInferer
from common.io.weights import in_format
from lesion_msgan_lib.networks import MultiScaleGenerator, SRResNet, fold

from .compare import Comparison, check_counts, chosen_device, in_turn, report, seconds_text

PAPER = 7.75 / 4.04  # inference of MS-GAN against SRResNet, sec. 3
TOLERANCE = 0.15


def lesion(
    height: int = 60,
    width: int = 60,
    region: int = 16,
    slices: int = 4,
    device: str = "cpu",
    markdown: str | None = None,
    repeats: int = 3,
) -> None:
    """Measure lesion_msgan: region against whole slice, throughput against convolutions, MS-GAN against SRResNet.

    Weights do not matter for speed, so the networks are untrained. The defaults are BraTS slices of 240 x 240 pixels at
    a quarter of the resolution, and a region of 64 x 64 pixels.

    Args:
        height: of a low-resolution slice, in pixels
        width: of a low-resolution slice, in pixels
        region: edge of the lesion's region, in low-resolution pixels
        slices: slices at a time
        device: such as cpu or cuda
        markdown: file to write the table to
        repeats: timed runs of each side
    """
    check_counts(height=height, width=width, region=region, slices=slices, repeats=repeats)
    if region > min(height, width):
        raise ValueError(f"region {region} is larger than the slice of {height} x {width} pixels")
    where = chosen_device(device)
    form = torch.channels_last
    networks = MultiScaleGenerator().eval(), SRResNet().eval()
    work, single_work = (network.multiplications for network in networks)
    shares = _shares(networks[0])
    multi, single = (in_format(fold(network), form, where) for network in networks)
    volume = torch.rand(1, 1, height, width, slices, device=where)
    top, left = (height - region) // 2, (width - region) // 2
    box = torch.tensor([(top, top + region), (left, left + region), (0, slices)])
    focused = MetaTensor(volume, meta={"region": box})
    inferer = RegionInferer(batch_size=slices)
    flat = volume[0].movedim(-1, 0).contiguous(memory_format=form)
    bare = in_format(nn.Conv2d(64, 64, 3, padding=1), form, where)
    # the generator's two grids, in the shares of its work that they have
    coarse = torch.rand(slices, 64, height, width, device=where).contiguous(memory_format=form)
    fine = torch.rand(slices, 64, 2 * height, 2 * width, device=where).contiguous(memory_format=form)
    passes = [max(1, round(share / bare.weight.numel() / n)) for share, n in zip(shares, (1, 4), strict=True)]

    def run(network: nn.Module, image: torch.Tensor) -> None:
        with torch.inference_mode():
            network(image)

    def convolutions() -> None:
        with torch.inference_mode():
            for _ in range(passes[0]):
                bare(coarse)
            for _ in range(passes[1]):
                bare(fine)

    jobs = [lambda: inferer(focused, multi), lambda: run(multi, flat), lambda: run(single, flat), convolutions]
    focused_time, whole_time, single_time, bare_time = in_turn(jobs, repeats, where)
    pixels = slices * height * width
    rate = work * pixels / whole_time
    peak = bare.weight.numel() * pixels * (passes[0] + 4 * passes[1]) / bare_time
    ratio = whole_time / single_time
    report(
        f"lesion: {slices} slices of {height} x {width}, region of {region} x {region} low-resolution pixels",
        where,
        [
            Comparison(
                "the region against the whole slice, the same network, times as fast",
                seconds_text(focused_time),
                seconds_text(whole_time),
                whole_time / focused_time,
                least=1.0,
            ),
            Comparison(
                "generator against a bare 3x3 convolution of 64 filters, multiplications per second",
                f"{rate / 1e9:.1f} G/s",
                f"{peak / 1e9:.1f} G/s",
                rate / peak,
                least=0.85,
            ),
            Comparison(
                f"MS-GAN's time in SRResNet's, at most {1 + TOLERANCE:.2f} of the paper's {PAPER:.2f}",
                seconds_text(whole_time),
                seconds_text(single_time),
                ratio / PAPER,
                most=1 + TOLERANCE,
            ),
        ],
        [
            f"MS-GAN takes {ratio:.2f} times as long as SRResNet (the paper: {PAPER:.2f});"
            f" {work} and {single_work} multiplications per low-resolution pixel.",
            f"The region path reads {inferer.halo} pixels around the region and also interpolates the whole slice.",
        ],
        markdown,
    )


def _shares(network: MultiScaleGenerator) -> tuple[int, int]:
    """Multiplications per low-resolution pixel on the low-resolution grid, and on the finer ones."""
    parts = (network.enter, network.blocks, network.leave, network.to_x2)
    coarse = sum(m.weight.numel() for part in parts for m in part.modules() if isinstance(m, nn.Conv2d))
    return coarse, network.multiplications - coarse
