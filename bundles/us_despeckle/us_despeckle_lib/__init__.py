# SPDX-License-Identifier: Apache-2.0
"""What only the despeckling bundle needs: networks, frames of scanners, stages, and metrics of speckle."""

import common

if getattr(common, "__bundle_collection__", None) != "restoration-bundles":
    raise ImportError(f"us_despeckle needs the collection's package 'common', but found another at {common.__path__}")
if common.__version__.split(".")[:2] != ["0", "2"]:
    raise ImportError(f"us_despeckle needs version 0.2 of the package 'common', but found {common.__version__}")

from . import (
    data,
    frames,
    inferers,
    losses,
    metrics,
    networks,
    patches,
    pictures,
    recipe,
    reference,
    region,
    rois,
    savers,
    scores,
    stages,
    transforms,
)

__all__ = [
    "data",
    "frames",
    "inferers",
    "losses",
    "metrics",
    "networks",
    "patches",
    "pictures",
    "recipe",
    "reference",
    "region",
    "rois",
    "savers",
    "scores",
    "stages",
    "transforms",
]
