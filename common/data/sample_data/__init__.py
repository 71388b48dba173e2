# SPDX-License-Identifier: Apache-2.0
"""Sample data that is made, not downloaded: for first runs, examples and tests."""

from common.data.sample_data.brain import make_brain_case
from common.data.sample_data.cache import is_sample
from common.data.sample_data.cases import sample_brains, write_brain_cases
from common.data.sample_data.probes import sample_probes, write_probe_frames

__all__ = ["is_sample", "make_brain_case", "sample_brains", "sample_probes", "write_brain_cases", "write_probe_frames"]
