# SPDX-License-Identifier: Apache-2.0
"""A folder of cases shared among processes, each case done once, and those that are finished left alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.transforms import Compose

from common.distributed import from_all, from_first, numbers, stop
from common.inputs import Cases, InputError
from common.runs import is_main_process
from common.savers import SaveRestoredd

__all__ = ["SharedCases", "plan"]

logger = logging.getLogger(__name__)


def plan(find: Callable[[], Mapping[str, list]], postprocessing: Compose) -> dict[str, Any]:
    """The cases still to do, listed by the first process alone, so that all count through the same list.

    A case is finished when all its results are there, complete, of the same weights and settings, and newer than the
    input. Two cases whose results would have the same name are refused before one process overwrites another's.

    Args:
        find: lists the cases: ``{"entries": [...], "failures": [(path, reason)]}``.
        postprocessing: transforms, among them the saver.

    Returns:
        The same with "done", the number of finished cases, which are not among the entries.
    """
    saver = next(t for t in postprocessing.flatten().transforms if isinstance(t, SaveRestoredd))
    return from_first(lambda: _unfinished(find(), saver))


def _unfinished(cases: Mapping[str, list], saver: SaveRestoredd) -> dict[str, Any]:
    entries, failures, done = [], list(cases["failures"]), 0
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
    if done:
        logger.info("%d cases are finished already, %d are left", done, len(entries))
    return {"entries": entries, "failures": failures, "done": done}


class SharedCases(Cases):
    """``Cases`` of several processes: each takes the next case that nobody has taken, so large ones hold up no one.

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
        self.order = self._taken(numbers())

    def _taken(self, free: Iterator[int]) -> Iterator[int]:
        for index in free:
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
