# SPDX-License-Identifier: Apache-2.0
"""Make synthetic sample data: ``python -m tools.sample_data brain --out DIR --subjects 20``."""

from __future__ import annotations

from common.data.sample_data import write_brain_cases, write_probe_frames
from common.data.sample_data.brain import DEFAULT_SHAPE
from common.data.sample_data.ultrasound import DEFAULT_SIZE
from tools.command import run_command


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


def ultrasound(out: str, frames: int = 16, size: int = DEFAULT_SIZE, seed: int = 0, fan: bool = False) -> None:
    """Make B-mode frames of two probes that differ in aperture and compounding, of different tissue.

    Writes OUT/low/frame-000.png, OUT/high/frame-000.png and OUT/truth/frame-000.png, the clean echogenicity of low.
    The same seed gives the same frames. Complete frames are kept, so a stopped run can be started again.
    Synthetic, not for diagnosis.

    Args:
        out: folder to write to, made if missing
        frames: how many of each probe
        size: edge length in pixels
        seed: any whole number from 0
        fan: sectors on black with a line of text, as curved probes give, instead of full rectangles
    """
    paths = write_probe_frames(str(out), frames, size, seed, bool(fan))
    print(f"{len(paths)} frames in {out}")


def main() -> None:
    """Run the command line."""
    run_command({"brain": brain, "ultrasound": ultrasound}, "sample_data", [ImportError])


if __name__ == "__main__":
    main()
