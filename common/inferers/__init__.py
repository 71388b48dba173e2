# SPDX-License-Identifier: Apache-2.0
"""Ways to apply a network to a whole image."""

from .slabs import ForegroundInferer, LayerSlabs
from .stacks import SliceStackInferer
from .views import ViewsInferer

__all__ = ["ForegroundInferer", "LayerSlabs", "SliceStackInferer", "ViewsInferer"]
