# SPDX-License-Identifier: Apache-2.0
"""A table that tells which scans are of one person, where neither folders nor names do."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import InputError, one_line
from common.io.find import stem_of
from common.utils.values import optional

__all__ = ["by_table", "read_subjects"]

COLUMN = "subject"


def by_table(entries: Sequence[Mapping[str, Any]], table: Any) -> list[dict[str, Any]]:
    """Entries with their subjects as a table tells them, as they are without one.

    Rescans of one person then stay on one side of a split: Kirby 21 has 42 scans of 21 people.

    Args:
        entries: with an "image" and a "subject", such as ``common.data.datasets.scan_entries`` gives.
        table: the file, see ``read_subjects``, or None.

    Raises:
        InputError: no such table, or it does not tell whose a scan is.
    """
    file = optional(table)
    if file is None:
        return [dict(entry) for entry in entries]
    known = read_subjects(file)
    return [{**entry, "subject": _person(entry, known, file)} for entry in entries]


def _person(entry: Mapping[str, Any], known: Mapping[str, str], table: str) -> str:
    parts = Path(entry["image"]).parts
    paths = ["/".join(parts[first:]) for first in range(1, len(parts))]  # with ever fewer of its folders
    for name in (*paths, stem_of(entry["image"]), entry.get("case"), entry["subject"]):
        if name in known:
            return known[name]
    raise InputError(f"{table} does not tell whose it is; add a row with its file name and subject", entry["image"])


def read_subjects(path: str) -> dict[str, str]:
    """Subjects by scan, of a CSV or TSV file with a column "subject"; its first other column names the scans.

    A scan is named by its file, with folders where names are equal, without ending or with, or by what it counts as
    without the table: its case, or subject (``sub-01``).

    Raises:
        InputError: not such a file, or a scan with two subjects.
    """
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8-sig")
        first = text.partition("\n")[0]
        rows = [row for row in csv.reader(text.splitlines(), delimiter="\t" if "\t" in first else ",") if any(row)]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"not a table of subjects ({one_line(error)})", path) from error
    head = [name.strip().lower() for name in rows[0]] if rows else []
    if COLUMN not in head or len(head) < 2:
        raise InputError(f"expected a CSV or TSV file with a column of scans' names and one called {COLUMN}", path)
    theirs = head.index(COLUMN)
    scans = 1 if theirs == 0 else 0
    known: dict[str, str] = {}
    for line, row in enumerate(rows[1:], start=2):
        if len(row) <= max(theirs, scans) or not row[theirs].strip() or not row[scans].strip():
            raise InputError(f"row {line} lacks a scan or a subject", path)
        scan, subject = row[scans].strip(), row[theirs].strip()
        if known.setdefault(scan, subject) != subject:
            raise InputError(f"{scan} has two subjects, {known[scan]} and {subject}", path)
    return known
