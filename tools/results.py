# SPDX-License-Identifier: Apache-2.0
"""The page of results and the README's table from stored numbers: ``python -m tools.results``."""

from __future__ import annotations

import csv
import re
import statistics
from collections.abc import Callable
from pathlib import Path

from common.handlers.scores import markdown_table
from common.io.hashes import file_hash
from tools.benchmark.scoreboard import NETWORK, SAMPLE, Scoreboard, across, number_text
from tools.command import run_command
from tools.rivals import BUNDLES, rivals_of

__all__ = ["main", "page", "results", "summary_table", "verdict"]

ROOT = Path(__file__).parents[1]
HEAD = """# Results

Made by `python -m tools.results` from the files in [results](results); do not edit. Each table but those of
`results/notes` comes from one run of `python -m tools.benchmark quality`: the bundle's own evaluation, the same cases
for every method, one process. Seconds are per case and of that machine, beside whatever else it did; compare them
within a table only. p is Wilcoxon's signed-rank test of a method against the network, where there are six cases.

A stored run is made anew, or finished, by its command with `--out docs/results/NAME`: rivals keep their lines, the
network's are replaced where the weights have changed. `pip install -e ".[benchmark]"` installs those rivals that are
packages.
"""
START, END = "<!-- results: made by python -m tools.results -->", "<!-- end of results -->"


def results(folder: str = "docs/results", check: bool = False) -> None:
    """Write docs/results.md and the README's table from the stored numbers.

    Args:
        folder: of the stored runs, below the repository's root
        check: write nothing, and end with status 1 where a file would change
    """
    stored = ROOT / folder
    readme = ROOT / "README.md"
    wanted = {stored.with_suffix(".md"): page(stored)}
    text = readme.read_text(encoding="utf-8")
    if START in text:
        table = f"{START}\n\n{summary_table(stored)}\n\n{END}"
        wanted[readme] = re.sub(f"{re.escape(START)}.*?{re.escape(END)}", lambda _: table, text, flags=re.DOTALL)
    stale = [path for path, new in wanted.items() if not path.is_file() or path.read_text(encoding="utf-8") != new]
    if check and stale:
        raise ValueError(f"{', '.join(p.name for p in stale)}: not what python -m tools.results makes")
    for path in stale:
        path.write_text(wanted[path], encoding="utf-8")
    print("\n".join(f"{path} written" for path in stale) or "nothing has changed")


def boards(folder: Path) -> list[Scoreboard]:
    """The stored runs, by bundle in the collection's order, then by name."""
    found = [Scoreboard(path.with_suffix("")) for path in sorted(folder.glob("*.json"))]
    return sorted(found, key=lambda board: BUNDLES.index(board.facts["bundle"]))


def page(folder: Path) -> str:
    """The whole of results.md."""
    parts = [HEAD, "## In one table\n", summary_table(folder) + "\n"]
    papers = _papers(folder / "papers.csv")
    for bundle in BUNDLES:
        parts.append(f"## {bundle}\n")
        own = [board for board in boards(folder) if board.facts["bundle"] == bundle]
        parts += [section(board) for board in own] or ["No run is stored yet.\n"]
        for table in sorted((folder / "experiments").glob(f"{bundle}-*.md")):  # copied from tools.experiments
            name = table.stem.removeprefix(f"{bundle}-").rsplit("-", 1)[0]
            parts.append(f"### Experiment {name}\n\n{table.read_text(encoding='utf-8')}")
        note = folder / "notes" / f"{bundle}.md"  # written by hand
        parts += [note.read_text(encoding="utf-8")] if note.is_file() else []
        if papers.get(bundle):
            header = ["source", "data and setting", "method", "score", "value", "what differs from ours"]
            rows = [
                [row[key] for key in ("source", "setting", "method", "score", "value", "differs")]
                for row in papers[bundle]
            ]
            parts.append(f"### What the paper tells\n\n{markdown_table(header, rows)}\n")
    return "\n".join(parts)


