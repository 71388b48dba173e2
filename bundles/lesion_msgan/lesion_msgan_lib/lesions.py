# SPDX-License-Identifier: Apache-2.0
"""Made lesions for slices of any brain, so that a detector can be trained on healthy ones, too."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from monai.transforms import RandomizableTransform

from .slices import foreground

__all__ = ["RandLesion"]

ROUGHNESS = 0.5  # of a lesion's outline, as a share of its radius
GRID = 5  # of the random field that the outline follows
LEAST_DEVIATION = 0.4  # from the tissue around, in standard deviations of the slice: what an eye would see


class RandLesion(RandomizableTransform):
    """Blends a made lesion into a low-resolution slice and marks it in the slice's mask.

    An irregular ellipse with a swollen outer part, a rim and a core, each brighter or darker than the tissue by a
    random amount, so that no contrast tells a lesion by itself. Its middle is a random pixel of the foreground; what
    lies outside of the foreground stays as it is.

    An addition to the paper, whose detector is "pre-trained" on masks of its data.

    Args:
        prob: probability of a lesion.
        radius: least and greatest radius in low-resolution pixels, drawn with equal chances per octave.
    """

    def __init__(self, prob: float = 0.5, radius: Sequence[float] = (2.5, 11.0)) -> None:
        super().__init__(prob=prob)
        self.radius = tuple(radius)

    def randomize(self, data: torch.Tensor) -> None:
        """Draws the next lesion for a slice ``(h, w)``."""
        super().randomize(None)
        inside = np.argwhere(foreground(data).numpy())
        self.middle = inside[self.R.randint(len(inside))]
        low, high = np.log(self.radius)
        size = np.exp(self.R.uniform(low, high))
        self.axes = size * np.exp(self.R.uniform(-0.3, 0.3, 2))
        self.turn = self.R.uniform(0, np.pi)
        self.outline = self.R.uniform(-1, 1, (2, GRID, GRID)).astype(np.float32)
        self.inner, self.rim = self.R.uniform(0.25, 0.75), self.R.uniform(0.05, 0.3)
        signs = self.R.choice([-1, 1], 3)
        self.levels = signs * self.R.uniform(LEAST_DEVIATION, (1.6, 2.5, 2.0))  # swollen part, rim, core
        self.parts = self.R.uniform(size=2) < (0.75, 0.6)  # whether there are core and rim
        self.flatness = self.R.uniform(0.2, 0.8)

    def __call__(  # type: ignore[override]  # two tensors that change together
        self, image: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Slice ``(h, w)`` in the scan's units and its mask of 0 and 1, both as they were without a lesion."""
        self.randomize(image)
        if not self._do_transform:
            return image, mask
        tissue = foreground(image)
        level, inner = (self._distance(image.shape, field) for field in self.outline)
        shares = [torch.sigmoid((1 - level) * 8), *(torch.sigmoid((r - inner) * 10) for r in self._radii())]
        shares = [share * keep for share, keep in zip(shares, (1, self.parts[1], self.parts[0]), strict=True)]
        values = image[tissue]
        mean, spread = values.mean(), values.std() if values.numel() > 1 else values.new_ones(())
        made = image
        for share, deviation in zip(shares, self.levels.tolist(), strict=True):
            target = image + self.flatness * (mean - image) + deviation * spread
            made = made + share * (target - made)
        marked = (shares[0] > 0.5) & tissue
        if not marked.any():  # too small and uneven to hold a pixel
            return image, mask
        made = torch.where(tissue, made.clamp_min(float(image.min())), image)
        return made, torch.maximum(mask, marked.to(mask.dtype))

    def _radii(self) -> tuple[float, float]:
        """Of rim and core, as shares of the lesion's."""
        return min(0.95, self.inner + self.rim), self.inner

    def _distance(self, shape: Sequence[int], field: np.ndarray) -> torch.Tensor:
        """Distance from the middle in the ellipse's radii, made uneven; 1 on the outline."""
        y, x = torch.meshgrid(
            *(torch.arange(n) - m for n, m in zip(shape, self.middle.tolist(), strict=True)), indexing="ij"
        )
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        round_ = torch.hypot((cos * y + sin * x) / self.axes[0], (cos * x - sin * y) / self.axes[1])
        reach = 2 * float(self.axes.max())  # the field covers the lesion
        grid = torch.stack([x / reach, y / reach], dim=-1)[None].float()
        rough = F.grid_sample(
            torch.as_tensor(field)[None, None], grid, mode="bicubic", padding_mode="border", align_corners=True
        )
        return round_.float() * (1 + ROUGHNESS * rough[0, 0])
