# SPDX-License-Identifier: Apache-2.0
"""What processes share: a folder's cases, each done once, those that are finished left alone; a training's batches."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.transforms import Compose

from common.console import say
from common.distributed import from_all, from_first, numbers, processes, stop
from common.inputs import Cases, InputError
from common.runs import is_main_process
from common.savers import SaveRestoredd

__all__ = ["SharedCases", "batch_share", "batch_shares", "plan"]

logger = logging.getLogger(__name__)


def plan(find: Callable[[], Mapping[str, list]], postprocessing: Compose) -> dict[str, Any]:
    """The cases still to do, listed by the first process alone, so that all count through the same list.

    A case is finished when all its results are there, complete, of the same weights, settings and input. Two cases
    whose results would have the same name are refused before one process overwrites another's.

    Args:
        find: lists the cases: ``{"entries": [...], "failures": [(path, reason)]}``.
        postprocessing: transforms, among them the saver.

    Returns:
        The same with "done", the number of finished cases, which are not among the entries.
    """
    saver = next(t for t in postprocessing.flatten().transforms if isinstance(t, SaveRestoredd))
    return from_first(lambda: _unfinished(find(), saver))


def _unfinished(cases: Mapping[str, list], saver: SaveRestoredd) -> dict[str, Any]:
    entries, failures, done, replaced = [], list(cases["failures"]), 0, 0
    owners: dict[Path, str] = {}
    for entry in cases["entries"]:
        try:
            expected = saver.expect(entry)
        except InputError as error:
            failures.append((error.path, error.reason))
            continue
        except Exception:  # not an image: told when its turn comes, like all that only loading shows
            entries.append(entry)
            continue
        before = next((owners[file] for file in expected.files if file in owners), None)
        if before is not None:
            failures.append((expected.source, f"its result would overwrite that of {before}; rename one of them"))
            continue
        owners.update(dict.fromkeys(expected.files, expected.source))
        if expected.finished():
            done += 1
        else:
            entries.append(entry)
            replaced += any(file.exists() for file in expected.files)
    if done:
        logger.info("%d cases are finished already, %d are left", done, len(entries))
    if replaced:
        reasons = "incomplete, or of another input, weights or settings"
        logger.warning("%d cases have results there that are %s; these cases are done again", replaced, reasons)
    return {"entries": entries, "failures": failures, "done": done}


class SharedCases(Cases):
    """``Cases`` of several processes: each takes the next case that nobody has taken.

    With ``CaseLoader`` a process loads one case while it works on another. The last cases, as many as there are
    processes, are taken only by one that has nothing else to do.

    Args:
        data: the same list in every process, see ``plan``.
        transform, failures: as for ``Cases``.
        done: cases finished in an earlier run, for the summary.
    """

    def __init__(
        self,
        data: Sequence[Mapping],
        transform: Callable | Sequence[Callable] | None = None,
        failures: Iterable[tuple[str, str]] = (),
        done: int = 0,
    ) -> None:
        super().__init__(data, transform, failures if is_main_process() else ())
        self.done = done
        self._left.clear()  # holds this process's own cases only
        self.order = self._taken(numbers(), numbers())

    def _taken(self, early: Iterator[int], late: Iterator[int]) -> Iterator[int]:
        others = processes() > 1
        split = max(0, len(self.data) - processes()) if others else len(self.data)
        for index in early:
            if index >= split:
                break
            self._left.add(index)
            yield index
        while True:
            self.idle.wait()  # before the number is drawn: a case taken ahead would wait while others have none
            index = split + next(late)
            if index >= len(self.data):
                return
            self._left.add(index)
            yield index

    def finish(self, raise_error: bool = True) -> None:
        """Waits for the other processes; the first one logs the summary of all, one line per failed case.

        Raises:
            SystemExit: with status 1 in every process, if a case of any of them failed and ``raise_error``.
        """
        failures = [failure for of_one in from_all(self.all_failures()) for failure in of_one]
        total = len(self.data) + self.done + sum(from_all(self._refused))
        first = is_main_process()  # asked before the group is left, since an exit skips ``finalize``
        if failures and raise_error:
            stop()
        if first:
            self._sum_up(failures, total, raise_error)
        elif failures and raise_error:
            raise SystemExit(1)


def batch_share(batch: int) -> int:
    """A process's share of a batch, see ``batch_shares``."""
    return batch_shares([batch])[0]


def batch_shares(batches: Sequence[int]) -> list[int]:
    """Each process's share of batches; one line says so where the shares together are smaller than a batch.

    Raises:
        InputError: a batch smaller than the number of processes.
    """
    count = processes()
    for batch in sorted({int(batch) for batch in batches}):
        share = batch // count
        if not share:
            raise InputError(
                f"{count} processes cannot share a batch of {batch}; start at most {batch}, or give a larger batch"
            )
        if share * count < batch:
            together = f"{count} processes take {share} each of a batch of {batch}, {share * count} together"
            say(f"{together}; with a number of processes that divides {batch} it would be whole")
    return [int(batch) // count for batch in batches]
