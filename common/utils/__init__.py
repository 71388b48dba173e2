# SPDX-License-Identifier: Apache-2.0
"""What every other room may use: terminal output, processes, tensors, values of configuration keys."""

from . import console, distributed, images, types, values

__all__ = ["console", "distributed", "images", "types", "values"]
