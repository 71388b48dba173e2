# SPDX-License-Identifier: Apache-2.0
"""The bundles' own small networks and good data, here too."""

import importlib.util
import sys
from pathlib import Path

_spec = importlib.util.spec_from_file_location(
    "bundles_conftest", Path(__file__).parents[1] / "bundles" / "conftest.py"
)
_shared = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _shared
_spec.loader.exec_module(_shared)
tiny, tiny_brains, probes, run_files = _shared.tiny, _shared.tiny_brains, _shared.probes, _shared.run_files
