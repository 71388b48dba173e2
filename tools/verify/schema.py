# SPDX-License-Identifier: Apache-2.0
"""What a bundle's ``metadata.json`` has to hold.

Written from the published meaning of the Model Zoo's schema of 2024-07-25 (draft 2019-09): its required keys and types,
and as required here too the optional ones that good bundles of the Zoo give.
"""

from __future__ import annotations

__all__ = ["SCHEMA"]

TEXT = {"type": "string", "minLength": 1}
VERSION = {"type": "string", "pattern": r"^\d+\.\d+(\.\d+)?$"}
TENSOR = {
    "type": "object",
    "required": [
        *["type", "format", "num_channels", "spatial_shape", "dtype", "value_range", "is_patch_data", "channel_def"],
    ],
    "properties": {
        "type": TEXT,
        "format": TEXT,
        "modality": TEXT,
        "num_channels": {"type": "integer", "minimum": 1},
        "spatial_shape": {"type": "array", "minItems": 1, "items": {"type": ["integer", "string"]}},
        "dtype": TEXT,
        "value_range": {"type": "array", "items": {"type": "number"}},
        "is_patch_data": {"type": "boolean"},
        "channel_def": {"type": "object", "patternProperties": {r"^\d+$": TEXT}, "additionalProperties": False},
    },
}
TENSORS = {"type": "object", "minProperties": 1, "additionalProperties": TENSOR}
FORMAT = {
    "type": "object",
    "required": ["inputs", "outputs"],
    "properties": {"inputs": TENSORS, "outputs": TENSORS, "post_processed_outputs": TENSORS},
}
SCHEMA = {
    "$schema": "https://json-schema.org/draft/2019-09/schema",
    "type": "object",
    "required": [
        *["schema", "version", "changelog", "monai_version", "pytorch_version", "numpy_version"],
        *["required_packages_version", "name", "task", "description", "authors", "copyright"],
        *["data_source", "data_type", "image_classes", "label_classes", "pred_classes", "eval_metrics", "intended_use"],
        *["references", "network_data_format"],
    ],
    "properties": {
        "schema": {"type": "string", "format": "uri"},
        "version": VERSION,
        "changelog": {"type": "object", "minProperties": 1, "additionalProperties": TEXT},
        "monai_version": VERSION,
        "pytorch_version": VERSION,
        "numpy_version": VERSION,
        "required_packages_version": {"type": "object", "additionalProperties": VERSION},
        **{name: TEXT for name in ("name", "task", "description", "authors", "copyright", "data_source", "data_type")},
        **{name: TEXT for name in ("image_classes", "label_classes", "pred_classes", "intended_use")},
        "eval_metrics": {"type": "object", "minProperties": 1, "additionalProperties": {"type": "number"}},
        "references": {"type": "array", "minItems": 1, "items": TEXT},
        "network_data_format": FORMAT,
    },
    "patternProperties": {"^[_a-zA-Z0-9]+_data_format$": FORMAT},
}
