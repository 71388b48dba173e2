# SPDX-License-Identifier: Apache-2.0
"""Parts that the bundles of this collection share, in rooms: utils, io, transforms, samplers, data, inferers, ..."""

__version__ = "0.2.0"
__bundle_collection__ = "restoration-bundles 0.2"  # tells it from others called `common`

from . import data, engine, handlers, inferers, io, losses, metrics, report, samplers, transforms, utils

__all__ = [
    "data",
    "engine",
    "handlers",
    "inferers",
    "io",
    "losses",
    "metrics",
    "report",
    "samplers",
    "transforms",
    "utils",
]
