# SPDX-License-Identifier: Apache-2.0
"""Files in and out: scans found, headers checked, images and weights read, results written with their provenance."""

from . import (
    bids,
    claims,
    derivatives,
    files,
    find,
    hashes,
    headers,
    inputs,
    pictures,
    prefetch,
    provenance,
    readers,
    runs,
    savers,
    series,
    weights,
)

__all__ = [
    "bids",
    "claims",
    "derivatives",
    "files",
    "find",
    "hashes",
    "headers",
    "inputs",
    "pictures",
    "prefetch",
    "provenance",
    "readers",
    "runs",
    "savers",
    "series",
    "weights",
]
