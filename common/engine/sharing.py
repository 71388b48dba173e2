# SPDX-License-Identifier: Apache-2.0
"""What runs and processes share: a folder's cases, each done once, finished ones left alone; a training's batches."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from monai.transforms import Compose

from common.errors import InputError
from common.io.claims import Claim
from common.io.files import check_folder, remove_partials, writing
from common.io.inputs import Cases
from common.io.provenance import SUFFIX
from common.io.savers import ExpectedResults, SaveRestoredd
from common.utils.console import say
from common.utils.distributed import from_all, from_first, is_main_process, processes, rank, stop

__all__ = ["CaseList", "SharedCases", "batch_share", "batch_shares", "plan"]

logger = logging.getLogger(__name__)
WAIT = 0.5  # seconds between two looks at a case that another run is doing


def _saver(postprocessing: Compose) -> SaveRestoredd:
    return next(t for t in postprocessing.flatten().transforms if isinstance(t, SaveRestoredd))


class CaseList(list):
    """The cases of a folder, and as ``failures`` ``(path, reason)`` of those that were refused."""

    failures: Sequence[tuple[str, str]] = ()


def plan(find: Callable[[], Mapping[str, list]], postprocessing: Compose) -> CaseList:
    """The cases of a folder, listed by the first process alone, so that all count through the same list.

    Two cases whose results would have the same name are refused before one overwrites the other's.

    Args:
        find: lists the cases: ``{"entries": [...], "failures": [(path, reason)]}``.
        postprocessing: transforms, among them the saver.

    Raises:
        StorageError: results cannot be written to the output folder.
    """
    return from_first(lambda: _listed(find, _saver(postprocessing)))


def _listed(find: Callable[[], Mapping[str, list]], saver: SaveRestoredd) -> CaseList:
    check_folder(saver.output_dir)
    cases = find()
    entries, failures = CaseList(), list(cases["failures"])
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
        entries.append(entry)
    entries.failures = failures
    return entries


class SharedCases(Cases):
    """``Cases`` that several processes and several runs share: each is done once.

    Of the processes of one run each takes every n-th case, by its rank. A case is claimed by a lock file in the output
    folder; one that another run has claimed is left to it, and looked at again at the end: if that run was killed, this
    one does the case. A case is finished when all its results are there, complete, of the same weights, settings and
    input; then it is left alone.

    Args:
        data: the same list in every process; of a ``CaseList`` those that were refused count as failed.
        transform: as for ``Cases``.
        postprocessing: transforms, among them the saver.
    """

    def __init__(
        self,
        data: Sequence[Mapping],
        transform: Callable | Sequence[Callable] | None,
        postprocessing: Compose,
    ) -> None:
        super().__init__(data, transform, getattr(data, "failures", ()) if is_main_process() else ())
        self.saver = _saver(postprocessing)
        self.done = 0  # cases of this process that were finished already, or that another run has finished meanwhile
        self._left = set(range(rank(), len(self.data), processes()))
        self._claims: deque[Claim | None] = deque()  # of the cases handed on, in their order
        self._told: set[int] = set()  # cases that were said to be left to another run
        self._stopped = threading.Event()

    def order(self) -> Iterator[int]:
        """Indices of this process's cases that are not finished, each claimed.

        Raises:
            StorageError: a claim cannot be written.
        """
        self._stopped.clear()
        waiting = sorted(self._left - self._failed)
        while waiting:
            others = []
            for index in waiting:
                if self._stopped.is_set():
                    return
                state = self._claim(index)
                if state is None:
                    others.append(index)
                elif state:
                    yield index
                    if index in self._failed and self._claims:  # while it was loaded
                        self._give_back(self._claims.pop())
            if len(others) == len(waiting) and self._stopped.wait(WAIT):
                return
            waiting = others

    def _claim(self, index: int) -> bool | None:
        """Whether this process has to do a case, and holds its claim; None where another run is doing it."""
        try:
            expected = self.saver.expect(self.data[index])
        except Exception:  # not an image: told when it is loaded
            self._claims.append(None)
            return True
        claim = Claim(self._lock_file(expected), lambda: _remove_partials(expected.files))
        with writing(claim.path):
            claim.path.parent.mkdir(parents=True, exist_ok=True)
            taken = claim.take()
        if not taken:
            if index not in self._told:
                logger.info("%s: left to %s", expected.source, claim.holder())
            self._told.add(index)
            return None
        if expected.finished():  # asked only now: another run may just have done it
            claim.release()
            self._left.discard(index)
            self.done += 1
            return False
        self._say_replaced(expected)
        self._claims.append(claim)
        return True

    def _lock_file(self, expected: ExpectedResults) -> Path:
        """In the output folder itself: a case that fails shall leave no folder of its own."""
        folder = Path(self.saver.output_dir).expanduser()
        name = Path(os.path.relpath(expected.files[0], folder)).as_posix()
        return folder / f".{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}.lock"

    @staticmethod
    def _say_replaced(expected: ExpectedResults) -> None:
        if any(file.exists() for file in expected.files):
            reasons = "incomplete, or of another input, weights or settings"
            logger.info("%s: what is there is %s, and is done again", expected.source, reasons)

    @staticmethod
    def _give_back(claim: Claim | None) -> None:
        if claim is not None:
            claim.release()

    def processed(self) -> None:
        """Gives back the claim of the case that was handed on first."""
        if self._claims:
            self._give_back(self._claims.popleft())

    def stop(self) -> None:
        """Gives back all claims, and waits for no other run."""
        self._stopped.set()
        while self._claims:
            self.processed()

    def finish(self, raise_error: bool = True) -> None:
        """Waits for the other processes; the first one logs the summary of all, one line per failed case.

        Raises:
            SystemExit: with status 1 in every process, if a case of any of them failed and ``raise_error``.
        """
        failures = [failure for of_one in from_all(self.all_failures()) for failure in of_one]
        total = len(self.data) + sum(from_all(self._refused))
        done = sum(from_all(self.done))
        first = is_main_process()  # asked before the group is left, since an exit skips ``finalize``
        if failures and raise_error:
            stop()
        if first:
            if done:
                logger.info("%d cases were finished already, or by another run", done)
            self._sum_up(failures, total, raise_error)
        elif failures and raise_error:
            raise SystemExit(1)


def _remove_partials(files: Iterable[Path]) -> None:
    """What a killed run left beside results; the claim of the case is held."""
    for file in files:
        for name in (file, Path(f"{file}{SUFFIX}")):
            remove_partials(name)


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
