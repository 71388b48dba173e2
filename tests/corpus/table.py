# SPDX-License-Identifier: Apache-2.0
"""The corpus as a page for readers: each kind of file, and what every bundle says of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from .kinds import Kind
from .trial import Outcome

__all__ = ["write_table"]

HEAD = """# What becomes of bad and odd files

Each kind of file below was sent, beside good ones, through the inference of the bundles named. The good cases were
done, the input was not touched, nothing half-written was left, and the status was 1 exactly where a line says why a
file was refused. `CORPUS_TABLE=docs/reliability.md pytest -m hostile tests/corpus` prints this page, from {kinds}
kinds of files and {pairs} pairs of a kind and a bundle.

Kills at random moments, full disks, read-only folders and two runs in one folder are tried by
`pytest -m hostile tests/bundles/test_faults.py` (`--kills 200` for as many kills and 40 pairs of runs). On 29 November
2026, 61 killed trainings and 7 killed inferences of `rslm_denoise` all went on to the same bits; that run was stopped
there. `HYPOTHESIS_PROFILE=long pytest tests/properties` ran for an hour and a quarter that day on a busy machine: 16 of
the 22 properties had their 2000 examples each, and none failed.

| file | bundle | what is said |
|---|---|---|
"""


def write_table(path: Path, found: Mapping[str, Mapping[str, Outcome]], kinds: Sequence[Kind]) -> None:
    """Writes the page.

    Args:
        path: file to write.
        found: outcomes by kind, by bundle.
        kinds: in the order of the page.
    """
    lines, pairs = [], 0
    for kind in kinds:
        bundles: dict[str, list[str]] = {}
        for name, outcomes in found.items():
            if kind.name in outcomes:
                bundles.setdefault(_said(outcomes[kind.name]), []).append(name)
                pairs += 1
        for text, names in bundles.items():
            lines.append(f"| {_cell(kind.name)} | {', '.join(names)} | {_cell(text)} |")
    path.write_text(HEAD.format(kinds=len(kinds), pairs=pairs) + "\n".join(lines) + "\n", encoding="utf-8")


def _said(outcome: Outcome) -> str:
    if outcome.failures:
        line = outcome.failures[0]
        start = re.match(r"/\S*?: ", line) or re.match(r"/.*?: ", line)
        return _without_folders(line[start.end() :] if start else line)
    told = dict.fromkeys(_without_folders(line.split(": ", 1)[-1]) for line in outcome.warnings)
    return f"a result, and a warning: {'; '.join(told)}" if told else "a result"


def _without_folders(text: str) -> str:
    return re.sub(r"/[^\s:,;()']*/", "", text)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
