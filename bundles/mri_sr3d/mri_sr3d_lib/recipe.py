# SPDX-License-Identifier: Apache-2.0
"""The keys of this bundle's configurations; their defaults stand in the configurations themselves."""

from __future__ import annotations

from typing import Any

from common.engine.keys import Key, Recipe, edges, flag, name, names, number, path, scales, triple, whole
from common.errors import InputError
from common.utils.values import value

__all__ = ["RECIPE"]


def _filters(given: Any) -> int | list[int] | None:
    plain = value(given)
    numbers = plain if isinstance(plain, list | tuple) else [plain]
    if plain is not None and not all(type(n) is int and n > 0 for n in numbers):
        raise InputError(f"filters must be a whole number, or one per hidden layer; got {given!r}")
    return plain


RECIPE = Recipe(
    __file__,
    path("dataset_dir", "folder or single file; null: sample brains, made on first use"),
    name("pattern", "which files below the folder"),
    name("sequence", "only names that end so, such as `t1n`"),
    flag("allow_missing_slices", "inference: take a DICOM series of which files cannot be read, and name them"),
    names("guides", "guide sequences, by name or as paths"),
    scales("scales", 'training scales, such as `"[[2,2,2],[1,1,4]]"`'),
    scales("test_scales", "scales that are scored"),
    whole("num_layers", "layers of a network from random weights; null: the budget's", 1, empty=True),
    Key("filters", "filters of its layers: one number, or one per hidden layer; null: the budget's", _filters),
    whole("num_workers", "processes that prepare patches", 0, 256),
    number("memory_gb", "memory for feature maps in whole-volume inference, in GiB", 0.0001),
    number("val_fraction", "share of the subjects held out in training", 0.001, 0.999),
    path("split", "JSON file with lists of subjects `train`, `validate`, `test`, instead of `val_fraction`"),
    path("subjects_table", "CSV or TSV file: scans in its first column, the person in a column `subject`"),
    whole("subjects", "training subjects at most", 1, empty=True),
    number("sigma", "blur in voxels instead of the paper's rule", 0, empty=True),
    number("slice_profile", "thickness of the simulated slices as a share of their spacing, below 1 for gaps", 0),
    number("guide_dropout", "probability that a guide is zeroed in a training patch", 0, 1),
    flag("orient", "augmentation: turn and flip training patches"),
    flag("resample_patches", "draw other patches in each epoch; false: one set, as in the paper"),
    number("jitter", "augmentation: largest change of a patch's gain and offset", 0, 0.5),
    number("smoothing", "augmentation: share of the patches whose truth is smoothed, as resampled scans are", 0, 1),
    number("max_gradient_norm", "clip the gradient's norm; null: not at all", 0, empty=True),
    whole("warmup_steps", "steps in which the learning rate rises", 0),
    whole("epochs", "epochs; null: the budget's", 1, empty=True),
    whole("patches_per_volume", "patches per volume and epoch; null: the budget's", 1, empty=True),
    whole("patches", "patches per epoch, where `patches_per_volume` is null", 1, empty=True),
    whole("batch_size", "patches per step; null: the budget's", 1, empty=True),
    whole("patch_size", "edge of the patches in voxels; null: the budget's", 3, empty=True),
    number("learning_rate", "learning rate; null: the budget's, another one for given weights", 0, empty=True),
    whole("val_volumes", "validation volumes at most; null: the budget's", 1, empty=True),
    whole("val_crop", "edge of the middle part that is validated; null: the budget's", 1, empty=True),
    edges("crop", "evaluation: middle part of this edge length only, one number or three"),
    name(
        "mask_name",
        "evaluation: takes the place of the sequence in a lesion mask's name, whose drift is scored; null: none",
    ),
    triple("spacing", "inference: target in mm; null: isotropic at the finest spacing"),
    triple("scale", "inference: factors instead of `spacing`"),
    triple("slice_thickness", "inference: thickness in mm where it is not the spacing"),
    number(
        "data_consistency",
        "correct results so that they explain the scan: how much noisier it is, as variances; null: not at all",
        1e-6,
        empty=True,
    ),
    flag("bids", "inference: write the results as BIDS derivatives, below `output_dir`"),
    flag("integers", "inference: round the result to int16"),
    flag("tta", "average over the 8 flips of the scan: a little better, at 8 times the cost"),
    flag("save_std", "inference: average over the flips, and save their standard deviation, too"),
    settings=(
        "spacing",
        "scale",
        "slice_thickness",
        "guides",
        "integers",
        "allow_missing_slices",
        "data_consistency",
        "tta",
    ),
)
