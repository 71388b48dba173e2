# SPDX-License-Identifier: Apache-2.0
"""Ways to apply a network to a whole image."""

from .orientations import OrientationInferer
from .region import RegionInferer, paste
from .slabs import ForegroundInferer, LayerSlabs
from .stacks import SliceStackInferer
from .views import ViewsInferer

__all__ = [
    "ForegroundInferer",
    "LayerSlabs",
    "OrientationInferer",
    "RegionInferer",
    "SliceStackInferer",
    "ViewsInferer",
    "paste",
]
