# SPDX-License-Identifier: Apache-2.0
"""A bundle's network and what a reader would take instead, on the same cases, in one process."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any

import monai
import torch
from monai.utils import set_determinism

from common import __version__
from common.errors import one_line
from common.io.inputs import root_cause
from common.utils.console import device_text, say
from common.utils.values import names, optional, value
from tools.rivals import Rival, rivals_of

from .evaluation import BundleEvaluation
from .scoreboard import NETWORK, SAMPLE, Scoreboard

__all__ = ["quality"]


def quality(
    name: str,
    dataset_dir: str | None = None,
    rivals: Any = "all",
    keys: Any = None,
    rival_weights: Any = None,
    data: str | None = None,
    out: str | None = None,
    seed: int = 0,
) -> None:
    """Score a bundle's network beside its rivals on whole volumes; a stopped run goes on with the same command.

    Writes OUT.csv (a line per method, case and setting), OUT.json (what was run) and OUT.md (mean and standard
    deviation, Wilcoxon's signed-rank test against the network from six cases on, seconds per case and multiplications
    per voxel). Rivals that are not installed or not allowed stand in the table with the reason.

    Args:
        name: bundle, such as mri_sr3d
        dataset_dir: folder of cases, as for the bundle's evaluation; the sample data's held-out cases if not given
        rivals: all, none, or a list of their short names such as "[spline,lrtv]"
        keys: further keys of the bundle's evaluation, such as "{'sequence': 't1n', 'test_scales': [[2,2,2]]}", or
            "{'crop': [64,64,32]}" for a part where a rival is slow
        rival_weights: what rivals need, such as "{'authors': 'model.pt'}"
        data: name of the data in the table; by default the folder's
        out: path of the results without an ending; by default below the bundle's eval folder
        seed: of all randomness
    """
    module = rivals_of(name)
    chosen_keys, given = (_mapping(text, key) for text, key in ((keys, "keys"), (rival_weights, "rival_weights")))
    folder = optional(dataset_dir)
    set_determinism(seed)
    evaluation = BundleEvaluation(name, {"dataset_dir": folder, "seed": seed, **chosen_keys}, module.WHOLE)
    methods = _wanted(module.rivals(evaluation, given), rivals)
    label = data or (Path(folder).name if folder else SAMPLE)
    stem = Path(out) if out else evaluation.root / "eval" / f"quality-{label.replace(' ', '-')}"
    board = Scoreboard(stem, _facts(evaluation, module, methods, label, chosen_keys, seed))
    _run(evaluation, methods, board, seed)
    caption = board.facts["caption"]
    text = f"## {name}, {label}\n\nMean ± standard deviation; {caption}.\n\n{board.table(module.subject)}"
    print("\n" + text, flush=True)
    stem.with_name(stem.name + ".md").write_text(text, encoding="utf-8")
    say(f"lines {board.csv}, table {stem}.md")


def _mapping(given: Any, key: str) -> dict[str, Any]:
    plain = value(given)
    if plain is not None and not isinstance(plain, Mapping):
        raise ValueError(f"{key} must be like {{'name': value}}, got {given!r}")
    return dict(plain or {})


def _caption(caption: str, keys: Mapping[str, Any]) -> str:
    """What the numbers are: a score of a part says so."""
    if slices := keys.get("slices"):
        caption = caption.replace("whole volumes", f"the middle {slices} axial slices")
    if not (crop := keys.get("crop")):
        return caption
    edges = " x ".join(str(edge) for edge in crop) if isinstance(crop, Sequence) else f"{crop}-voxel cube"
    caption = caption.replace("whole volumes", f"the middle {edges} of the foreground")
    return caption.replace("whole frames", f"the middle {crop} pixels each way of the ultrasound")


def _wanted(methods: Sequence[Rival], given: Any) -> list[Rival]:
    """The baseline, and the rivals asked for."""
    if given in ("all", "none"):
        return [m for m in methods if given == "all" or m.baseline]
    keys = names(given)
    unknown = set(keys) - {m.key for m in methods}
    if unknown:
        raise ValueError(f"no rival {', '.join(sorted(unknown))}; choose of {', '.join(m.key for m in methods)}")
    return [m for m in methods if m.baseline or m.key in keys]


def _facts(
    evaluation: BundleEvaluation,
    module: ModuleType,
    methods: Sequence[Rival],
    data: str,
    keys: Mapping[str, Any],
    seed: int,
) -> dict[str, Any]:
    network = {"name": NETWORK, "work": evaluation.work}
    listed = {m.key: {"name": m.name, "note": m.note, "reason": m.reason, "work": m.work} for m in methods}
    listed = {key: {n: v for n, v in facts.items() if v not in ("", None)} for key, facts in listed.items()}
    device = evaluation.evaluator.state.device
    return {
        "bundle": evaluation.bundle,
        "data": data,
        "keys": dict(keys),
        "seed": seed,
        "weights": evaluation.weights,
        "baseline": next(m.key for m in methods if m.baseline),
        "scores": list(module.SCORES),
        "lower": module.LOWER,
        "caption": _caption(module.CAPTION, keys),
        "methods": {**listed, NETWORK: network},
        "date": date.today().isoformat(),
        "machine": f"{device_text(device)} of {os.cpu_count()} cores, {platform.machine()}",
        "versions": {"restoration-bundles": __version__, "torch": torch.__version__, "monai": monai.__version__},
    }


def _run(evaluation: BundleEvaluation, methods: Sequence[Rival], board: Scoreboard, seed: int) -> None:
    """Every method on every case whose line is missing."""
    scores = board.facts["scores"]
    ready = [(method, method.apply) for method in methods if method.apply is not None]
    for index in range(len(evaluation.dataset)):
        due = [(method, apply) for method, apply in ready if not board.has(method.key, index)]
        if not due and board.has(NETWORK, index):
            continue
        item = evaluation.dataset[index]
        case, setting = str(item["case"]), str(item["setting"])
        if not board.has(NETWORK, index):
            prediction, seconds = evaluation.predict(item)
            board.facts["methods"][NETWORK]["work"] = evaluation.work
            board.add(NETWORK, index, case, setting, seconds, evaluation.score(prediction, item, scores))
        for method, apply in due:
            set_determinism(seed)
            start = time.perf_counter()
            try:
                made = apply(item)
                taken = time.perf_counter() - start if method.timed else None
                board.add(method.key, index, case, setting, taken, evaluation.score(made, item, scores))
            except Exception as error:  # a rival's failure is its own
                board.facts["methods"][method.key]["reason"] = f"failed at {setting} ({one_line(root_cause(error))})"
                say(f"{method.name}: {case} {setting} failed ({one_line(root_cause(error))})")
        done = [row for row in board.rows if row["case_number"] == str(index)]
        told = ", ".join(f"{row['method']} {float(row[scores[0]]):.4g}" for row in done if row.get(scores[0]))
        say(f"{case} {setting}: {scores[0]} {told}")
    board.save()
