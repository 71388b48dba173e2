# SPDX-License-Identifier: Apache-2.0
"""Configurations stay readable: few and short expressions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

BUNDLES = Path(__file__).parents[2] / "bundles"
CONFIGS = [path for path in sorted(BUNDLES.glob("*/configs/**/*.json")) if path.name != "metadata.json"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(BUNDLES)))
def test_expressions_are_few_and_fit_into_eighty_characters(path):
    expressions = re.findall(r'"\$((?:[^"\\]|\\.)*)"', path.read_text(encoding="utf-8"))
    assert [text for text in expressions if len(text) > 80] == []
    assert len(expressions) <= 25 or path.stem.endswith("detector")
