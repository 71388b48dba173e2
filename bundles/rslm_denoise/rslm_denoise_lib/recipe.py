# SPDX-License-Identifier: Apache-2.0
"""The keys of this bundle's configurations; their defaults stand in the configurations themselves."""

from __future__ import annotations

from typing import Any

from common.engine.keys import Key, Recipe, edges, flag, name, names, number, path, pick, whole
from common.errors import InputError
from common.utils.values import value

from .data import COMPARED
from .networks import INITS
from .noise import KINDS, parse_levels

__all__ = ["RECIPE"]


def _filter_sizes(given: Any) -> list[int | list[int]] | None:
    plain = value(given)
    if plain is None:
        return None
    sizes = list(plain) if isinstance(plain, list | tuple) else []
    triples = [size if isinstance(size, list | tuple) else (size,) * 3 for size in sizes]
    if len(sizes) < 2 or not all(len(t) == 3 and all(type(n) is int and n % 2 == 1 for n in t) for t in triples):
        raise InputError(f"filter_sizes must be odd sizes of two layers or more, one or three each; got {given!r}")
    return sizes


def _compared(given: Any) -> list[str]:
    methods = names("compared", "").plain(given)
    if unknown := set(methods) - set(COMPARED):
        raise InputError(f"compared must be some of {', '.join(COMPARED)}; got {', '.join(sorted(unknown))}")
    return methods


def _levels(name: str, meaning: str) -> Key:
    return Key(name, meaning, lambda given: parse_levels(given, name))


RECIPE = Recipe(
    __file__,
    path("dataset_dir", "folder or single file; null: sample brains, made on first use"),
    name("pattern", "which files below the folder"),
    name("sequence", "only names that end so, such as `t1c`"),
    flag("allow_missing_slices", "inference: take a DICOM series of which files cannot be read, and name them"),
    path("paired", "folder of noisy scans of the clean ones in `dataset_dir`, by name, instead of added noise"),
    pick("noise", "what is added, `rician` or `noncentral_chi` (root of the sum of squares of `coils`)", KINDS),
    whole("coils", "channels of `noncentral_chi`", 1),
    number("noise_map", "how many times as strong the noise may be in places, as in parallel imaging; 1: nowhere", 1),
    _levels("training_levels", "lowest and highest noise level in training, in percent of the foreground's maximum"),
    _levels("test_levels", "noise levels that are scored"),
    pick("objective", "`paper` or `relative`; null: the budget's", (None, "paper", "relative")),
    number("relative_weight", "weight of the error relative to the noisy patch's; null: by objective", 0, empty=True),
    number("ms_ssim_weight", "weight of 1 - MS-SSIM, the paper's tau; null: by objective", 0, empty=True),
    number("l1_weight", "weight of the L1 loss, the paper's 1 - tau; null: by objective", 0, empty=True),
    number("adversarial_weight", "the paper's beta, 0: no critic; null: by objective", 0, empty=True),
    whole("generator_warmup", "first epochs without the critic", 0),
    whole("critic_steps", "critic's steps for one of the generator, on batches of their own", 1),
    number("critic_rate", "critic's learning rate", 0),
    pick("critic_dims", "2: slices of a patch as channels; 3: 3D convolutions", (2, 3)),
    whole("filters", "filters of a network from random weights; null: the budget's", 1, empty=True),
    Key("filter_sizes", "filter sizes of its layers, each one number or three; null: the budget's", _filter_sizes),
    flag("residual", "its layers compute what is taken away; null: the budget's", empty=True),
    pick("init", "`he` or `identity`; null: the budget's", (None, *INITS)),
    pick("keep", "weights that are kept: `best` by PSNR, or `last`", ("best", "last")),
    whole("num_workers", "processes that prepare patches", 0, 256),
    number("memory_gb", "memory for feature maps in whole-volume inference, in GiB", 0.0001),
    number("val_fraction", "share of the subjects held out in training", 0.001, 0.999),
    path("split", "JSON file with lists of subjects `train`, `validate`, `test`, instead of `val_fraction`"),
    path("subjects_table", "CSV or TSV file: scans in its first column, the person in a column `subject`"),
    whole("subjects", "training subjects at most", 1, empty=True),
    flag("orient", "augmentation: turn and flip training patches"),
    number("inverted", "share of the patches with dark and bright exchanged, for other contrasts", 0, 1),
    number("coarser", "each training scan once more, its voxels so much longer: less noise", 1, 4, empty=True),
    flag("masked_background", "validate with the noise around the head set to zero"),
    number("max_gradient_norm", "clip the gradient's norm; null: not at all", 0, empty=True),
    whole("warmup_steps", "steps in which the learning rate rises", 0),
    whole("epochs", "epochs; null: the budget's", 1, empty=True),
    whole("patches_per_volume", "generator's patches per volume and epoch; null: the budget's", 1, empty=True),
    whole("patches", "generator's patches per epoch, where `patches_per_volume` is null", 1, empty=True),
    whole("batch_size", "patches per step; null: the budget's", 1, empty=True),
    edges("patch_size", "edge of the patches in voxels, one number or three; null: the budget's", 4),
    number("learning_rate", "learning rate; null: the budget's, another one for given weights", 0, empty=True),
    whole("val_volumes", "validation volumes at most; null: the budget's", 1, empty=True),
    whole("val_crop", "edge of the middle part that is validated; null: the budget's", 1, empty=True),
    edges("crop", "evaluation: middle part of this edge length only, one number or three"),
    Key("compared", "evaluation: other methods, of `gaussian`, `nlm` (scikit-image), `bm4d` (bm4d)", _compared),
    flag("save_residual", "inference: save what was taken away, too"),
    flag("estimate_noise", "inference: estimate the noise level and print it"),
    flag("bids", "inference: write the results as BIDS derivatives, below `output_dir`"),
    flag("integers", "inference: round the result to int16"),
    flag("tta", "average over the 8 flips of the scan: a little better, at 8 times the cost"),
    flag("save_std", "inference: average over the flips, and save their standard deviation, too"),
    settings=("integers", "allow_missing_slices", "tta", "save_std"),
)
