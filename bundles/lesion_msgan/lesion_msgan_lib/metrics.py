# SPDX-License-Identifier: Apache-2.0
"""Scores in the region, of the network and of what it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from monai.handlers import IgniteMetricHandler, from_engine
from monai.utils import optional_import

from common.errors import InputError
from common.io.weights import load_flat
from common.metrics import RegionGMS, RegionPSNR, RegionSSIM

__all__ = ["PerceptualDistance", "best_by", "region_scores"]

lpips, has_lpips = optional_import("lpips")

SCORES = {"psnr": RegionPSNR, "ssim": RegionSSIM, "gms": RegionGMS}


class PerceptualDistance(RegionSSIM):
    """LPIPS (Zhang et al., CVPR 2018) of regions scaled to [-1, 1]; smaller is better. Nothing is downloaded.

    Args:
        weights: state dict of a whole ``lpips.LPIPS(net="alex")``, as ``torch.save(model.state_dict(), path)`` writes.

    Raises:
        InputError: no such file, not these weights, or the package lpips is missing.
    """

    def __init__(self, weights: str) -> None:
        super().__init__("whole")
        if not has_lpips:
            raise InputError("lpips_weights needs the package lpips: pip install lpips")
        self.model = lpips.LPIPS(net="alex", pretrained=False, pnet_rand=True, verbose=False).eval()
        try:
            self.model.load_state_dict(load_flat(weights))
        except RuntimeError as error:
            raise InputError(f"{weights}: not the weights of lpips.LPIPS(net='alex')") from error

    def _compare(self, image: torch.Tensor, truth: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        pair = [x.float().cpu().expand(1, 3, -1, -1) * 2 - 1 for x in (image, truth)]
        with torch.no_grad():
            return self.model(*pair).reshape(())


def region_scores(
    but: str | None = None, others: Iterable[str] = (), lpips_weights: str | None = None
) -> dict[str, IgniteMetricHandler]:
    """PSNR, SSIM, gradient-magnitude similarity and, where weights are given, LPIPS of pictures cut to the region.

    The range is the truth's in the region, both images clipped to it, see ``common.metrics``.

    Args:
        but: the network's score to leave out, since it is the key metric already.
        others: keys of further pictures; their scores have the key and "_" in front. "bicubic" is the baseline.
        lpips_weights: see ``PerceptualDistance``.
    """
    kinds: dict[str, tuple[Callable[[str], Any], str]] = {name: (kind, "whole") for name, kind in SCORES.items()}
    if lpips_weights is not None:
        kinds["lpips"] = (PerceptualDistance, lpips_weights)
    scores = {}
    for key, prefix in (("pred", ""), ("bicubic", "baseline_"), *((other, f"{other}_") for other in others)):
        for name, (kind, argument) in kinds.items():
            if f"{prefix}{name}" != but:
                scores[f"{prefix}{name}_region"] = IgniteMetricHandler(
                    metric_fn=kind(argument), output_transform=from_engine([key, "label"])
                )
    return scores


def best_by(score: str) -> dict[str, IgniteMetricHandler]:
    """The score that chooses the weights to keep: ``psnr``, ``ssim`` or ``gms``."""
    transform = from_engine(["pred", "label"])
    return {f"{score}_region": IgniteMetricHandler(metric_fn=SCORES[score]("whole"), output_transform=transform)}
