# SPDX-License-Identifier: Apache-2.0
"""The user's images on their way in: found, checked, loaded case by case, named in one line where they cannot work."""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import Compose, MapTransform
from torch.utils.data import IterableDataset, get_worker_info

from common.errors import InputError, one_line, shown
from common.io import bids
from common.io.files import storage_error
from common.io.find import any_case, distinct, files_matching, folders_below, natural
from common.io.hashes import SUFFIX as PROVENANCE
from common.io.hashes import mark
from common.io.headers import check_headers
from common.io.prefetch import CaseLoader
from common.io.series import is_dicom, series_files

__all__ = [
    "CaseLoader",
    "Cases",
    "CheckVoxelsd",
    "check_headers",
    "find_scans",
    "plain_errors",
    "root_cause",
]

logger = logging.getLogger(__name__)

LARGEST, SMALLEST = 1e18, 1e-30  # their squares, or quotients, overflow in single precision


def find_scans(
    dataset_dir: str | os.PathLike,
    pattern: str = "**/*.nii*",
    what: str = "one NIfTI file or DICOM series folder per case",
    unique: bool = True,
) -> list[str]:
    """List the images to work on, naturally sorted (`sub-2` before `sub-10`).

    In a folder, the files that match `pattern` are taken; if there is none, each folder in it that holds DICOM files
    is a case. Hidden files are ignored, and so are results of this collection (a `.provenance.json` beside them). Of a
    BIDS dataset `anat/` alone is read, and no `derivatives/` or `sourcedata/`, unless `pattern` names their folder.

    Args:
        dataset_dir: a folder, a DICOM series folder, or one image file, which is taken whatever its name.
        pattern: as for `glob`, below `dataset_dir`, `**` for any number of folders; an ending may be in capitals.
        what: the layout expected, for the error message.
        unique: take a file once that several links name.

    Raises:
        InputError: nothing there, nothing matches, or `dataset_dir` itself holds more than one DICOM series.
    """
    if not dataset_dir:
        raise InputError(f"dataset_dir is not given; expected {what}")
    root = os.path.normpath(os.path.expanduser(os.fspath(dataset_dir)))
    if not os.path.exists(root):
        raise InputError("no such file or folder", root)
    if os.path.isfile(root):
        return [root]
    names = files_matching(root, [any_case(pattern)])
    # Links to nowhere (images not fetched by git-annex) are kept, so that the check of headers names them.
    files = [p for p in names if not p.lower().endswith(".json") and not os.path.isdir(p)]
    found = [p for p in files if not os.path.exists(p + PROVENANCE)]
    skipped = len(files) - len(found)
    if skipped:
        logger.info("%s: %d earlier results (with %s beside them) are not read again", root, skipped, PROVENANCE)
    if not files:
        found = _dicom_folders(root)
        if found == [root]:
            series_files(root)
    hint = f" ({skipped} earlier results skipped; name one file to use it)" if skipped else ""
    if found and bids.is_dataset(root):
        found = bids.anatomical(found, root, pattern)
        hint = hint if found else " (of a BIDS dataset anat/ is read; name other folders with --pattern)"
    if not found:
        raise InputError(f"no file matches {pattern} under {root}{hint}; expected {what}")
    found = sorted(found, key=natural)
    return distinct(found) if unique else found


def _dicom_folders(root: str) -> list[str]:
    return [folder for folder, names in folders_below(root) if _holds_dicom(folder, names)]


def _holds_dicom(folder: str, entries: Iterable[str]) -> bool:
    """Whether one of the files `entries` of `folder` starts like a DICOM file; the index file DICOMDIR is none."""
    for name in entries:
        if name.startswith(".") or name == "DICOMDIR":
            continue
        if name.lower().endswith((".dcm", ".ima")) or is_dicom(os.path.join(folder, name)):
            return True
    return False


