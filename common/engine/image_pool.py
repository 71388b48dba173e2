# SPDX-License-Identifier: Apache-2.0
"""Image pool of earlier fakes for the discriminator, so that it does not forget what the generator did before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from common.utils.distributed import from_all, rank

__all__ = ["ImagePool"]


class ImagePool:
    """Past fakes, of which a share takes the place of present ones (Shrivastava et al. 2017; Mishra et al. 2018).

    Each call stores as many present fakes as it replaces; in a full pool they overwrite random old ones. Only while the
    pool holds fewer fakes than a call replaces, the discriminator is shown present ones alone. Every process has a pool
    of its own.

    Args:
        capacity: images kept.
        share: share of a batch of fakes that comes from the pool.

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
        count = min(round(len(fakes) * self.share), self.capacity)
        if not count:
            return fakes
        fakes = fakes.detach()
        images = fakes[:0] if self.images is None else self.images.to(fakes)
        kept, shown = fakes[-count:].clone(), fakes
        if len(images) >= count:
            drawn = torch.randperm(len(images), generator=generator)[:count]
            shown = torch.cat([images[drawn], fakes[count:]])
        room = min(count, self.capacity - len(images))
        places = torch.randperm(len(images), generator=generator)[: count - room]
        images[places] = kept[room:]
        self.images = torch.cat([images, kept[:room]])
        return shown

    def state_dict(self) -> dict[str, Any]:
        """The images of every process, for a checkpoint; all processes ask at the same time."""
        return {"images": from_all(None if self.images is None else self.images.cpu())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on with this process's images of a checkpoint."""
        self.images = state["images"][rank() % len(state["images"])]
