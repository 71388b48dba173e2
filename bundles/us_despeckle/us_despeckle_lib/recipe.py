# SPDX-License-Identifier: Apache-2.0
"""The keys of this bundle's configurations; their defaults stand in the configurations themselves."""

from __future__ import annotations

from typing import Any

from common.engine.keys import Key, Recipe, flag, number, path, whole
from common.errors import InputError
from common.utils.values import names, value

from .region import parse_box

__all__ = ["RECIPE"]

STAGES = ("identity", "discriminator", "adversarial")


def _stages(given: Any) -> list[str]:
    wanted = names(given)
    for stage in wanted:
        if stage not in STAGES:
            raise InputError(f"stage {stage!r} is unknown; choose from {', '.join(STAGES)}")
    return wanted


def _boxes(given: Any) -> Any:
    plain = value(given)
    if isinstance(plain, list | tuple) and plain and isinstance(plain[0], list | tuple):
        return [parse_box(box, "roi") for box in plain]
    return parse_box(plain, "roi")


def _channels(given: Any) -> list[int] | None:
    plain = value(given)
    if plain is None:
        return None
    if not isinstance(plain, list | tuple) or not all(type(n) is int and n > 0 for n in plain):
        raise InputError(f"discriminator_channels must be a list such as [32,64,128,256]; got {given!r}")
    return list(plain)


RECIPE = Recipe(
    __file__,
    path(
        "dataset_dir",
        "folder with `low/` and `high/`; inference: file or folder; null: sample probes, made on first use",
    ),
    Key(
        "stages",
        f"list of stages ({', '.join(STAGES)}); null: all, without `identity` where weights are given",
        _stages,
        text=True,
    ),
    path("discriminator_weights", "an earlier run's `last.pt`, whose discriminator to start from"),
    whole("channels", "channels of a network from random weights; null: the budget's", 1, empty=True),
    whole("blocks", "residual blocks of a network from random weights; null: the budget's", 0, empty=True),
    whole("num_workers", "processes that prepare patches", 0, 256),
    number("memory_gb", "memory for feature maps, in GiB; larger frames are computed in bands", 1e-4),
    number("val_fraction", "share of the subjects of `low/` held out; without a table each file is one", 0.001, 0.999),
    path("split", "JSON file with lists of subjects `train`, `validate`, `test`, instead of `val_fraction`"),
    path("subjects_table", "CSV or TSV file: frames in its first column, the person in a column `subject`"),
    whole("val_frames", "validation frames at most; null: the budget's", 1, empty=True),
    whole("val_crop", "edge of the middle part that is validated; null: the budget's", 1, empty=True),
    whole("crop", "evaluation: middle part of this edge length only", 1, empty=True),
    Key("region", 'the ultrasound as `"[left,top,right,bottom]"`; null: from DICOM, or found', parse_box),
    Key("roi", "evaluation: where speckle is measured: a box or a list of boxes; null: found", _boxes),
    Key(
        "contrast_roi",
        "evaluation: a box to contrast it with; null: found",
        lambda given: parse_box(given, "contrast_roi"),
    ),
    path("roi_mask", "evaluation: a mask picture with both, or a folder of masks"),
    whole("epochs", "epochs of the adversarial stage; null: the budget's, like all below it", 1, empty=True),
    whole("iterations", "iterations of an epoch: the discriminator steps once, then the generator", 1, empty=True),
    whole("generator_steps", "steps of the generator in an iteration", 1, empty=True),
    whole("patch_size", "edge of the generator's patches in pixels", 32, empty=True),
    whole("batch_size", "patches of a generator's step, half as many as in the first stage", 1, empty=True),
    number("learning_rate", "of the generator", 0, empty=True),
    whole("discriminator_patch_size", "edge of what the discriminator sees, at most `patch_size`", 8, empty=True),
    whole("discriminator_batch_size", "patches of a discriminator's step, half of them real", 2, empty=True),
    number("discriminator_learning_rate", "of the discriminator", 0, empty=True),
    Key("discriminator_channels", "channels of its pairs of convolutions", _channels),
    flag("centred", "the discriminator sees each patch without its mean"),
    whole("pool_size", "earlier results that the discriminator may be shown again", 1, empty=True),
    number("structure_weight", "lambda, weight of L1 + MS-SSIM", 0),
    number("brightness_weight", "weight of the difference of mean grey levels", 0),
    flag("frozen_norm", "batch normalisation keeps its statistics in the last two stages"),
    whole("identity_epochs", "epochs of the first stage", 1, empty=True),
    whole("identity_samples", "patches of each", 1, empty=True),
    number("identity_learning_rate", "its learning rate", 0, empty=True),
    flag("identity_cosine", "its rate rises, then falls as a cosine; false: it stays"),
    whole("pretraining_epochs", "epochs of the discriminator's stage", 1, empty=True),
    whole("pretraining_samples", "patches of each, half of them real", 2, empty=True),
    whole("pretraining_batch_size", "patches per step, half of them real", 2, empty=True),
    number("pretraining_learning_rate", "its learning rate", 0, empty=True),
    number("ssim_floor", "least SSIM to the input of weights that are kept", -1, 1),
    flag("keep_mean", "multiply each result by a number, so that its mean over the ultrasound is the input's"),
    path("reference", "inference: histogram file, or folder of the reference probe, for the picture; null: none"),
    flag("save_std", "inference: average over the frame's flips, and save their standard deviation, too"),
    flag("histograms", "inference: write the picture of histograms"),
    flag("lossless", "inference: PNG where the input is JPEG"),
    flag("deidentify", "inference: no patient in DICOM (basic profile of PS3.15), black outside the ultrasound"),
    settings=("region", "keep_mean", "save_std", "lossless", "deidentify"),
)
