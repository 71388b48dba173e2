# SPDX-License-Identifier: Apache-2.0
"""Repeat a table of a bundle's paper: ``python -m tools.experiments NAME TABLE [--rows A,B] [--budget small]``.

What a table is made of stands in ``bundles/NAME/docs/experiments.json``: rows with their overlays and keys, the paper's
numbers, and the keys of the small budget.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.handlers.scores import markdown_table, mean_and_sd, shown
from common.io.files import replacing
from common.io.weights import load_flat
from common.utils.values import value
from tools.command import run_command
from tools.package import bundle_folder, bundle_names

__all__ = ["experiments", "main", "report", "tables_of"]


def experiments(
    name: str,
    table: str | None = None,
    rows: Any = None,
    budget: str = "small",
    dataset_dir: str | None = None,
    split: str | None = None,
    seed: int = 0,
    keys: Any = None,
    weights: str | None = None,
    out: str = "experiments",
) -> None:
    """Train the rows of a paper's table one after the other, evaluate each on the same cases, and write one table.

    All rows see the same data, seed and number of generator steps. A training goes on where it stopped, and a finished
    row is not done again: repeat the command after a stop. It writes OUT/NAME-TABLE-BUDGET.md and .csv.

    Args:
        name: the bundle, such as rslm_denoise
        table: of the paper; without it, the bundle's tables are listed
        rows: names of rows, by commas; all by default
        budget: `small`, about an hour for a table on two cores, or `paper`
        dataset_dir: folder of scans; the sample data by default
        split: JSON file with the subjects of training, validation and test
        seed: of each row
        keys: further keys of all rows' trainings and evaluations, such as
            "{'sequence': 'T1w', 'subjects_table': 'kirby21.csv'}"
        weights: which of a row stand for it, `last` or `best`; by default those that the table names: `last` where a
            row has a critic
        out: folder for tables and runs
    """
    if name not in bundle_names():
        raise ValueError(f"no bundle is called {name}; there are {', '.join(bundle_names())}")
    tables = tables_of(name)
    if table is None:
        for key, content in tables.items():
            print(f"{key}: {content['title']}\n    rows: {', '.join(content['rows'])}")
        return
    if table not in tables:
        raise ValueError(f"{name} has no table {table}; there are {', '.join(tables)}")
    if budget not in ("small", "paper"):
        raise ValueError(f"budget must be small or paper, got {budget}")
    content = tables[table]
    chosen = list(content["rows"]) if rows is None else rows.split(",") if isinstance(rows, str) else list(rows)
    unknown = [row for row in chosen if row not in content["rows"]]
    if unknown:
        raise ValueError(f"{table} has no row {unknown[0]}; there are {', '.join(content['rows'])}")
    if weights not in (None, "last", "best"):
        raise ValueError(f"weights must be last or best, got {weights}")
    content = {**content, "weights": weights} if weights else content
    more = value(keys)
    if more is not None and not isinstance(more, Mapping):
        raise ValueError(f"keys must be like {{'name': value}}, got {keys!r}")
    places = {key: given for key, given in (("dataset_dir", dataset_dir), ("split", split)) if given is not None}
    wanted = {"seed": seed, **places, **(more or {})}
    stem = Path(str(out)) / f"{name}-{table}-{budget}"
    for row in chosen:
        _run(name, content, row, budget, wanted, stem)
    path = report(stem, content)
    print(path.read_text(encoding="utf-8") + f"\n{path}, {path.with_suffix('.csv')}")


def tables_of(name: str) -> dict[str, dict[str, Any]]:
    """The tables of a bundle's paper, by name.

    Args:
        name: a bundle.
    """
    path = bundle_folder(name) / "docs" / "experiments.json"
    if not path.is_file():
        raise ValueError(f"{name} describes no experiments in docs/experiments.json")
    return json.loads(path.read_text(encoding="utf-8"))


def _run(name: str, table: Mapping[str, Any], row: str, budget: str, keys: Mapping[str, Any], stem: Path) -> None:
    """Trains and evaluates one row, or what is left of it; its facts go to STEM/ROW/row.json."""
    folder = stem / row
    done, part = folder / "row.json", table["rows"][row]
    wanted = {"keys": {**keys, "budget": budget}, "row": part, "table": {**table, "rows": None, "title": None}}
    facts = json.loads(done.read_text(encoding="utf-8")) if done.is_file() else {"wanted": wanted}
    if facts["wanted"] != wanted:
        raise ValueError(f"{done}: made with other settings; choose another --out, or remove {folder}")
    if "evaluated" in facts:
        print(f"{row}: done before")
        return
    folder.mkdir(parents=True, exist_ok=True)
    _write(done, facts)
    overlays = [*table.get("overlays", []), *part.get("overlays", [])]
    train = {**keys, **table.get("keys", {}), **part.get("keys", {})}
    small = {**table.get("small", {}), **part.get("small", {})} if budget == "small" else {"budget": "paper"}
    run = folder / "training"
    if "trained" not in facts:
        resume = (run / "last.pt").is_file()
        more = {"output_dir": str(folder), "run_name": "training", "resume": resume}
        facts["trained"] = _command(
            name, [*table.get("train", ["train"]), *overlays], {**train, **small, **more}, folder
        )
        facts["steps"] = _steps(run / "terms.csv")
        _write(done, facts)
    weights = run / f"{table.get('weights', 'last')}.pt"
    facts["parameters"] = sum(tensor.numel() for tensor in load_flat(weights).values())
    judged = {key: given for key, given in {**train, **small}.items() if key not in table.get("training_only", [])}
    if (run / "split.json").is_file():  # without it an evaluation takes all of a folder, what was trained on included
        judged.setdefault("split", str(run / "split.json"))
    judged |= {
        **table.get("evaluation", {}),
        "weights": str(weights),
        "output_dir": str(folder),
        "run_name": "evaluation",
    }
    configs = [*table.get("train", ["train"]), *overlays, *table.get("evaluate", ["evaluate"])]
    facts["evaluated"] = _command(name, configs, {**judged, "from_scratch": False}, folder)
    _write(done, facts)


def _command(name: str, configs: Sequence[str], keys: Mapping[str, Any], folder: Path) -> dict[str, float]:
    """Runs MONAI's command line as a user would; gives its minutes and the most memory it took, in GB."""
    files = [str(bundle_folder(name) / "configs" / f"{config}.json") for config in configs]
    words = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(files)]
    for key, given in keys.items():
        words += [f"--{key}", given if isinstance(given, str) else json.dumps(given) if given is not None else "None"]
    print("+ " + shlex.join(["python", *words[1:]]), flush=True)
    began = time.monotonic()
    log = folder / "log.txt"
    with log.open("a", encoding="utf-8") as output:
        process = subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        lines = [line for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
        raise ValueError(f"{folder.name}: {lines[-1] if lines else 'no word'} (the whole log: {log})")
    scale = 2**30 if sys.platform == "darwin" else 2**20
    return {"minutes": (time.monotonic() - began) / 60, "gigabytes": usage.ru_maxrss / scale}


def _steps(terms: Path) -> int | None:
    """Generator steps of a training."""
    if not terms.is_file():
        return None
    with terms.open(newline="", encoding="utf-8") as file:
        return max(int(line["iteration"]) for line in csv.DictReader(file))


def _write(path: Path, content: Mapping[str, Any]) -> None:
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def report(stem: Path, table: Mapping[str, Any]) -> Path:
    """Writes the table of all finished rows, ``STEM.md`` and ``STEM.csv``.

    Args:
        stem: folder of the rows.
        table: its description.
    """
    lines, facts_of = [], {}
    for row in table["rows"]:
        path = stem / row / "row.json"
        facts = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if "evaluated" in facts:
            facts_of[row] = facts
            lines += _lines(row, facts, table, stem / row / "evaluation" / "scores.csv")
    header = list(lines[0]) if lines else []
    with (
        replacing(stem.with_name(stem.name + ".csv")) as partial,
        partial.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, header)
        writer.writeheader()
        writer.writerows(lines)
    steps = {facts["steps"] for facts in facts_of.values()}
    name, key, budget = stem.name.rsplit("-", 2)
    given: dict[str, Any] = next((facts["wanted"]["keys"] for facts in facts_of.values()), {})
    own = {"dataset_dir": "FOLDER", "split": "FILE"}
    folders = [f"--{option} {word}" for option, word in own.items() if option in given]
    command = " ".join(["python -m tools.experiments", name, key, f"--budget {budget}", *folders])
    said = [f"`{command}`\n", table["title"] + "\n", table["note"] + "\n" if "note" in table else ""]
    stands = {"last": "The last weights", "best": "The best weights by validation"}[table.get("weights", "last")]
    said.append(
        f"Generator steps of each row: {', '.join(str(s) for s in sorted(steps, key=str))}. {stands} stand for it.\n"
    )
    said.append(markdown_table(header, [[str(line[column]) for column in header] for line in lines]))
    target = stem.with_name(stem.name + ".md")
    with replacing(target) as partial:
        partial.write_text("\n".join(part for part in said if part) + "\n", encoding="utf-8")
    return target


def _lines(row: str, facts: Mapping[str, Any], table: Mapping[str, Any], scores: Path) -> list[dict[str, str]]:
    """One line per setting of a row: mean and standard deviation over cases, the gain, and the paper's numbers."""
    with scores.open(newline="", encoding="utf-8") as file:
        cases = list(csv.DictReader(file))
    paper = table["rows"][row].get("paper", {})
    lines = []
    for setting in dict.fromkeys(case["setting"] for case in cases):
        group = [case for case in cases if case["setting"] == setting]
        line = {"row": row, "setting": shown(group[0]), "cases": str(len(group))}
        for metric in table["metrics"]:
            ours, other = ([float(case.get(key) or "nan") for case in group] for key in (metric, f"baseline_{metric}"))
            digits = 2 if "psnr" in metric else 4
            line[metric] = mean_and_sd(ours, digits)
            gains = [a - b for a, b in zip(ours, other, strict=True) if not math.isnan(a - b)]
            line[f"gain in {metric}"] = f"{statistics.fmean(gains):+.{digits}f}" if gains else ""
        line["paper"] = str(paper.get(_plain(setting), paper.get("", "")))
        line |= {"parameters": f"{facts['parameters']:,}", "minutes": f"{facts['trained']['minutes']:.1f}"}
        lines.append(line | {"GB": f"{facts['trained']['gigabytes']:.2f}"})
    return lines


def _plain(setting: str) -> str:
    return re.sub(r"\s+", "", setting)


def main() -> None:
    """Run the command line."""
    run_command(experiments, "experiments", serialize=lambda result: None)


if __name__ == "__main__":
    main()
