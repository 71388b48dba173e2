# SPDX-License-Identifier: Apache-2.0
"""The keys of this bundle's configurations; their defaults stand in the configurations themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.engine.keys import Key, Recipe, flag, name, number, path, pick, whole
from common.errors import InputError
from common.utils.values import boolean, value

from .data import checked_target
from .losses import checked_weights
from .networks import NORMS

__all__ = ["RECIPE"]


def _perceptual(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Without its network's weights the perceptual term is off, and recorded so."""
    if "loss_weights" not in keys or keys["vgg_weights"] is not None:
        return {}
    if keys["needs_vgg"]:
        raise InputError("this experiment is about the perceptual loss; give --vgg_weights FILE")
    return {"loss_weights": {**keys["loss_weights"], "vgg": 0.0}}


def _target(given: Any) -> str | None:
    return None if value(given) is None else checked_target(given)


def _switch(given: Any) -> bool | None:
    return None if value(given) is None else boolean(given)


RECIPE = Recipe(
    __file__,
    path("dataset_dir", "folder of cases, a case, or (inference) a 4D file; null: sample brains, made on first use"),
    path("t1n", "inference: this sequence's file of one case, instead of `dataset_dir`"),
    path("t1c", "likewise"),
    path("t2w", "likewise"),
    path("t2f", "likewise"),
    name("pattern", "which files below the folder"),
    Key("target", "the sequence to make: `t1n`, `t1c`, `t2w`, `t2f`; null (inference): the missing one", _target, True),
    flag("allow_missing_slices", "inference: take DICOM series of which some files cannot be read, and name them"),
    whole("width", "channels of the generator's first level, for random weights; null: the budget's", 1, empty=True),
    whole("depth", "its levels; null: the budget's", 1, empty=True),
    whole("full_width", "its channels at full resolution, 0 for none; null: the budget's", 0, empty=True),
    Key("linear_skip", "whether it adds a linear convolution of the inputs; null: the budget's", _switch),
    pick("norm", "its normalisation: `batch` or `instance`; null: none", NORMS),
    whole("discriminator_width", "channels of the discriminator's first layer", 1),
    pick("discriminator_norm", "normalisation of its middle layers: `instance`, `batch` or null", NORMS),
    Key("loss_weights", "weights of `l1`, `masked_l1`, `ssim`, `vgg` and `frequency`", checked_weights),
    number("adversarial_weight", "weight of the adversarial term; 0: no discriminator", 0),
    number("tumour_weight", "share of the tumour in the masked L1", 0, 1),
    path("vgg_weights", "file of torchvision's VGG; null: the perceptual term is off, and recorded with weight 0"),
    pick("vgg_network", "the network it holds, `vgg19` or `vgg16`", ("vgg16", "vgg19")),
    flag("needs_vgg", "refuse to train without `vgg_weights`"),
    whole("generator_warmup", "first epochs, without discriminator", 0),
    flag("linear_start", "random weights start as the linear regression of the inputs"),
    whole("num_workers", "processes that prepare slices", 0, 256),
    number("memory_gb", "memory in GiB: cases that need more than half are decoded once into `cache_dir`", 1e-6),
    path("cache_dir", "decoded cases, shared by all targets and runs"),
    number("val_fraction", "share of the patients held out in training", 0.001, 0.999),
    path("split", "JSON file with lists of patients `train`, `validate`, `test`, instead of `val_fraction`"),
    path("subjects_table", "CSV or TSV file: scans in its first column, the person in a column `subject`"),
    whole("variants", "augmentation: variants of each case with a tumour pasted in, bias fields and thick slices", 0),
    number("jitter", "augmentation: change of the slopes of random grey-scale curves", 0, 0.9),
    whole("epochs", "epochs; null: the budget's", 1, empty=True),
    whole("patches", "slice stacks per epoch; null: the budget's", 1, empty=True),
    whole("batch_size", "stacks per step; null: the budget's", 1, empty=True),
    whole("patch_size", "edge of the stacks in pixels; null: the budget's", 1, empty=True),
    number("learning_rate", "learning rate of both networks; null: the budget's", 0, empty=True),
    whole("halve_every", "epochs after which it is halved; null: the budget's", 1, empty=True),
    whole("val_volumes", "validation cases at most; null: the budget's", 1, empty=True),
    whole("val_slices", "middle axial slices that are validated; null: the budget's", 1, empty=True),
    pick("keep", "`best` weights by SSIM in healthy brain, or the `last`", ("best", "last")),
    whole("slices", "evaluation: middle axial slices only", 1, empty=True),
    flag("challenge", "evaluation: scores by the convention of the challenge's script, on the files' whole grid"),
    path(
        "segmenter",
        "evaluation: weights of `train_segmenter.json` or a MONAI bundle's folder; its Dice with the real and with the "
        "made sequence; null: none",
    ),
    pick("views", "slice directions that are averaged: 9, or 1 for axial slices", (1, 9)),
    flag("save_std", "inference: save the standard deviation over the views, too"),
    flag("bids", "inference: write the results as BIDS derivatives, below `output_dir`"),
    rule=_perceptual,
    settings=("views", "allow_missing_slices"),
)
