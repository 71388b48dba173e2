# SPDX-License-Identifier: Apache-2.0
"""Check that a bundle infers, on small made data, in the bundle's folder as the working directory."""

from __future__ import annotations

import contextlib
import importlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.bundle import ConfigWorkflow

from .network import quiet

__all__ = ["check_inference", "config", "made_data", "run_inference"]

SEQUENCES = ("t1n", "t1c", "t2w", "t2f")
SHAPE = (96, 96, 16)  # voxels of a scan, a slice as large as the crops that lesion_msgan trains on
FRAME = 96  # pixels of a frame's edge


def config() -> dict[str, Any]:
    """The bundle's ``inference.json``, unparsed."""
    return json.loads(Path("configs/inference.json").read_text(encoding="utf-8"))


@contextlib.contextmanager
def made_data() -> Iterator[Path]:
    """A folder of small sample data in the layout that the bundle trains on, for as long as the context lasts.

    Frames of two probes in ``low/`` and ``high/`` for a bundle that gives pictures, else two subjects of four sequences
    and a segmentation. Its parent holds nothing else and takes results.
    """
    sample_data = importlib.import_module("common.data.sample_data")  # only now: a zip brings its own
    with tempfile.TemporaryDirectory() as outside:
        folder = Path(outside, "data")
        if config().get("displayable_configs", {}).get("result_extension") == ".png":
            sample_data.write_probe_frames(folder, 2, FRAME, progress=False)
        else:
            sample_data.write_brain_cases(folder, 2, SHAPE, progress=False)
        yield folder


def run_inference(source: Path, out: Path, asked: dict[str, Any]) -> list[str]:
    """Runs the inference workflow on the CPU; gives the reasons of the cases that failed.

    Args:
        source: the case.
        out: folder for the results.
        asked: further keys.
    """
    given: dict[str, Any] = {
        "bundle_root": ".",
        "dataset_dir": str(source),
        "output_dir": str(out),
        "device": "cpu",
        "amp": False,
    }
    with quiet():
        workflow = ConfigWorkflow(
            "configs/inference.json", "configs/metadata.json", False, workflow_type="infer", **given, **asked
        )
        workflow.initialize()
        try:
            workflow.run()
        except SystemExit:  # the summary of failed cases
            return [reason for _, reason in workflow.parser.get_parsed_content("dataset").all_failures()]
    return []


def check_inference(name: str) -> list[str]:
    """The inference workflow makes a result of a small made case, once for each target and with the detector."""
    wrong = []
    with made_data() as folder:
        for number, (asked, source) in enumerate(_requests(folder)):
            out = folder.with_name(f"out-{number}")
            out.mkdir()
            told = f"target {asked['target']}: " if "target" in asked else ""
            try:
                reasons = run_inference(source, out, asked) or _check_results(out)
            except Exception as error:  # the other targets are still tried
                cause = importlib.import_module("common.io.inputs").root_cause(error)  # only now: a zip brings its own
                reasons = [" ".join(str(cause).split())[:200] or type(cause).__name__]
            wrong += [told + reason for reason in reasons]
    return wrong


def _requests(folder: Path) -> list[tuple[dict[str, Any], Path]]:
    """What is asked for, so that all of a bundle's weights are used, and the case to do it with."""
    if (folder / "low").is_dir():
        return [({}, folder / "low" / "frame-000.png")]
    case = folder / "sample-000"
    if "target" in config():
        return [({"target": target, "views": 1}, case) for target in SEQUENCES]
    asked: dict[str, Any] = {"detector": "network"} if "detector_weights" in config() else {}
    if "scale" in config():
        asked["scale"] = [1, 1, 2]
    return [(asked, case / f"{case.name}-t1c.nii.gz")]


def _check_results(out: Path) -> list[str]:
    ending = config()["displayable_configs"]["result_extension"]
    results = [path for path in out.rglob(f"*{ending}") if path.is_file()]
    if not results:
        return [f"no {ending} file came"]
    scans = [path for path in results if ending == ".nii.gz"]
    return [
        f"{p.name} holds values that are not finite"
        for p in scans
        if not np.isfinite(nib.Nifti1Image.from_filename(p).dataobj).all()
    ]
