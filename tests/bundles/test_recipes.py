# SPDX-License-Identifier: Apache-2.0
"""Configurations stay readable: few and short expressions."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from common.errors import InputError

BUNDLES = Path(__file__).parents[2] / "bundles"
CONFIGS = [path for path in sorted(BUNDLES.glob("*/configs/**/*.json")) if path.name != "metadata.json"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(BUNDLES)))
def test_expressions_are_few_and_fit_into_eighty_characters(path):
    expressions = re.findall(r'"\$((?:[^"\\]|\\.)*)"', path.read_text(encoding="utf-8"))
    assert [text for text in expressions if len(text) > 80] == []
    assert len(expressions) <= 25 or path.stem.endswith("detector")


@pytest.mark.parametrize("library", ["mri_sr3d_lib", "rslm_denoise_lib"])
def test_a_crop_has_one_edge_or_three(library):
    crop = importlib.import_module(f"{library}.recipe").RECIPE.keys["crop"]
    assert crop.plain(48) == [48, 48, 48] and crop.plain("[48,48,32]") == [48, 48, 32] and crop.plain(None) is None
    with pytest.raises(InputError, match="crop"):
        crop.plain(0.5)
