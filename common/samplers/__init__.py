# SPDX-License-Identifier: Apache-2.0
"""Training samples cut from whole images."""

from .patches import Patch, RandomPatches, SliceProfile
from .slices import RandomStacks, slice_stacks

__all__ = ["Patch", "RandomPatches", "RandomStacks", "SliceProfile", "slice_stacks"]
