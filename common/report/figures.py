# SPDX-License-Identifier: Apache-2.0
"""Figures of the report as SVG, drawn without matplotlib's global state."""

from __future__ import annotations

import base64
import csv
import io
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.handlers.scores import BASELINE

from .tables import Scores, better, title_of

__all__ = ["curves", "losses", "per_case"]

NETWORK, OTHER, BAD = "#1b6ca8", "#8a8f98", "#c8501e"
STYLE: Any = {
    "svg.fonttype": "none", "text.parse_math": False, "font.size": 9, "axes.spines.top": False,
    "axes.spines.right": False, "axes.edgecolor": OTHER, "axes.grid": True, "grid.alpha": 0.3, "svg.hashsalt": "report",
}  # fmt: skip
PANELS = 3  # side by side
NAMED = 30  # cases whose names are written at the axis


def per_case(scores: Scores) -> str | None:
    """Baseline and network of every case in the first metric, a panel per setting; None without scores."""
    if not scores.rows or not scores.names or BASELINE + scores.names[0] not in scores.rows[0]:
        return None
    name, settings = scores.names[0], scores.settings[: 4 * PANELS]
    most = max(len(scores.cases(setting)) for setting in settings)
    columns = min(PANELS, len(settings))
    rows = math.ceil(len(settings) / columns)
    height = 0.9 + 0.19 * min(most, 2 * NAMED)

    def draw(figure: Any) -> None:
        grid = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes, setting in zip(grid, settings, strict=False):
            _dumbbells(axes, scores, setting, name)
        for axes in grid[len(settings) :]:
            axes.set_visible(False)
        figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper left", ncols=2, frameon=False)

    return _svg(draw, (9.6, rows * height + 0.4))


def _dumbbells(axes: Any, scores: Scores, setting: str, name: str) -> None:
    both = scores.values(setting, BASELINE + name), scores.values(setting, name)
    lines = sorted(zip(scores.cases(setting), *both, strict=True), key=lambda line: line[2])
    for y, (_, before, after) in enumerate(lines):
        worse = better(name) * (after - before) < 0
        axes.plot([before, after], [y, y], color=BAD if worse else NETWORK, linewidth=1.5, zorder=2)
    cases, befores, afters = zip(*lines, strict=True)
    axes.scatter(befores, range(len(lines)), s=22, color=OTHER, zorder=3, label=scores.table.baseline)
    axes.scatter(afters, range(len(lines)), s=26, color=NETWORK, zorder=3, label="network")
    axes.set_ylim(-0.8, len(lines) - 0.2)
    named = len(cases) <= NAMED
    axes.set_yticks(range(len(cases)) if named else [], [_short(case) for case in cases] if named else [])
    axes.set_title(setting, fontsize=9, loc="left")
    unit = scores.unit(name)
    axes.set_xlabel(title_of(name) + (f" ({unit})" if unit else ""))


def losses(terms: Path) -> dict[int, float]:
    """Mean loss of each epoch, as ``common.handlers.TermsTable`` wrote it; empty without its file."""
    found: dict[int, list[float]] = {}
    if terms.is_file():
        with terms.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row["term"] == "loss":
                    found.setdefault(int(row["epoch"]), []).append(float(row["value"]))
    return {epoch: _mean(values) for epoch, values in found.items()}


def curves(terms: Path, scores: Scores, best: int) -> str:
    """Loss of each epoch, and the first metric at each validation, baseline dashed.

    Args:
        terms: the table of the loss's terms.
        scores: of any epoch; all of its table are drawn.
        best: the epoch whose weights are kept.
    """
    lost, table, metric = losses(terms), scores.table, scores.names[0]
    scored: dict[str, dict[int, list[tuple[float, float]]]] = {}
    for row in table.rows():
        pair = (float(row.get(BASELINE + metric, "nan")), float(row.get(metric, "nan")))
        scored.setdefault(row["setting"], {}).setdefault(int(row["epoch"]), []).append(pair)

    def draw(figure: Any) -> None:
        left, right = figure.subplots(1, 2)
        left.plot(list(lost), list(lost.values()), color=NETWORK, marker="o", markersize=3)
        if lost and min(lost.values()) > 0:
            left.set_yscale("log")
        left.set(xlabel="epoch", title="training loss")
        for number, (setting, epochs) in enumerate(scored.items()):
            for which, dash in ((0, "--"), (1, "-")):
                means = [_mean([pair[which] for pair in pairs]) for pairs in epochs.values()]
                label = f"{setting} {'network' if which else table.baseline}".strip()
                marker = "o" if which else None
                right.plot(list(epochs), means, dash, color=f"C{number % 10}", marker=marker, markersize=3, label=label)
        right.axvline(best, color=OTHER, linewidth=1, linestyle=":", label="kept")
        right.set(xlabel="epoch", title=title_of(metric) + ", held-out data")
        right.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
        for axes in (left, right):
            axes.xaxis.get_major_locator().set_params(integer=True)

    return _svg(draw, (9.6, 3.2))


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _short(name: str, most: int = 26) -> str:
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-most // 2 :]}"


def _svg(draw: Any, size: tuple[float, float]) -> str:
    """A figure as a picture's address."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of characters that the font does not have
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        stream = io.BytesIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
