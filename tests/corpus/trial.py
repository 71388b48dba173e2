# SPDX-License-Identifier: Apache-2.0
"""Sends kinds of files beside good ones through a bundle's inference, and tells what came of each."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

from .kinds import VOLUMES, Kind
from .series import write_series
from .volumes import put, raw

__all__ = ["KEYS", "Outcome", "fov", "send"]

KEYS = {
    "mri_sr3d": {"scale": "[2,2,2]"},
    "rslm_denoise": {},
    "us_despeckle": {"reference": None},
    "brasyn_synthesis": {"target": "t1c", "views": 1},
    "lesion_msgan": {"detector": "foreground"},
}
STEM = {"brasyn_synthesis": "case-t2w"}
GOOD = ("a-good", "z-good")  # first and last case of each folder
CORNERS = np.array(list(product((0, 1), repeat=3)))


@dataclass
class Outcome:
    """What came of a kind of file in a bundle.

    Args:
        path: the file made.
        failures: reasons that were given for it.
        results: files written for it, without sidecars.
        warnings: the log's warnings that name it.
        raised: an error that ended the whole run, where the file alone caused it.
    """

    path: Path | None
    failures: list[str] = field(default_factory=list)
    results: list[Path] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    raised: str = ""


@dataclass
class Run:
    """What a whole run left behind."""

    status: int = 0
    output: str = ""
    failures: list[tuple[str, str]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    raised: str = ""


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []
        self.warnings: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        if record.levelno == logging.WARNING:
            self.warnings.append(record.getMessage())


def _infer(bundle, run_files: Callable, folder: Path, out: Path, **keys) -> Run:
    run, handler, text = Run(), _Lines(), io.StringIO()
    keys = {**KEYS[bundle.name], **keys}
    given = bundle.keys("inference", out, dataset_dir=str(folder), device="cpu", amp=False, **keys)
    logging.getLogger().addHandler(handler)
    level = logging.getLogger("common").level
    logging.getLogger("common").setLevel(logging.INFO)
    try:
        with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
            run_files(bundle.files("inference"), "infer", **given)
    except SystemExit as end:
        run.status = int(end.code or 0)
    except BaseException as error:  # what no run should raise
        from common.io.inputs import root_cause

        run.status, run.raised = 1, f"{type(root_cause(error)).__name__}: {root_cause(error)}"
    finally:
        logging.getLogger().removeHandler(handler)
        logging.getLogger("common").setLevel(level)
    run.output, run.lines, run.warnings = text.getvalue(), handler.lines, handler.warnings
    return run


def good_case(name: str, folder: Path, dicom: bool = False) -> None:
    """A case that every bundle of its kind can work on."""
    folder.mkdir(parents=True, exist_ok=True)
    if dicom and name != "us_despeckle":
        write_series(folder)
        return
    if name == "us_despeckle":
        picture(folder / "frame.png")
        return
    stems = ["case-t1n", "case-t2w", "case-t2f"] if name == "brasyn_synthesis" else ["scan"]
    for stem in stems:
        put(folder, stem, raw(stem), ".nii.gz")


def picture(path: Path) -> None:
    """An 8-bit grey picture of 40 x 48 pixels."""
    Image.fromarray(levels()).save(path)


def levels(shape: Sequence[int] = (40, 48), seed: int = 0) -> np.ndarray:
    """Grey levels of 8 bits."""
    return np.random.default_rng(seed).integers(20, 250, shape).astype(np.uint8)


def snapshot(folder: Path) -> dict[str, str]:
    """Names, kinds and contents of everything in a folder."""
    found = {}
    for path, below, names in os.walk(folder):
        for name in (*below, *names):
            place = os.path.join(path, name)
            if os.path.islink(place):
                found[place] = os.readlink(place)
            elif os.path.isfile(place):
                with open(place, "rb") as stream:
                    found[place] = hashlib.sha256(stream.read()).hexdigest()
            else:
                found[place] = "other"
    return found


def _make(bundle, kind: Kind, folder: Path) -> Path | None:
    folder.mkdir(parents=True)
    stem = STEM.get(bundle.name, "scan")
    path = kind.make(folder, stem)
    if bundle.name == "brasyn_synthesis" and kind.bundles[0] in VOLUMES:
        for other in ("case-t1n", "case-t2f"):
            if kind.says is None:  # the same grid with other contents
                kind.make(folder, other)
            else:
                put(folder, other, raw(other), ".nii.gz")
    return path


def send(bundle, run_files: Callable, root: Path, kinds: Sequence[Kind], problems: list[str]) -> dict[str, Outcome]:
    """Outcomes by kind; what touches all of them is appended to the problems."""
    data, out = root / "data", root / "out"
    outcomes: dict[str, Outcome] = {}
    folders: dict[str, str] = {}
    for good in GOOD:
        good_case(bundle.name, data / good, kinds[0].dicom)
    for number, kind in enumerate(kinds):
        folders[kind.name] = f"k{number:03d}"
        outcomes[kind.name] = Outcome(_make(bundle, kind, data / folders[kind.name]))
    before = snapshot(data)
    run = _infer(bundle, run_files, data, out)
    if run.raised and len(kinds) > 1:
        problems.append(f"the run ended with {run.raised}")
        for number, kind in enumerate(kinds):
            outcomes |= send(bundle, run_files, root / f"alone{number}", [kind], [])
        return outcomes
    if snapshot(data) != before:
        problems.append("the input was touched")
    for good in GOOD:
        if not [*out.glob(f"{good}/*"), *out.glob(f"{good}_*")]:
            problems.append(f"{good} has no result")
    hidden = [str(path) for path in out.rglob(".*")]
    if hidden:
        problems.append(f"left behind: {hidden}")
    if "Traceback" in run.output:
        problems.append("a traceback was printed")
    told = [line for line in run.lines if line.startswith("  ")]
    for kind in kinds:
        outcome, place = outcomes[kind.name], str(data / folders[kind.name])
        outcome.failures = [line.strip() for line in told if f"{place}/" in line or f"{place}:" in line]
        written = [*sorted(out.glob(f"{folders[kind.name]}/**/*")), *sorted(out.glob(f"{folders[kind.name]}_*"))]
        outcome.results = [path for path in written if path.is_file() and not path.name.endswith(".json")]
        outcome.warnings = [line for line in run.warnings if place in line]
        outcome.raised = run.raised
        if any("\n" in line for line in (*outcome.failures, *outcome.warnings)):
            problems.append(f"{kind}: more than one line")
    refused = [kind for kind in kinds if outcomes[kind.name].failures]
    if run.status != bool(refused):
        problems.append(f"status {run.status} with {len(refused)} refused")
    return outcomes


def fov(affine, shape: Sequence[int]) -> np.ndarray:
    """The eight outer corners of a grid in mm."""
    voxels = CORNERS * np.array([*shape, 1, 1][:3]) - 0.5
    return voxels @ np.asarray(affine)[:3, :3].T + np.asarray(affine)[:3, 3]


def verdict(kind: Kind, outcome: Outcome) -> str:
    """What is wrong about an outcome; nothing where all is well."""
    import re

    failures, results = outcome.failures, outcome.results
    if outcome.raised:
        return f"ended the run: {outcome.raised}"
    if len(failures) > 1:
        return f"told {len(failures)} times: {failures}"
    if kind.says and not failures:
        return f"accepted, {len(results)} results"
    if kind.says and not re.search(kind.says, failures[0].split(": ", 1)[-1]):
        return f"refused with another reason: {failures[0]}"
    if kind.says is None and failures:
        return f"refused: {failures[0]}"
    if kind.says == "" and bool(failures) == bool(results):
        return f"{len(failures)} failures and {len(results)} results"
    if kind.warns and not any(re.search(kind.warns, line) for line in outcome.warnings):
        return f"no warning: {outcome.warnings}"
    if kind.results == 1 and failures and results:
        return f"refused, yet there are results: {results}"
    if kind.says is None and not results:
        return "no result"
    return "" if failures or kind.says else _right(kind, outcome)


def _right(kind: Kind, outcome: Outcome) -> str:
    main = next((p for p in outcome.results if "region" not in p.name and "histogram" not in p.name), None)
    if main is None:
        return f"no result among {outcome.results}"
    if not main.name.endswith(".nii.gz"):
        return ""
    result = nib.load(main)
    if not np.isfinite(result.get_fdata()).all():
        return "the result has NaN or infinite voxels"
    if not kind.affine:
        return ""
    affine = kind.place(outcome.path) if kind.place else nib.load(outcome.path).affine
    shape = np.array(kind.shape or [*nib.load(outcome.path).shape, 1, 1][:3])
    corners, wanted = fov(result.affine, result.shape), fov(affine, np.abs(shape))
    if (shape < 0).any():  # the same box from another corner
        corners, wanted = (np.stack([of.min(axis=0), of.max(axis=0)]) for of in (corners, wanted))
    away = np.abs(corners - wanted).max()
    if away > 1e-4 + 1e-6 * np.abs(wanted).max():
        return f"the result lies {away:.3g} mm away"
    units, qform = result.header.get_xyzt_units()[0], result.get_qform(coded=True)[0]
    if units != "mm":
        return f"units of {units}"
    apart = 0 if qform is None else np.abs(fov(qform, result.shape) - fov(result.affine, result.shape)).max()
    if apart > 0.01 * np.abs(result.affine).max():
        return "sform and qform of the result disagree"
    return ""
