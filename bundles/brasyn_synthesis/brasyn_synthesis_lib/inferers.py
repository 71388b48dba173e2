# SPDX-License-Identifier: Apache-2.0
"""Inference that chooses the weights by the missing sequence."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import nn

from common.errors import InputError
from common.inferers import ViewsInferer
from common.io.weights import bare, build, load_into
from common.utils.images import as_tensor

from .data import weights_of
from .networks import EnlargedConv
from .standardisation import Standardisation
from .transforms import DIGEST, TARGET, meta_text

__all__ = ["TargetInferer", "multiplications_per_pixel", "to_ras"]

PROBE = 64  # pixels
MOST_SLICES = 16  # that are computed together


def multiplications_per_pixel(network: nn.Module, channels: int) -> float:
    """Multiplications of a U-Net's convolutions per pixel of its input, counted on a small image."""
    counted = []

    def count(layer: nn.Conv2d, _: tuple, out: torch.Tensor) -> None:
        share = 4 / 9 if isinstance(layer, EnlargedConv) else 1.0
        counted.append(share * layer.weight[0].numel() * out.shape[1:].numel())

    hooks = [module.register_forward_hook(count) for module in network.modules() if isinstance(module, nn.Conv2d)]
    parameter, mode = next(network.parameters()), network.training
    network.eval()
    with torch.inference_mode():
        network(torch.zeros(1, channels, PROBE, PROBE, device=parameter.device, dtype=parameter.dtype))
    network.train(mode)
    for hook in hooks:
        hook.remove()
    return sum(counted) / PROBE**2


def to_ras(affine: Any) -> tuple[list[int], list[int]]:
    """Permutation of a volume's axes, then flips, that bring it to the axes right, anterior, superior.

    Args:
        affine: 4x4, or a batch of one.
    """
    matrix = np.asarray(affine, dtype=np.float64).reshape(-1, 4, 4)[0]
    found = nib.orientations.io_orientation(matrix)
    order = [int(a) for a in np.argsort(found[:, 0])]
    return order, [axis for axis, source in enumerate(order) if found[source, 1] < 0]


class TargetInferer(Inferer):
    """Nine views with the weights of the sequence that a case lacks.

    The target and its standardisation's hash stand in the image's meta data (``transforms.StandardiseInputsd``). A
    network whose weights hold that standardisation is used as it is; else that of the target's own weights is built,
    once. The volume is worked on in the axes right, anterior, superior, as in training, and the result brought back.

    Args:
        ckpt_dir: the bundle's ``models``.
        weights: a weights file in place of the bundle's, or None.
        views: 9, or 1 for axial slices alone.
        memory_gb: memory of the process; below 1 GiB fewer slices than 16 are computed together.
        outputs: see ``common.inferers.ViewsInferer``.
        progress: show a bar over the views.

    Raises:
        InputError: no weights for the target, or others than those that the inputs were standardised for.
    """

    def __init__(
        self,
        ckpt_dir: str,
        weights: str | None = None,
        views: int = 9,
        memory_gb: float = 16.0,
        outputs: Sequence[str] = ("mean",),
        progress: bool = False,
    ) -> None:
        super().__init__()
        self.ckpt_dir, self.weights = ckpt_dir, weights
        batch_size = max(1, min(MOST_SLICES, int(MOST_SLICES * memory_gb)))
        self.inferer = ViewsInferer(views, batch_size=batch_size, outputs=outputs, progress=progress)
        self._loaded: dict[tuple, nn.Module] = {}

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Result ``(1, len(outputs), H, W, D)`` of ``(1, 3, H, W, D)`` with meta data."""
        assert isinstance(inputs, MetaTensor)  # what was standardised tells for which weights
        network = self.network_for(inputs.meta, network)
        order, flips = to_ras(inputs.affine)
        volume = as_tensor(inputs).permute(0, 1, *[a + 2 for a in order]).flip([a + 2 for a in flips])
        made = self.inferer(volume, network, *args, **kwargs).flip([a + 2 for a in flips])
        return made.permute(0, 1, *[a + 2 for a in np.argsort(order).tolist()]).contiguous()

    def network_for(self, meta: dict, network: Any) -> Any:
        """The network with the weights that the meta data asks for."""
        digest, target = meta_text(meta, DIGEST), meta_text(meta, TARGET)
        generator: Any = bare(network)
        if self.weights is None and generator.tops.any() and Standardisation.of(network).digest == digest:
            return network
        path = weights_of(self.ckpt_dir, target, self.weights)
        device = next(network.parameters()).device
        key = (path, os.path.getmtime(path) if os.path.isfile(path) else None, str(device))
        if key not in self._loaded:
            own = load_into(build(type(bare(network)), path, {}), path)
            self._loaded = {key: own.to(device).eval()}
        if Standardisation.of(self._loaded[key], path).digest != digest:
            raise InputError("other weights lie here than those that the inputs were standardised for", path)
        return self._loaded[key]

    def work(self, inputs: torch.Tensor, network: nn.Module) -> int:
        """Multiplications for a case, for a time estimate."""
        pixels = sum(count * height * width for count, height, width in self.inferer.stacks(inputs))
        channels = inputs.shape[1] * self.inferer.slicers[0].neighbours
        return int(pixels * multiplications_per_pixel(bare(network), channels))
