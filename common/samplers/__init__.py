# SPDX-License-Identifier: Apache-2.0
"""Training samples cut from whole images."""

from .patches import Patch, RandomPatches, SliceProfile

__all__ = ["Patch", "RandomPatches", "SliceProfile"]
