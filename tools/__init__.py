# SPDX-License-Identifier: Apache-2.0
"""Command-line programs around the bundles: sample data, checks, packages, benchmarks and results."""