def section(board: Scoreboard) -> str:
    """One run: where its numbers come from, its table, and who is ahead."""
    facts, subject = board.facts, rivals_of(board.facts["bundle"]).subject
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    keys = f' --keys "{facts["keys"]}"' if facts["keys"] else ""
    folder = "" if facts["data"] == SAMPLE else " --dataset_dir FOLDER"
    lines = [
        f"### {facts['bundle']} on {facts['data']}\n",
        f"`python -m tools.benchmark quality {facts['bundle']}{folder}{keys}`, {facts['date']}, {facts['machine']},"
        f" {versions}. Mean ± standard deviation; {facts['caption']}.\n",
    ]
    if facts["weights"] not in shipped_weights(facts["bundle"]):
        lines.append("**These numbers belong to earlier weights than those shipped now.**\n")
    return "\n".join([*lines, board.table(subject), verdict(board, subject) + "\n"])


def shipped_weights(bundle: str) -> set[str]:
    """Hashes of the weights files that a bundle ships."""
    return {file_hash(path) for path in (ROOT / "bundles" / bundle / "models").rglob("*.pt")}


def ranking(board: Scoreboard, setting: str, subject: Callable[[str], str]) -> list[tuple[str, float]]:
    """Methods with their mean of the deciding score, the best one first."""
    score = board.facts["scores"][0]
    means = []
    for key in board.facts["methods"]:
        numbers = across(board.of(key, setting), score, subject).values()
        if numbers:
            means.append((key, statistics.fmean(numbers)))
    return sorted(means, key=lambda pair: pair[1], reverse=not board.facts["lower"])


def verdict(board: Scoreboard, subject: Callable[[str], str]) -> str:
    """Says at every setting who is ahead of whom by how much, in the deciding score."""
    score, methods = board.facts["scores"][0], board.facts["methods"]
    sentences = []
    for setting in board.settings():
        order = ranking(board, setting, subject)
        numbers = dict(order)
        others = [(key, number) for key, number in order if key != NETWORK]
        if NETWORK not in numbers or not others:
            continue
        best, number = others[0]
        ahead = [methods[key]["name"] for key, _ in order[: [key for key, _ in order].index(NETWORK)]]
        gap = number_text(abs(number - numbers[NETWORK]))
        if ahead:
            sentences.append(
                f"At {setting} the network is behind {', '.join(ahead)} ({score} {gap} behind {ahead[0]})."
            )
        else:
            sentences.append(f"At {setting} the network is ahead of all, of {methods[best]['name']} by {score} {gap}.")
    return " ".join(sentences)


def summary_table(folder: Path) -> str:
    """A line per run on real data, or on the sample data where a bundle has no other.

    Baseline, best rival and network by the deciding score, mean over its settings.
    """
    rows, stored = [], boards(folder)
    real = {board.facts["bundle"] for board in stored if board.facts["data"] != SAMPLE}
    for board in stored:
        if board.facts["data"] == SAMPLE and board.facts["bundle"] in real:
            continue
        facts, subject = board.facts, rivals_of(board.facts["bundle"]).subject
        by_method: dict[str, list[float]] = {}
        for setting in board.settings():
            for key, number in ranking(board, setting, subject):
                by_method.setdefault(key, []).append(number)
        # a method that misses a setting has no mean that could be compared
        whole = {k: statistics.fmean(n) for k, n in by_method.items() if len(n) == len(board.settings())}
        rivals = {k: n for k, n in whole.items() if k not in (NETWORK, facts["baseline"])}
        best = (min if facts["lower"] else max)(rivals, key=lambda key: rivals[key]) if rivals else None
        cells = [
            f"{facts['methods'][key]['name']} {number_text(whole[key])}" if key in whole else "-"
            for key in (facts["baseline"], best)
        ]
        network = number_text(whole[NETWORK]) if NETWORK in whole else "-"
        score = f"{facts['scores'][0]}{' (less is better)' if facts['lower'] else ''}"
        rows.append([f"`{facts['bundle']}`", facts["data"], score, cells[0], cells[1], network])
    header = ["bundle", "data", "score", "simple method", "best rival", "network"]
    return markdown_table(header, rows) if rows else "No run is stored yet."


def _papers(path: Path) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                found.setdefault(row["bundle"], []).append(row)
    return found


def main() -> None:
    """Run the command line."""
    run_command(results, "results")


if __name__ == "__main__":
    main()
