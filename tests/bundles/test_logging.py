# SPDX-License-Identifier: Apache-2.0
"""What the bundles' runs show of MONAI's and ignite's logs."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest

BUNDLES = Path(__file__).parents[2] / "bundles"


@pytest.mark.parametrize("bundle", sorted(path.parent.name for path in BUNDLES.glob("*/configs")))
def test_the_terminal_shows_no_engine_messages_below_warnings(bundle):
    file = BUNDLES / bundle / "configs" / "logging.conf"
    settings = configparser.RawConfigParser()
    settings.read(file)
    assert settings["logger_ignite"]["level"] == "WARNING"
    assert file.read_bytes() == (BUNDLES / "mri_sr3d" / "configs" / "logging.conf").read_bytes()
