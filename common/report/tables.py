# SPDX-License-Identifier: Apache-2.0
"""Scores of a run as a table and in sentences."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.handlers.scores import BASELINE, LABELS, ScoreTable, mean_and_sd

__all__ = ["Scores", "better", "title_of"]

HIGHER = {"psnr", "ssim", "ncc", "gms", "ssnr", "cnr", "dice", "sensitivity", "precision"}
LOWER = {"kl", "lpips", "mse", "nmse", "mae"}
ABBREVIATIONS = HIGHER - {"dice", "sensitivity", "precision"} | LOWER


def title_of(metric: str) -> str:
    """A metric's name for people: ``psnr_foreground`` is "PSNR, foreground"."""
    first, *rest = metric.split("_")
    first = first.upper() if first in ABBREVIATIONS else first.capitalize()
    return f"{first}, {' '.join(rest)}" if rest else first


def better(metric: str) -> int:
    """1 where higher is better, -1 where lower is, 0 where neither is known."""
    first = metric.split("_")[0]
    return (first in HIGHER) - (first in LOWER)


@dataclass
class Scores:
    """Scores of one epoch, beside the baseline's and other methods'.

    Args:
        table: the run's table.
        epoch: whose lines to take.
        metrics: those that come first; the first one is told of in sentences.
    """

    table: ScoreTable
    epoch: int
    metrics: Sequence[str] = ()

    def __post_init__(self) -> None:
        self.rows = self.table.rows(self.epoch)
        prefixes = (BASELINE, *(f"{other}_" for other in self.table.others))
        known = [name for name in (self.rows or [{}])[0] if name not in LABELS | {"loss"}]
        own = [name for name in known if not name.startswith(prefixes)]
        others = sorted((n for n in own if n not in self.metrics), key=lambda n: BASELINE + n not in known)
        self.names = [name for name in self.metrics if name in own] + others

    @property
    def settings(self) -> list[str]:
        """Names of what was tested: factors, noise levels, ..."""
        return list(dict.fromkeys(row["setting"] for row in self.rows))

    def values(self, setting: str, name: str) -> list[float]:
        """A metric of all cases at a setting; NaN where a case has none."""
        return [float(row[name]) if name in row else math.nan for row in self.rows if row["setting"] == setting]

    def cases(self, setting: str) -> list[str]:
        """Names of the cases of a setting."""
        return [row["case"] for row in self.rows if row["setting"] == setting]

    def groups(self) -> Iterator[dict[str, Any]]:
        """A table for each setting: a line per method, the network's and its gain over the baseline last."""
        methods = {BASELINE: self.table.baseline, **{f"{other}_": other for other in self.table.others}, "": "network"}
        for setting in self.settings:
            lines = [{"method": name, "cells": self._cells(setting, prefix)} for prefix, name in methods.items()]
            gains = [self._gain(setting, name) for name in self.names]
            yield {"setting": setting, "cases": self.counted(setting), "lines": lines, "gains": gains}

    def counted(self, setting: str) -> str:
        """How many cases a setting has, such as "1 volume" or "8 slices (middle 64x64)"."""
        count, items = len(self.cases(setting)), self.table.items
        extents = {row.get("extent") or "" for row in self.rows if row["setting"] == setting} - {""}
        part = f" ({', '.join(sorted(extents))})" if extents else ""
        return f"{count} {items.replace('(s)', '' if count == 1 else 's')}{part}"

    def sentences(self) -> list[str]:
        """What the first metric says, in words."""
        told = []
        for setting in self.settings if self.names else ():
            name = self.names[0]
            pairs = list(self._pairs(setting, name))
            if not pairs:
                continue
            before, after = (statistics.fmean(side) for side in zip(*pairs, strict=True))
            unit, sign = self.unit(name), better(name)
            at = f"At {setting}, on" if setting else "On"
            text = f"{at} {self.counted(setting)}: {title_of(name)} is {_number(after, unit)}"
            text += f" with the network and {_number(before, unit)} with {self.table.baseline}"
            wins = sum(sign * (a - b) > 0 for b, a in pairs)
            if sign and len(pairs) > 1:
                text += f"; the network is ahead in {wins} of {len(pairs)}"
            elif sign:
                text += ", so the network is ahead" if wins else ", so the network is not ahead"
            told.append(text + ".")
        return told

    def unit(self, name: str) -> str:
        """A metric's unit, or nothing."""
        return self.table.units.get(name.split("_")[0], "")

    def _pairs(self, setting: str, name: str) -> Iterator[tuple[float, float]]:
        """Baseline and network of the cases that have both."""
        both = zip(self.values(setting, BASELINE + name), self.values(setting, name), strict=True)
        return ((before, after) for before, after in both if not math.isnan(before + after))

    def _cells(self, setting: str, prefix: str) -> list[str]:
        digits = [2 if self.unit(name) else 4 for name in self.names]
        values = [self.values(setting, prefix + name) for name in self.names]
        return [mean_and_sd(one, count) for one, count in zip(values, digits, strict=True)]

    def _gain(self, setting: str, name: str) -> Mapping[str, str]:
        gains = [after - before for before, after in self._pairs(setting, name)]
        if not gains:
            return {"text": "-", "kind": ""}
        mean = statistics.fmean(gains)
        kind = {1: "better", -1: "worse", 0: ""}[better(name) * ((mean > 0) - (mean < 0))]
        return {"text": f"{mean:+.{2 if self.unit(name) else 4}f}", "kind": kind}


def _number(value: float, unit: str) -> str:
    return f"{value:.2f} {unit}" if unit else f"{value:.4f}"
