# SPDX-License-Identifier: Apache-2.0
"""Frames of two made probes as PNG files, in a folder of choice or in the user's cache."""

from __future__ import annotations

import os
from numbers import Integral
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from common.data.sample_data.cache import build_once, cache_root
from common.data.sample_data.cases import shown
from common.data.sample_data.ultrasound import DEFAULT_SIZE, PROBES, make_frame
from common.io.files import replacing

__all__ = ["sample_probes", "write_probe_frames"]

VERSION = 1  # raise when the same seed gives other pixels: old caches are then left aside


def write_probe_frames(
    out_dir: str | os.PathLike,
    frames: int = 16,
    size: int = DEFAULT_SIZE,
    seed: int = 0,
    fan: bool = False,
    progress: bool = True,
) -> list[Path]:
    """Write ``low/frame-000.png`` and so on, ``high/`` of other tissue, and ``truth/``, the clean pictures of low.

    Frame ``i`` of a probe depends on ``seed``, ``size``, ``fan`` and ``i`` only. Files appear whole or not at all;
    those with the same settings are kept.

    Args:
        out_dir: made if missing.
        frames: of each probe, at least 1.
        size: edge length in pixels, see :func:`make_frame`.
        seed: any integer from 0.
        fan: sectors on black with a line of text, instead of full rectangles.
        progress: show a progress bar (one plain line without tqdm).

    Returns:
        The frames of both probes, in order.

    Raises:
        FileExistsError: a file of that name was made with other settings.
        ValueError: a setting is out of range.
    """
    for name, value, least in (("frames", frames, 1), ("seed", seed, 0)):
        if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r}")
    root = Path(out_dir)
    jobs = [(side, i, root / side / f"frame-{i:03d}.png") for side in PROBES for i in range(frames)]
    missing = []
    for side, i, path in jobs:
        clean = root / "truth" / path.name
        wanted = _description(seed, size, fan)
        if not (_is_ours(path, wanted) and (side != "low" or _is_ours(clean, wanted))):
            missing.append((side, i, path, clean))
    for side, i, path, clean in shown(missing, "sample frames") if progress else missing:
        number = int(np.random.SeedSequence([seed, list(PROBES).index(side), i]).generate_state(1, np.uint64)[0])
        frame = make_frame(number, PROBES[side], size, fan)
        if side == "low":
            _write(frame["clean"], clean, _description(seed, size, fan))
        _write(frame["image"], path, _description(seed, size, fan))
    return [path for _, _, path in jobs]


def sample_probes(frames: int = 16, seed: int = 0, cache_dir: str | os.PathLike | None = None) -> Path:
    """Return a folder of sample frames, made on first use (a few seconds) and kept.

    Args:
        frames: of each probe.
        seed: any integer from 0.
        cache_dir: where the folder is kept; by default ``restoration-bundles`` in the user's cache folder.
    """
    name = f"ultrasound-v{VERSION}-seed{seed}-n{frames}"
    root = cache_root() if cache_dir is None else Path(cache_dir)
    folder = build_once(root / name, lambda folder: write_probe_frames(folder, frames, seed=seed))
    write_probe_frames(folder, frames, seed=seed)  # what a cleaner of caches has removed is made again
    return folder


def _description(seed: int, size: int, fan: bool) -> str:
    kind = "fan" if fan else "rectangle"
    return f"synthetic, not for diagnosis; ultrasound v{VERSION}, seed {seed}, {size} pixels, {kind}"


def _is_ours(path: Path, description: str) -> bool:
    """Tell whether a frame is there; raise FileExistsError for a file that is not ours."""
    if not path.is_file():
        return False
    try:
        with Image.open(path) as picture:
            found = picture.info.get("Description")
    except OSError as error:
        raise FileExistsError(f"{path} is damaged; remove it to have it made again") from error
    if found != description:
        raise FileExistsError(f"{path} was made with other settings; choose another folder or remove it")
    return True


def _write(pixels: np.ndarray, path: Path, description: str) -> None:
    note = PngInfo()
    note.add_text("Description", description)
    with replacing(path) as unfinished:
        Image.fromarray(pixels).save(unfinished, pnginfo=note)
