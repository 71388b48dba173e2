# SPDX-License-Identifier: Apache-2.0
"""Data sets: cases split into training, validation and test, and sample data that is made, not downloaded."""

from . import datasets, sample_data, subjects

__all__ = ["datasets", "sample_data", "subjects"]
