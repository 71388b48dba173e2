# SPDX-License-Identifier: Apache-2.0
"""The keys of this bundle's configurations; their defaults stand in the configurations themselves."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.engine.keys import Key, Recipe, flag, name, number, path, pick, whole
from common.errors import InputError
from common.utils.values import boolean, value

from .degradation import ways_of
from .slices import PLANES

__all__ = ["RECIPE", "weights_of"]

VARIANTS = {"mse": "model.pt", "msgan": "msgan.pt"}
TAKEN = ("truth", "network", "bicubic", "bilinear", "label", "pred", "image", "case", "setting", "baseline")


def weights_of(folder: str, variant: str) -> str:
    """The shipped weights of a ``variant``: ``mse``, trained with MSE alone, or ``msgan``, with a critic."""
    return str(Path(folder, VARIANTS[variant]))


def _filters(given: Any) -> list[int] | None:
    plain = value(given)
    if plain is None:
        return None
    if not isinstance(plain, list | tuple) or not plain or not all(type(n) is int and n > 0 for n in plain):
        raise InputError(f"critic_filters must be a list of whole numbers, one per convolution; got {given!r}")
    return list(plain)


def _skip(given: Any) -> bool | None:
    return None if value(given) is None else boolean(given)


def _compared(given: Any) -> dict[str, str]:
    plain = value(given)
    if plain is None:
        return {}
    if not isinstance(plain, Mapping):
        raise InputError(f"compared must be like {{'srresnet': 'best.pt'}}, got {given!r}")
    known = {str(method).replace(" ", "_"): str(file) for method, file in plain.items()}
    for method in known:
        if method in TAKEN or not re.fullmatch(r"\w[\w.+-]*", method):  # it becomes a folder and an item's key
            raise InputError(f"compared: {method!r} is taken or no plain name; choose another")
    return known


RECIPE = Recipe(
    __file__,
    path("dataset_dir", "folder or single file; null: sample brains, made on first use"),
    name("pattern", "which files below the folder"),
    name("sequence", "only names that end so, such as `t1c`"),
    flag("allow_missing_slices", "inference: take a DICOM series of which files cannot be read, and name them"),
    name("mask_name", "training: takes the place of the sequence in the name of the lesion mask"),
    path("mask", "inference: lesion mask of the image, as a file, or as its name beside the image (`seg`)"),
    pick(
        "detector",
        "where the lesion is: `mask`, `network`, `foreground`; training: also `any`, the mask where there is one, else "
        "random crops of the foreground; inference: null for the first of them that can be",
        (None, "mask", "any", "network", "foreground"),
    ),
    path("detector_weights", "weights of the detector's network"),
    pick("axis", "how a volume is sliced: a plane, or 0, 1, 2 for the array's axes", (*PLANES, 0, 1, 2)),
    whole("margin", "inference: low-resolution pixels around the lesion", 0),
    Key("degradation", "simulated low resolution: `bicubic`, `block`, `kspace`, or a list of them", ways_of, text=True),
    whole("epochs", "epochs, of the game where there is one; null: the budget's", 1, empty=True),
    whole("pretraining", "epochs before them, with the generator and MSE alone; null: the budget's", 0, empty=True),
    whole("patches", "training crops per epoch; null: the budget's, or as many as slices", 1, empty=True),
    whole("batch_size", "crops per step; null: the budget's", 1, empty=True),
    whole("patch_size", "edge of the crops in pixels; null: the budget's", 4, empty=True),
    number("learning_rate", "learning rate; null: the budget's, another one for given weights", 0, empty=True),
    pick("schedule", "`step`, as in the paper, or `cosine`; null: the budget's", (None, "step", "cosine")),
    whole("warmup_steps", "steps in which the learning rate of `cosine` rises", 0),
    number("adversarial_weight", "weight of the adversarial term (eq. 7); 0: no critic", 0),
    number("x2_weight", "weight of the mean squared error on the x2 grid", 0),
    number("vgg_weight", "weight of the VGG term, which is 0 without `vgg_weights`", 0),
    path("vgg_weights", "file of torchvision's VGG-19"),
    pick("vgg_layer", "its layer: `conv5_4` or `conv2_2`", ("conv5_4", "conv2_2")),
    whole("critic_steps", "critic steps per generator step, each on a batch of its own", 1),
    number("critic_rate", "learning rate of the critic", 0),
    number("penalty_weight", "weight of the gradient penalty in its loss; 0: none", 0),
    number("weight_clip", "bound of the critic's weights (WGAN); null: none", 1e-6, empty=True),
    Key("critic_filters", "filters of the critic's convolutions; null: the budget's", _filters),
    whole("critic_units", "units of its first dense layer; null: the budget's", 1, empty=True),
    pick("best_by", "score that chooses `best.pt`: `psnr`, `ssim` or `gms`", ("psnr", "ssim", "gms")),
    whole("filters", "filters of a generator from random weights; null: the budget's", 1, empty=True),
    whole("blocks", "its residual blocks on the low-resolution grid; null: the budget's", 1, empty=True),
    whole("middle_blocks", "its residual blocks on the x2 grid; null: the budget's", 0, empty=True),
    Key("skip", "whether its heads add to bicubic interpolation; null: they do", _skip),
    pick("variant", "shipped weights: `mse` (`model.pt`) or, trained with a critic, `msgan` (`msgan.pt`)", [*VARIANTS]),
    whole("num_workers", "processes that prepare crops", 0, 256),
    number("memory_gb", "memory in GiB: of feature maps in inference, of the volumes in training", 0.1),
    number("val_fraction", "share of the subjects held out in training", 0.001, 0.999),
    path("split", "JSON file with lists of subjects `train`, `validate`, `test`, instead of `val_fraction`"),
    path("subjects_table", "CSV or TSV file: scans in its first column, the person in a column `subject`"),
    flag("orient", "augmentation: flip and transpose crops"),
    number("zoom", "augmentation: half of the slices are resampled by up to this factor; 1: none", 1, 4),
    number("max_gradient_norm", "clip the gradient's norm; null: not at all", 0, empty=True),
    whole("val_volumes", "validation volumes at most; null: the budget's", 1, empty=True),
    whole("val_slices", "slices of each in validation; null: the budget's", 1, empty=True),
    whole("slices", "evaluation: slices of each volume; null: all with lesion", 1, empty=True),
    Key("compared", "evaluation: further generators, such as `\"{'srresnet': 'best.pt'}\"`", _compared),
    path("lpips_weights", 'evaluation: state dict of `lpips.LPIPS(net="alex")`'),
    number("made_lesions", "detector: share of the slices that get a made lesion", 0, 1),
    whole("val_step", "detector: every which slice is validated; null: the budget's", 1, empty=True),
    pick("keep", "which weights `best.pt` holds: the `best` by the score, or the `last`", ("best", "last")),
    flag("bids", "inference: write the results as BIDS derivatives, below `output_dir`"),
    flag("integers", "inference: round NIfTI results to int16"),
    pick("factor", "inference: 4, or 2 for the generator's image on the x2 grid", (4, 2)),
    flag("save_std", "inference: average over the slice's flips and quarter turns, and save their standard deviation"),
    settings=(
        "variant",
        "mask",
        "detector",
        "axis",
        "margin",
        "factor",
        "save_std",
        "integers",
        "allow_missing_slices",
    ),
)
