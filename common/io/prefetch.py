# SPDX-License-Identifier: Apache-2.0
"""One case ahead: loaded in a thread while the one before is processed."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from monai.data import DataLoader

if TYPE_CHECKING:
    from common.io.inputs import Cases

__all__ = ["CaseLoader"]


class CaseLoader(DataLoader):
    """Hand on `Cases` one at a time, each loaded in a thread while the one before is processed, and no further ahead.

    It has no length: an ignite engine that expects `len(cases)` items starts again from the first when some failed.

    Args:
        dataset: the cases; `processed` is called after each, and `stop` when no more are wanted.
    """

    dataset: Cases

    def __init__(self, dataset: Cases) -> None:
        super().__init__(dataset, batch_size=1, num_workers=0)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # torch names its own private iterator
        # not MONAI's ThreadDataLoader, which holds two more cases: two runs into one folder share cases one by one
        cases = super().__iter__()
        try:
            with ThreadPoolExecutor(1) as thread:
                try:
                    ahead = thread.submit(next, cases, None)
                    while (case := ahead.result()) is not None:
                        ahead = thread.submit(next, cases, None)
                        yield case
                        self.dataset.processed()
                finally:
                    self.dataset.stop()  # else a thread that waits for another run's case would hold up the end
        finally:
            self.dataset.stop()  # of what the thread has taken meanwhile

    def __len__(self) -> int:
        raise TypeError("the number of cases that can be loaded is not known before")
