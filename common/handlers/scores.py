# SPDX-License-Identifier: Apache-2.0
"""Scores of every validated case as a table on paper and on the screen."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from monai.utils import string_list_all_gather

from common.errors import InputError, one_line
from common.io.files import replacing
from common.utils.console import say
from common.utils.distributed import is_main_process

__all__ = ["ScoreTable", "markdown_table", "mean_and_sd", "shown"]

REQUIRED = {"epoch", "case", "setting"}
LABELS = REQUIRED | {"extent"}  # the columns that are no scores
BASELINE = "baseline_"  # metrics of the trivial method have this before the network's metric's name


class ScoreTable:
    """Writes one line per case, setting and epoch to ``scores.csv``; prints a table or a summary.

    Items of the evaluator's batches carry "case" and "setting" (such as the factors) and, where they are a part of the
    case, "extent" (see ``common.transforms.geometry.extent_of``), which then stands beside its numbers everywhere; the
    metrics come from the evaluator's ``metric_details``. Works with several processes.

    Args:
        folder: the run's folder.
        baseline: name of the trivial method whose metrics are called ``baseline_<metric>``.
        units: text behind a metric's numbers, such as ``{"psnr": "dB"}``, by the first part of the metric's name.
        table: print all lines with mean and standard deviation after each epoch, and write ``scores.md``.
        others: further methods whose metrics are called ``<method>_<metric>``; the table then has a line per method.
        items: what a case is, for the summary.
    """

    def __init__(
        self,
        folder: str | Path,
        baseline: str,
        units: dict[str, str] | None = None,
        table: bool = False,
        others: Sequence[str] = (),
        items: str = "volume(s)",
    ) -> None:
        self.folder = Path(folder)
        self.baseline = baseline
        self.units = units or {}
        self.table = table
        self.others = tuple(others)
        self.items = items
        self.paper = True  # write scores.md, too; not where a report holds the table
        self._labels: list[str] = []

    def attach(self, engine: Engine) -> None:
        """Attach to the evaluator."""
        engine.add_event_handler(Events.EPOCH_STARTED, lambda _: self._labels.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def _collect(self, engine: Engine) -> None:
        batch: Any = engine.state.batch
        self._labels += [f"{item['case']}\t{item['setting']}\t{item.get('extent', '')}" for item in batch]

    def __call__(self, engine: Engine) -> None:
        """Adds the lines of the run that has just ended, of all processes, and writes the table."""
        state: Any = engine.state
        if getattr(state, "aside", False):
            return
        labels = string_list_all_gather(self._labels, delimiter="\n") if idist.get_world_size() > 1 else self._labels
        if not is_main_process():
            return
        details = {name: values.flatten().tolist() for name, values in state.metric_details.items()}
        rows = []
        for i, label in enumerate(labels):
            case, setting, extent = label.split("\t")
            scores = {name: f"{values[i]:.6f}" for name, values in details.items()}
            labelled = {"case": case, "setting": setting, **({"extent": extent} if extent else {})}
            rows.append({"epoch": str(engine.state.epoch), **labelled, **scores})
        self._append(rows)
        if self.table:
            text = self.text(rows)
            say(text)
            if self.paper:
                with replacing(self.folder / "scores.md") as partial:
                    partial.write_text(text + "\n", encoding="utf-8")

    @property
    def path(self) -> Path:
        """The CSV file."""
        return self.folder / "scores.csv"

    def _append(self, rows: Sequence[dict[str, str]]) -> None:
        # a resumed run may repeat an epoch that was validated but not saved: the later lines count
        kept = [row for row in self.rows() if rows and row["epoch"] != rows[0]["epoch"]]
        with replacing(self.path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows([*kept, *rows])

    def rows(self, epoch: int | None = None) -> list[dict[str, str]]:
        """Lines of the CSV file, of one epoch or of all.

        Raises:
            InputError: the file there is no table of scores.
        """
        if not self.path.is_file():
            return []
        try:
            with self.path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file, strict=True))
            for row in rows:
                for name in row.keys() - LABELS:
                    float(row[name])
                if not row.keys() >= REQUIRED:
                    raise ValueError(f"no column {' or '.join(sorted(REQUIRED - row.keys()))}")
        except (OSError, TypeError, ValueError, csv.Error) as error:
            reason = "not a table of scores; move it away, and the run starts a new one"
            raise InputError(f"{reason} ({one_line(error)})", self.path) from error
        return [row for row in rows if epoch is None or row["epoch"] == str(epoch)]

    def text(self, rows: Sequence[dict[str, str]]) -> str:
        """Markdown table: a line per case and setting, then mean and standard deviation per setting.

        With further methods a line is one method's.
        """
        names = [name for name in rows[0] if name not in LABELS | {"loss"}]
        names = [name for name in names if not name.startswith((BASELINE, *(f"{other}_" for other in self.others)))]
        groups = [(row["case"], [row]) for row in rows]
        for setting in dict.fromkeys(row["setting"] for row in rows):
            group = [row for row in rows if row["setting"] == setting]
            if len(group) > 1:
                groups.append((f"mean ± sd of {len(group)}", group))
        methods = {BASELINE: self.baseline, **{f"{other}_": other for other in self.others}, "": "network"}
        if self.others:
            body = [
                [case, shown(group[0]), method, *self._cells(group, [prefix + name for name in names])]
                for case, group in groups
                for prefix, method in methods.items()
            ]
            return markdown_table(["case", "setting", "method", *names], body)
        header = ["case", "setting", *[f"{name} {method}" for name in names for method in methods.values()]]
        keys = [prefix + name for name in names for prefix in methods]
        return markdown_table(header, [[case, shown(g[0]), *self._cells(g, keys)] for case, g in groups])

    @staticmethod
    def _cells(group: Sequence[dict[str, str]], keys: Sequence[str]) -> list[str]:
        """Means and standard deviations; "-" for a score that a method does not have, such as the key metric alone."""
        decimals = {key: 2 if "psnr" in key or "drift" in key else 4 for key in keys}
        return [
            mean_and_sd([float(row[key]) for row in group], decimals[key]) if key in group[0] else "-" for key in keys
        ]

    def summary(self, epoch: int, metrics: Sequence[str]) -> str:
        """One line: baseline and network at each setting, with the gain in the first metric.

        Args:
            epoch: whose scores to take.
            metrics: the metric to give the gain of, then others.
        """
        rows = self.rows(epoch)
        parts = []
        for setting in dict.fromkeys(row["setting"] for row in rows):
            group = [row for row in rows if row["setting"] == setting]
            texts = []
            others = ((f"{other}_", other) for other in self.others)
            for prefix, name in ((BASELINE, self.baseline), *others, ("", "network")):
                values = [self._value(group, prefix + metric, metric) for metric in metrics]
                texts.append(f"{name} {' / '.join(values)}")
            gain = _mean(group, metrics[0]) - _mean(group, BASELINE + metrics[0])
            parts.append(f"{shown(group[0])}: {', '.join(texts)}, gain {gain:+.2f} {self._unit(metrics[0])}".rstrip())
        return f"{' / '.join(metrics)} on {len({row['case'] for row in rows})} held-out {self.items} -- " + "; ".join(
            parts
        )

    def _unit(self, metric: str) -> str:
        return self.units.get(metric.split("_")[0], "")

    def _value(self, group: Sequence[dict[str, str]], key: str, metric: str) -> str:
        digits = 2 if self._unit(metric) else 4
        return f"{_mean(group, key):.{digits}f} {self._unit(metric)}".rstrip()


def shown(row: Mapping[str, str]) -> str:
    """The setting of a line of ``scores.csv``, and of which part its numbers are: "2x2x2, middle 64x64x64"."""
    return ", ".join(text for text in (row["setting"], row.get("extent")) if text)


def _mean(group: Sequence[dict[str, str]], key: str) -> float:
    return statistics.fmean(float(row[key]) for row in group)


def mean_and_sd(values: Sequence[float], digits: int) -> str:
    """One value as "31.20", several as "31.20 ± 0.85"; values that are not there (NaN) are left out."""
    values = [value for value in values if not math.isnan(value)]
    if not values:
        return "-"
    text = f"{statistics.fmean(values):.{digits}f}"
    return text if len(values) < 2 else f"{text} ± {statistics.stdev(values):.{digits}f}"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that reads well as plain text too."""
    widths = [max(len(str(row[i])) for row in [header, *rows]) for i in range(len(header))]
    lines = ["| " + " | ".join(str(c).ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in rows]
    head = "| " + " | ".join(str(c).ljust(w) for c, w in zip(header, widths, strict=True)) + " |"
    return "\n".join([head, "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines])