class CheckVoxelsd(MapTransform):
    """Refuse images whose voxels cannot work; stands after `LoadImaged` and `EnsureChannelFirstd`.

    Args:
        keys: images to check, each of shape (channels, H, W[, D]).
        spatial_dims: number of spatial axes.
        channels: number of channels.
        allow_missing_keys: as in every `MapTransform`.

    Raises:
        InputError: NaN, infinite, huge or all but equal voxels, a constant image, other numbers of axes or channels.
    """

    def __init__(
        self, keys: KeysCollection, spatial_dims: int = 3, channels: int = 1, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.spatial_dims = spatial_dims
        self.channels = channels

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a shallow copy of `data`, unchanged."""
        for key in self.key_iterator(data):
            reason = self._problem(torch.as_tensor(data[key]))
            if reason:
                raise InputError(reason, getattr(data[key], "meta", {}).get("filename_or_obj", "image"))
        return dict(data)

    def _problem(self, image: torch.Tensor) -> str | None:
        shape = tuple(image.shape)
        if len(shape) != self.spatial_dims + 1:
            return f"{len(shape) - 1}D image {shape[1:]} where a {self.spatial_dims}D one is meant"
        if shape[0] != self.channels:
            return f"{shape[0]} channel(s) where {self.channels} is meant"
        if image.numel() == 0:
            return f"no voxels (shape {shape[1:]})"
        low, high = (float(v) for v in torch.aminmax(image.float()))  # NaN if any voxel is NaN
        if not -float("inf") < low <= high < float("inf"):
            count = int((~torch.isfinite(image)).sum())
            return f"{count} voxel{'s are' if count > 1 else ' is'} NaN or infinite; replace them first"
        if low == high:
            return f"constant image: every voxel is {low:g}"
        if max(-low, high) > LARGEST or high - low < SMALLEST:
            return f"voxels from {low:g} to {high:g}: too near the ends of single precision; rescale them"
        return None


class Cases(IterableDataset):
    """Cases for inference: one that cannot be loaded is logged in one line and skipped, and the others go on.

    Iterate over it with `CaseLoader` (or any loader with `num_workers=0`).

    Args:
        data: one dictionary per case, a path (or list of paths) per key.
        transform: loads and prepares one case; a callable or a list of callables.
        failures: `(path, reason)` of cases refused before, from `check_headers`.

    Attributes:
        data: as given.
        failures: `(path, reason)` of every case that failed so far.
    """

    def __init__(
        self,
        data: Sequence[Mapping[Hashable, Any]],
        transform: Callable | Sequence[Callable] | None = None,
        failures: Iterable[tuple[str, str]] = (),
    ) -> None:
        self.data = list(data)
        self.transform = transform if isinstance(transform, Compose) else Compose(transform)
        self.failures: list[tuple[str, str]] = []
        self._left = set(range(len(self.data)))  # neither handed on nor failed yet
        self._failed: set[int] = set()
        for path, reason in failures:
            self.add(path, reason)
        self._refused = len(self.failures)

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[Any]:
        if get_worker_info() is not None:
            raise RuntimeError("Cases needs num_workers=0: failures in a worker process would be lost")
        for index in self.order():
            if index in self._failed:  # in an earlier pass
                continue
            item = self.data[index]
            try:
                case = self.transform(mark(item))  # hashed just before it is loaded: the sidecar tells what was read
            except Exception as error:
                cause = root_cause(error)
                logger.debug("%s", _case_name(item), exc_info=error)
                if isinstance(cause, InputError):
                    self.add(cause.path or _case_name(item), cause.reason)
                else:
                    self.add(_case_name(item), f"cannot be read ({one_line(cause)})")
                self._failed.add(index)
                self._left.discard(index)
                continue
            yield case
            self._left.discard(index)  # only now: a case lost between here and the consumer is told by `finish`

    def order(self) -> Iterable[int]:
        """Indices of the cases to load, one after the other."""
        return range(len(self.data))

    def processed(self) -> None:
        """Called by `CaseLoader` when a case that it handed on has been processed, or has failed."""

    def stop(self) -> None:
        """Called by `CaseLoader` when it asks for no more cases."""

    def add(self, path: str, reason: str) -> None:
        """Remember that the case `path` failed, and log it in one line."""
        self.failures.append((path, reason))
        logger.error("%s: %s", shown(path), reason)

    def finish(self, raise_error: bool = True) -> None:
        """Log the summary of the run, one line per failed case.

        Raises:
            SystemExit: with status 1, if a case failed and `raise_error`.
        """
        self._sum_up(self.all_failures(), len(self.data) + self._refused, raise_error)

    def all_failures(self) -> list[tuple[str, str]]:
        """`failures`, and cases that were lost on the way."""
        return self.failures + [(_case_name(self.data[i]), "was not processed") for i in sorted(self._left)]

    @staticmethod
    def _sum_up(failures: Sequence[tuple[str, str]], total: int, raise_error: bool) -> None:
        if not failures:
            logger.info("%d of %d cases done", total, total)
            return
        logger.error("%d of %d cases done, %d failed:", total - len(failures), total, len(failures))
        for path, reason in failures:
            logger.error("  %s: %s", shown(path), reason)
        if raise_error:
            raise SystemExit(1)


def _case_name(item: Mapping[Hashable, Any]) -> str:
    """Name a case by its only path, or by the folder that its several paths share."""
    values = [v for value in item.values() for v in (value if isinstance(value, (list, tuple)) else [value])]
    paths = [os.fspath(v) for v in values if isinstance(v, (str, os.PathLike))]
    if len(paths) < 2:
        return paths[0] if paths else "case"
    return os.path.commonpath(map(os.path.abspath, paths))


def root_cause(error: BaseException) -> BaseException:
    """Walk the chain of causes to the `InputError` in it, or else to the deepest cause.

    A loader's worker process passes on only the text of its error; an `InputError` is found in that too.
    """
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    for link in chain:
        quoted = re.search(r"^.*\bInputError: (.+)$", str(link), flags=re.MULTILINE)
        if quoted:
            return InputError(quoted[1])
        if isinstance(link, InputError):
            return link
    return chain[-1]


def _plain(error: BaseException) -> InputError | None:
    """What the user is told of an error in one line; None for one that needs its traceback."""
    cause = root_cause(error)
    return cause if isinstance(cause, InputError) else storage_error(error) or _memory_error(cause)


def _memory_error(error: BaseException) -> InputError | None:
    """What a training without room for its patches is told; the CPU's allocator has no error of its own."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        return InputError(f"not enough memory ({one_line(error)}); smaller patches or batches take less")
    return None


def _not_said_later(record: logging.LogRecord) -> bool:
    """A filter: whether a record tells more than the line at the end will."""
    error = sys.exc_info()[1]  # engines log while they handle it
    engines = record.exc_info or "is terminating due to exception" in str(record.msg)
    return not (engines and record.levelno >= logging.ERROR and error is not None and _plain(error) is not None)


class _EngineLogger(logging.getLoggerClass()):  # type: ignore[misc]  # whatever class another library has set
    def __init__(self, name: str, level: int = logging.NOTSET) -> None:
        super().__init__(name, level)
        self.addFilter(_not_said_later)


class _PlainHook:
    """Prints what the user is told of an error, and hands others to the hook that was there before."""

    def __init__(self, before: Callable[..., Any]) -> None:
        self.before = before

    def __call__(self, kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        told = _plain(error)
        if told is not None:
            print(f"error: {told}", file=sys.stderr)
        else:
            self.before(kind, error, traceback)


def plain_errors() -> None:
    """From now on, an uncaught error caused by an `InputError` or a full disk prints `error: <its line>` alone.

    For the first item of a config's `run`; the exit status stays 1, and other errors print as before. What MONAI's and
    ignite's engines log of such an error on its way, traceback and all, is left out.
    """
    if isinstance(sys.excepthook, _PlainHook):
        return
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.addFilter(_not_said_later)
    logging.setLoggerClass(_EngineLogger)  # engines and their handlers make theirs later

    in_thread = threading.excepthook

    def thread_hook(args: threading.ExceptHookArgs) -> None:
        # TensorBoard's writer hands its error to the main thread, which ends with it
        if args.exc_value is None or storage_error(args.exc_value) is None:
            in_thread(args)

    sys.excepthook = _PlainHook(sys.excepthook)
    threading.excepthook = thread_hook
