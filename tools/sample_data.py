# SPDX-License-Identifier: Apache-2.0
"""Make synthetic sample data: ``python -m tools.sample_data brain --out DIR --subjects 20``."""

from __future__ import annotations

import sys

import fire

from common.sample_data import write_brain_cases
from common.sample_data.brain import DEFAULT_SHAPE


def brain(out: str, subjects: int = 4, shape: tuple[int, int, int] = DEFAULT_SHAPE, seed: int = 0) -> None:
    """Make brain MR cases with a tumour: T1, T1 with contrast, T2 and FLAIR, and a label map.

    Writes OUT/sample-000/sample-000-t1n.nii.gz, -t1c, -t2w, -t2f, -seg (BraTS layout, 1 mm, skull-stripped).
    The same seed gives the same images. Complete cases are kept, so a stopped run can be started again.
    Synthetic, not for diagnosis.

    Args:
        out: folder to write to, made if missing
        subjects: how many cases
        shape: voxels along right, anterior and superior, such as "[160,192,160]"; small shapes show the brain's middle
        seed: any whole number from 0
    """
    folders = write_brain_cases(str(out), subjects, shape, seed)
    print(f"{len(folders)} cases in {out}")


def main() -> None:
    """Run the command line; what the user can put right is told in one line, with exit status 1."""
    try:
        fire.Fire({"brain": brain}, name="sample_data")
    except (ValueError, TypeError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
