# SPDX-License-Identifier: Apache-2.0
"""Sample data that is made, not downloaded: for first runs, examples and tests."""

from common.sample_data.brain import make_brain_case
from common.sample_data.cache import is_sample
from common.sample_data.cases import sample_brains, write_brain_cases

__all__ = ["is_sample", "make_brain_case", "sample_brains", "write_brain_cases"]
