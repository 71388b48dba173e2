# SPDX-License-Identifier: Apache-2.0
"""Reports of made runs, for the tests of the page and of the browser."""

import csv
import json
from pathlib import Path

import torch

from common.handlers import ScoreTable
from common.report import Report, Scores

HOSTILE = "<img src=x onerror=\"document.title='owned'\"></script><script>document.title='owned'</script>.nii.gz"


def metadata(folder: Path) -> Path:
    """A bundle's metadata."""
    path = folder / "metadata.json"
    path.write_text(json.dumps({"name": "b", "version": "0.1", "task": "Restoration"}), encoding="utf-8")
    return path


def _item(name: str, **more) -> dict:
    truth = torch.zeros(1, 24, 20, 16)
    truth[:, 4:20, 4:16, 3:13] = torch.rand(1, 16, 12, 10, generator=torch.Generator().manual_seed(0))
    return {"image": truth * 0.5, "pred": truth * 0.9, "affine": torch.eye(4), "case": name, "saved": [name], **more}


def training(folder: Path) -> Path:
    """The report of a training with two validated cases."""
    table = ScoreTable(folder, "spline", {"psnr": "dB"})
    with table.path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", "case", "setting", "psnr_whole", "baseline_psnr_whole"])
        writer.writerows([epoch, case, "2x", 30 + epoch, 29] for epoch in (0, 1) for case in ("a", "$x^2$"))
    report = Report(folder, metadata(folder), [["spline", "image"], ["network", "pred"], ["truth", "label"]])
    items = [_item(name, setting="2x") for name in ("a", "b")]
    report.pictures.cases = [report.pictures.draw({**item, "label": 2 * item["image"]}) for item in items]
    (folder / "terms.csv").write_text("iteration,epoch,term,value\n1,1,loss,0.5\n", encoding="utf-8")
    keys = [{"key": "seed", "value": "0", "meaning": "start of all randomness"}]
    return report.write("training", "Trained.", {"run": "sample-1"}, keys, Scores(table, 1), best=1)


def inference(folder: Path) -> Path:
    """The report of an inference on two images, one of which has a name that would be code."""
    columns = [["input", "image"], [HOSTILE, "pred"], ["uncertainty", "std"]]
    report = Report(folder, metadata(folder), columns)
    for name in (HOSTILE, "b"):
        item = _item("")
        del item["case"]
        report.pictures.cases.append(report.pictures.draw({**item, "saved": [name], "std": item["image"] / 9}))
    results = [{"input": HOSTILE, "files": [HOSTILE]}]
    return report.write(
        "inference", HOSTILE, {HOSTILE: HOSTILE}, results=results, failures=[{"input": "c", "reason": "no"}]
    )
