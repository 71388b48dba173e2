# SPDX-License-Identifier: Apache-2.0
"""What only the lesion bundle needs: its networks, regions, slices, detector, losses, scores and saver."""

import common

if getattr(common, "__bundle_collection__", None) != "restoration-bundles":
    raise ImportError(f"lesion_msgan needs the collection's package 'common', but found another at {common.__path__}")
if common.__version__.split(".")[:2] != ["0", "2"]:
    raise ImportError(f"lesion_msgan needs version 0.2 of the package 'common', but found {common.__version__}")

from . import (
    cases,
    data,
    detection,
    detector,
    losses,
    metrics,
    networks,
    pictures,
    recipe,
    regions,
    savers,
    slices,
    training,
    transforms,
    volumes,
)

__all__ = [
    "cases",
    "data",
    "detection",
    "detector",
    "losses",
    "metrics",
    "networks",
    "pictures",
    "recipe",
    "regions",
    "savers",
    "slices",
    "training",
    "transforms",
    "volumes",
]
