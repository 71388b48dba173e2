# SPDX-License-Identifier: Apache-2.0
"""Scores of several methods on the same cases: kept line by line, so that a stopped run goes on, and summed up."""

from __future__ import annotations

import csv
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy.stats import wilcoxon

from common.handlers.scores import markdown_table

__all__ = ["NETWORK", "SAMPLE", "Scoreboard", "across", "number_text", "significance"]

NETWORK = "network"
SAMPLE = "sample data"  # name of the data that a run without a folder has
LEAST_CASES = 6  # below, the signed-rank test cannot reach 0.05


def across(rows: Sequence[Mapping[str, str]], score: str, subject: Callable[[str], str]) -> dict[str, float]:
    """A score by subject: the mean over a subject's cases, those without the score left out."""
    by_subject: dict[str, list[float]] = {}
    for row in rows:
        number = float(row.get(score) or "nan")
        if math.isfinite(number):
            by_subject.setdefault(subject(row["case"]), []).append(number)
    return {name: statistics.fmean(numbers) for name, numbers in by_subject.items()}


def significance(ours: Mapping[str, float], other: Mapping[str, float]) -> float | None:
    """The p-value of Wilcoxon's signed-rank test, two-sided, over subjects that both have; None for fewer than six."""
    pairs = [(ours[name], other[name]) for name in ours if name in other]
    if len(pairs) < LEAST_CASES or all(a == b for a, b in pairs):
        return None
    return float(wilcoxon(*zip(*pairs, strict=True)).pvalue)


def number_text(number: float) -> str:
    """Four significant digits for scores below 10, two decimals above."""
    return f"{number:.4f}" if abs(number) < 10 else f"{number:.2f}"


class Scoreboard:
    """``<stem>.csv`` with a line per method, case and setting, and ``<stem>.json`` with what was run.

    Args:
        stem: path without its ending.
        facts: what the numbers belong to: bundle, data, keys, weights and so on.

    Raises:
        ValueError: the files hold another bundle's or another data set's numbers.
    """

    def __init__(self, stem: str | Path, facts: Mapping[str, Any] | None = None) -> None:
        stem = Path(stem)
        self.csv, self.json = (stem.with_name(stem.name + ending) for ending in (".csv", ".json"))
        self.rows: list[dict[str, str]] = []
        known = json.loads(self.json.read_text(encoding="utf-8")) if self.json.is_file() else {}
        self.facts = dict(known if facts is None else facts)
        if self.csv.is_file():
            with self.csv.open(newline="", encoding="utf-8") as file:
                self.rows = list(csv.DictReader(file))
        if facts is None or not self.rows:
            return
        for key in ("bundle", "data", "keys", "seed"):
            if known.get(key) != self.facts.get(key):
                raise ValueError(f"{self.csv} holds a run with another {key} ({known.get(key)}); choose another --out")
        if known.get("weights") != self.facts.get("weights"):  # the rivals' lines still count
            self.rows = [row for row in self.rows if row["method"] != NETWORK]

    def has(self, method: str, index: int) -> bool:
        """Whether a method's line of the case with that number is there."""
        return any(row["method"] == method and row["case_number"] == str(index) for row in self.rows)

    def add(self, method: str, index: int, case: str, setting: str, seconds: float | None, scores: Mapping) -> None:
        """Keeps a case's scores at once."""
        line = {"method": method, "case_number": str(index), "case": case, "setting": setting}
        line["seconds"] = "" if seconds is None else f"{seconds:.4g}"
        self.rows.append({**line, **{name: f"{number:.6g}" for name, number in scores.items()}})
        self.save()

    def save(self) -> None:
        """Writes both files."""
        self.csv.parent.mkdir(parents=True, exist_ok=True)
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        partial = self.csv.with_name(self.csv.name + ".partial")
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
        partial.replace(self.csv)
        self.json.write_text(json.dumps(self.facts, indent=2) + "\n", encoding="utf-8")

    def settings(self) -> list[str]:
        """Settings in the order of the cases."""
        return list(dict.fromkeys(row["setting"] for row in self.rows))

    def of(self, method: str, setting: str) -> list[dict[str, str]]:
        """A method's lines at a setting."""
        return [row for row in self.rows if row["method"] == method and row["setting"] == setting]

    def table(self, subject: Callable[[str], str]) -> str:
        """Markdown: mean and standard deviation over the subjects per setting and method, then what was left out.

        The facts' "methods" give the order, names and notes of the methods, "scores" the columns.
        """
        methods, names = self.facts["methods"], self.facts["scores"]
        names = [name for name in names if any(row.get(name) for row in self.rows)]
        tested = False
        body = []
        for setting in self.settings():
            ours = across(self.of(NETWORK, setting), names[0], subject)
            for key, method in methods.items():
                rows = self.of(key, setting)
                if not rows:
                    continue
                cells = [self._cell(list(across(rows, name, subject).values())) for name in names]
                p = None if key == NETWORK else significance(ours, across(rows, names[0], subject))
                tested |= p is not None
                seconds = [float(row["seconds"]) for row in rows if row["seconds"]]
                time = f"{statistics.fmean(seconds):.3g}" if seconds else "-"
                work = "-" if method.get("work") is None else f"{method['work']:,.0f}".replace(",", " ")
                chance = "-" if p is None else f"{p:.2g}"
                body.append([setting, method["name"], *cells, chance, time, work])
        header = ["setting", "method", *names, "p", "seconds", "multiplications"]
        if not tested:
            body = [[*row[:-3], *row[-2:]] for row in body]
            header.remove("p")
        notes = [f"- {m['name']}: {m['note']}." for m in methods.values() if m.get("note")]
        absent = [f"- {m['name']}: left out, {m['reason']}." for m in methods.values() if m.get("reason")]
        return "\n".join([markdown_table(header, body), "", *notes, *absent]).rstrip() + "\n"

    @staticmethod
    def _cell(numbers: Sequence[float]) -> str:
        if not numbers:
            return "-"
        mean = statistics.fmean(numbers)
        text = number_text(mean)
        return text if len(numbers) == 1 else f"{text} ± {statistics.stdev(numbers):.{len(text.split('.')[1])}f}"
