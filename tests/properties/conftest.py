# SPDX-License-Identifier: Apache-2.0
"""How many examples hypothesis tries: few and the same ones in CI, many new ones with ``HYPOTHESIS_PROFILE=long``."""

import os

import pytest

hypothesis = pytest.importorskip("hypothesis")

SHARED = {"deadline": None, "suppress_health_check": list(hypothesis.HealthCheck)}
hypothesis.settings.register_profile("ci", max_examples=25, derandomize=True, database=None, **SHARED)
hypothesis.settings.register_profile("long", max_examples=2000, print_blob=True, database=None, **SHARED)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
