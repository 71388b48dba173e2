# SPDX-License-Identifier: Apache-2.0
"""What a part needs to know of another, for annotations."""

from __future__ import annotations

from typing import Any, Protocol

__all__ = ["Items"]


class Items(Protocol):
    """A list, or a dataset of known length."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...
