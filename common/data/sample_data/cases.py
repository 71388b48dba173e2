# SPDX-License-Identifier: Apache-2.0
"""Synthetic brain cases as NIfTI files in the BraTS layout, in a folder of choice or in the user's cache."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from numbers import Integral
from pathlib import Path

import nibabel as nib
import numpy as np
from monai.utils import optional_import
from nibabel.filebasedimages import ImageFileError

from common.data.sample_data.anatomy import load_template
from common.data.sample_data.brain import DEFAULT_SHAPE, SEQUENCES, check_shape, make_brain_case
from common.data.sample_data.cache import build_once, cache_root
from common.io.files import replacing

VERSION = 1  # raise when the same seed gives other voxels: old caches are then left aside


def write_brain_cases(
    out_dir: str | os.PathLike,
    subjects: int = 4,
    shape: Sequence[int] = DEFAULT_SHAPE,
    seed: int = 0,
    progress: bool = True,
) -> list[Path]:
    """Write ``<out_dir>/sample-000/sample-000-t1n.nii.gz`` and so on: int16 images, uint8 ``-seg``.

    Case ``i`` depends on ``seed``, ``shape`` and ``i`` only, so a set can be enlarged later. Files appear whole or not
    at all; complete cases with the same settings are kept, incomplete ones are made again.

    Args:
        out_dir: made if missing.
        subjects: how many cases, at least 1.
        shape: voxels along right, anterior and superior, see :func:`make_brain_case`.
        seed: any integer from 0.
        progress: show a progress bar (one plain line without tqdm).

    Returns:
        The case folders, in order.

    Raises:
        FileExistsError: a file of that name is damaged, or made with another seed, shape or generator version.
        ImportError: nilearn is not installed.
        ValueError: a setting is out of range.
    """
    shape = check_shape(shape)
    for name, value, least in (("subjects", subjects, 1), ("seed", seed, 0)):
        if not isinstance(value, Integral) or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r}")
    folders = [Path(out_dir) / f"sample-{i:03d}" for i in range(subjects)]
    # 64 bits from (seed, i): neighbouring seeds share no subject.
    seeds = [int(np.random.SeedSequence([seed, i]).generate_state(1, np.uint64)[0]) for i in range(subjects)]
    missing = [pair for pair in zip(folders, seeds, strict=True) if not _is_complete(*pair, shape)]
    if missing:
        load_template()  # a missing nilearn is reported before anything is shown or written
    for folder, case_seed in shown(missing, "sample brains") if progress else missing:
        _write_case(folder, case_seed, shape)
    return folders


def sample_brains(
    subjects: int = 4,
    shape: Sequence[int] = DEFAULT_SHAPE,
    seed: int = 0,
    cache_dir: str | os.PathLike | None = None,
) -> Path:
    """Return a folder of sample cases, made on first use (about 20 seconds for four) and kept.

    Args:
        subjects: how many cases.
        shape: voxels along right, anterior and superior.
        seed: any integer from 0.
        cache_dir: where the folder is kept; by default ``restoration-bundles`` in the user's cache folder
            (``$XDG_CACHE_HOME`` or ``~/.cache``), which :func:`is_sample` recognises.

    Raises:
        ImportError: nilearn is not installed and the cases are not there yet.
        ValueError: a setting is out of range.
    """
    shape = check_shape(shape)
    name = f"brain-v{VERSION}-{'x'.join(map(str, shape))}-seed{seed}-n{subjects}"
    root = cache_root() if cache_dir is None else Path(cache_dir)
    folder = build_once(root / name, lambda folder: write_brain_cases(folder, subjects, shape, seed))
    write_brain_cases(folder, subjects, shape, seed)  # what a cleaner of caches has removed is made again
    return folder


def shown(items: list, title: str) -> Iterable:
    """Iterate over ``items`` under a progress bar, or after a plain line where tqdm is missing or nothing is to do."""
    tqdm, has_tqdm = optional_import("tqdm", name="tqdm")
    if items and has_tqdm:
        return tqdm(items, desc=title, unit="case")
    if items:
        print(f"making {len(items)} {title}", flush=True)
    return items


def _file(folder: Path, kind: str) -> Path:
    return folder / f"{folder.name}-{kind}.nii.gz"


def _description(seed: int) -> str:
    """Text for the NIfTI field ``descrip``, which holds 80 bytes."""
    return f"synthetic, not for diagnosis; brain v{VERSION}, seed {seed}"


def _is_complete(folder: Path, seed: int, shape: tuple[int, int, int]) -> bool:
    """Tell whether all five files are there; raise FileExistsError for a file that is not ours."""
    files = [_file(folder, kind) for kind in (*SEQUENCES, "seg")]
    for file in filter(Path.is_file, files):
        try:
            image = nib.load(file)
        except (ImageFileError, EOFError) as error:
            raise FileExistsError(f"{file} is damaged; remove it to have it made again") from error
        assert isinstance(image, nib.Nifti1Image)  # by its name
        if image.shape != shape or image.header["descrip"].item().decode("latin-1") != _description(seed):
            raise FileExistsError(f"{file} was made with other settings; choose another folder or remove it")
    return all(map(Path.is_file, files))


def _write_case(folder: Path, seed: int, shape: tuple[int, int, int]) -> None:
    """Make one case and write its five files, each under a temporary name first."""
    case = make_brain_case(seed, shape)
    for kind in (*SEQUENCES, "seg"):
        image = nib.Nifti1Image(case[kind].astype(np.uint8 if kind == "seg" else np.int16), case["affine"])
        image.set_qform(case["affine"], code=1)
        image.set_sform(case["affine"], code=1)
        image.header.set_xyzt_units("mm")
        image.header["descrip"] = _description(seed)
        with replacing(_file(folder, kind)) as unfinished:
            nib.save(image, unfinished)
