# SPDX-License-Identifier: Apache-2.0
"""One page per run, ``report.html``: what ran, scores, curves, and every case in a viewer. It opens from disk."""

from . import facts
from .page import Report
from .pictures import CasePictures
from .tables import Scores

__all__ = ["CasePictures", "Report", "Scores", "facts"]
