# SPDX-License-Identifier: Apache-2.0
"""Degradation, intensity and geometry of images."""

from . import degradation, geometry, intensity

__all__ = ["degradation", "geometry", "intensity"]
