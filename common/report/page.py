# SPDX-License-Identifier: Apache-2.0
"""The page itself: ``report.html`` from a template, with everything in it."""

from __future__ import annotations

import datetime
import json
import platform
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import monai
import torch

from common.errors import shown
from common.io.files import replacing
from common.utils.console import say
from common.utils.distributed import is_main_process

from .figures import curves, per_case
from .pictures import CasePictures
from .tables import Scores, better, title_of

__all__ = ["Report"]

ROOM = 4_200_000  # characters of pictures: with figures and tables a page stays below 5 MB
NEEDED = ("jinja2", "matplotlib")
ARROWS = {1: ("↑", "higher is better"), -1: ("↓", "lower is better"), 0: ("", "")}


class Report:
    """Writes ``report.html`` into a run's folder: one file that needs no network, below 5 MB.

    Args:
        folder: the run's folder.
        metadata: the bundle's ``metadata.json``.
        columns, rows_first: see ``CasePictures``.
    """

    def __init__(
        self, folder: str | Path, metadata: str | Path, columns: Sequence[Sequence[Any]], rows_first: bool = False
    ) -> None:
        self.path = Path(folder).expanduser() / "report.html"
        self.metadata = json.loads(Path(metadata).read_text(encoding="utf-8"))
        self.pictures = CasePictures(columns, rows_first)

    def write(
        self,
        job: str,
        lead: str,
        facts: Mapping[str, str],
        settings: Sequence[Mapping[str, Any]] = (),
        scores: Scores | None = None,
        best: int | None = None,
        results: Sequence[Mapping[str, Any]] = (),
        failures: Sequence[Mapping[str, str]] = (),
    ) -> Path | None:
        """Writes the page, in the first process; None where that is not this one, or packages are missing.

        Args:
            job: what was done, such as "evaluation".
            lead: sentence that stands first, before those about the scores.
            facts: what ran, by title.
            settings: keys with "key", "value" and "meaning".
            scores: of an evaluation, or of a training's best epoch.
            best: the epoch whose weights are kept; curves are drawn then.
            results: finished cases of an inference, with "input" and "files".
            failures: failed ones, with "input" and "reason".

        Raises:
            StorageError: the folder is full or read-only.
        """
        if not is_main_process():
            return None
        missing = [name for name in NEEDED if find_spec(name) is None]
        if missing:
            say(f"no report is written: {' and '.join(missing)} missing (pip install {' '.join(missing)})")
            return None
        from jinja2 import Environment, FileSystemLoader

        cases = self.pictures.packed(ROOM)
        count = len(self.pictures.cases)
        content = {
            **{"bundle": self.metadata["name"], "version": self.metadata["version"], "task": self.metadata["task"]},
            **{"job": job, "name": facts.get("run", ""), "settings": settings, "cases": cases},
            **{"results": results, "failures": failures},
            "lead": [lead, *(scores.sentences() if scores else ())],
            "left_out": "" if len(cases) == count else f"Pictures of {len(cases)} of {count} cases have room here.",
            "facts": {**facts, **_software()},
        }
        if scores is not None and scores.rows:
            arrows = [ARROWS[better(name)] for name in scores.names]
            content |= {
                "groups": list(scores.groups()),
                "metrics": [
                    {"title": title_of(name), "unit": scores.unit(name), "arrow": arrow, "meaning": meaning}
                    for name, (arrow, meaning) in zip(scores.names, arrows, strict=True)
                ],
                "baseline": scores.table.baseline,
                "plot": per_case(scores),
                "curves": None if best is None else curves(self.path.with_name("terms.csv"), scores, best),
            }
        environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True)
        text = environment.get_template("page.html").render(_plain(content))
        with replacing(self.path) as partial:
            partial.write_text(text, encoding="utf-8")
        say(f"report {self.path}")
        return self.path


def _software() -> dict[str, str]:
    now = datetime.datetime.now().astimezone()
    return {
        "software": f"Python {platform.python_version()}, PyTorch {torch.__version__}, MONAI {monai.__version__}",
        "written": f"{now.day} {now:%B %Y, %H:%M}",
    }


def _plain(content: Any) -> Any:
    """Texts in which bytes of file names that are no text, and control characters, are escaped."""
    if isinstance(content, dict):
        return {key: _plain(inner) for key, inner in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(inner) for inner in content]
    return shown(content) if isinstance(content, str) and not content.isprintable() else content
