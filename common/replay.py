# SPDX-License-Identifier: Apache-2.0
"""Earlier fakes for the discriminator, so that it does not forget what the generator did before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

__all__ = ["ReplayBuffer"]


class ReplayBuffer:
    """Past fakes, of which a share takes the place of present ones (Shrivastava et al. 2017; Mishra et al. 2018).

    Until it is full the discriminator is shown present fakes only. Each call stores as many present fakes as it would
    replace; once full, they overwrite random old ones.

    Args:
        capacity: images kept.
        share: share of a batch of fakes that comes from the buffer.

    Raises:
        ValueError: capacity below 1, or a share outside [0, 1].
    """

    def __init__(self, capacity: int, share: float = 0.5) -> None:
        if capacity < 1 or not 0 <= share <= 1:
            raise ValueError(f"need a capacity of 1 or more and a share in [0, 1], got {capacity} and {share}")
        self.capacity = capacity
        self.share = share
        self.images: torch.Tensor | None = None

    def __len__(self) -> int:
        return 0 if self.images is None else len(self.images)

    def mix(self, fakes: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Fakes of which a share is replaced by earlier ones; remembers as many of the present.

        Args:
            fakes: ``(B, C, H, W[, D])``, of one size in every call.
            generator: random numbers on the CPU.
        """
        count = round(len(fakes) * self.share)
        if not count:
            return fakes
        fakes = fakes.detach()
        kept = fakes[-count:].clone()
        if len(self) < self.capacity:
            parts = [kept] if self.images is None else [self.images.to(fakes), kept]
            self.images = torch.cat(parts)[: self.capacity]
            return fakes
        self.images = self.images.to(fakes)
        drawn = torch.randperm(self.capacity, generator=generator)[:count]
        shown = torch.cat([self.images[drawn], fakes[len(drawn) :]])
        places = torch.randperm(self.capacity, generator=generator)[:count]
        self.images[places] = kept[: len(places)]
        return shown

    def state_dict(self) -> dict[str, Any]:
        """The images, for a checkpoint."""
        return {"images": self.images}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on with the images of a checkpoint."""
        self.images = state["images"]
