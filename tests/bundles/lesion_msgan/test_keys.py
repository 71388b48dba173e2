# SPDX-License-Identifier: Apache-2.0
"""Keys of the command line: what cannot be is named in one line, and what changes the network is not overlooked."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

import lesion_msgan_lib
from common.inferers import region
from common.io.hashes import file_hash
from common.io.weights import load_flat
from lesion_msgan_lib.networks import MultiScaleGenerator, SRResNet

BUNDLE = Path(lesion_msgan_lib.__file__).parents[1]
CONFIGS = BUNDLE / "configs"
BRAIN = (48, 52, 24)  # voxels
FORM = {"filters": 4, "blocks": 1, "middle_blocks": 1}
BUDGET = {"network": FORM, "epochs": 1, "pretraining": 1, "patches": 4, "batch_size": 2, "patch_size": 32}
BUDGET |= {
    "critic_filters": [4, 4, 8],
    "critic_units": 8,
    "learning_rate": 0.003,
    "fine_tuning_rate": 0.003,
    "schedule": "step",
    "val_volumes": 1,
    "val_slices": 1,
}
DETECTOR_BUDGET = {"epochs": 1, "patches": 8, "batch_size": 4, "patch_size": 32, "learning_rate": 0.01}
DETECTOR_BUDGET |= {"val_volumes": 1, "val_step": 4}


@pytest.fixture
def start(brains, tmp_path, run):
    """Runs configs on the module's brains with few weights; the bundle's own weights are an untrained network's."""

    def give(*configs, **keys):
        models = tmp_path / "models"
        models.mkdir(exist_ok=True)
        if not (models / "model.pt").is_file():
            torch.save(MultiScaleGenerator(**FORM).state_dict(), models / "model.pt")
        settings = {"dataset_dir": brains, "sequence": "t1c", "output_dir": tmp_path / "runs", "ckpt_dir": models}
        if configs == ("train_detector",):
            settings |= {"budgets": {"short": DETECTOR_BUDGET}, "from_scratch": True}
        elif "inference" in configs:
            settings |= {"output_dir": tmp_path / "out", "detector": "foreground"}
        else:
            settings |= {"budgets": {"short": BUDGET}, "degradation": "bicubic"}
        return run(*configs, **{**settings, **keys})

    return give


WHOLE = {"least 0": "a whole number from 0", "least 1": "a whole number from 1"}
TRAINING = [  # what is a number at all is tested with common.utils.values.quantity
    ("critic_steps", WHOLE["least 1"], ("0", "x")),
    ("critic_rate", "a number from 0", ("x", "null")),
    ("zoom", "a number from 1 up to 4", ("0.5",)),
    ("ema", "a number from 0 up to 0.99999", ("1",)),
    ("max_gradient_norm", "a number from 0 or null", ("x",)),
    ("adversarial_weight", "a number from 0", ("x", "-1")),
    ("pretraining", WHOLE["least 0"] + " or null", ("x",)),
    ("weight_clip", "a number from 1e-06 or null", ("x", "0")),
    ("x2_weight", "a number from 0", ("-1",)),
    ("vgg_weight", "a number from 0", ("x",)),
    ("memory_gb", "a number from 0.1", ("0",)),
    ("num_workers", WHOLE["least 0"] + " up to 256", ("x",)),
]


def flat(configs, rows):
    return [(configs, key, text, wrong) for key, text, wrongs in rows for wrong in wrongs]


@pytest.mark.parametrize(
    ("configs", "key", "text", "wrong"),
    [
        *flat(("train",), TRAINING),
        *flat(("train_detector",), TRAINING[-1:]),
        *flat(("train", "evaluate"), [("slices", WHOLE["least 1"] + " or null", ("x", "0", "-1"))]),
        *flat(("inference",), [("margin", WHOLE["least 0"], ("x", "null", "-3", "1.5")), TRAINING[-2]]),
    ],
)
def test_numbers_that_cannot_be_are_named_in_one_line(start, configs, key, text, wrong, line_of):
    with pytest.raises(Exception) as error:
        start(*configs, **{key: wrong})
    assert line_of(error) == f"{key} must be {text}; got {wrong!r}"


@pytest.mark.parametrize("wrong", ["null", "5"])
def test_a_score_that_is_none_is_named(start, wrong, line_of):
    with pytest.raises(Exception) as error:
        start("train", best_by=wrong)
    assert line_of(error) == f"best_by must be psnr or ssim or gms; got {wrong!r}"


@pytest.mark.parametrize("wrong", ["[4, 0]", "8", "[]", "[4, 'x']"])
def test_filters_that_cannot_be_are_named(start, wrong, line_of):
    with pytest.raises(Exception) as error:
        start("train", critic_filters=wrong)
    assert line_of(error).startswith("critic_filters must be a list of whole numbers, one per convolution; got")


def test_numbers_as_the_command_line_has_them(start, tmp_path):
    keys = {"critic_steps": "1", "critic_rate": "1e-5", "adversarial_weight": "0.002", "pretraining": "0"}
    keys |= {"x2_weight": "0.5", "vgg_weight": "0", "weight_clip": "0.02", "memory_gb": "0.5", "num_workers": "0"}
    keys |= {"zoom": "1.5", "ema": "0", "max_gradient_norm": "null", "schedule": "cosine", "warmup_steps": "1"}
    workflow = start("train", promote="false", **keys)
    get = workflow.parser.get_parsed_content
    trainer = get("train::trainer")
    assert (trainer.critic_steps, trainer.adversarial_weight, trainer.generator_warmup) == (1, 0.002, 0)
    assert get("discriminator_optimizer").param_groups[0]["initial_lr"] == 1e-5
    assert get("average").network is get("network") and get("train::patches").zoom == 1.5
    assert max(float(p.detach().abs().max()) for p in trainer.discriminator.parameters()) <= 0.02 + 1e-7
    assert get("loss").weights == {"mse_x2": 0.5, "mse_x4": 1, "vgg": 0}
    assert get("validate::inferer").memory_gb == 0.5
    assert (
        start("train", promote="false", weight_clip="null", pretraining="null")
        .parser.get_parsed_content("train::trainer")
        .generator_warmup
        == BUDGET["pretraining"]
    )
    workflow = start("train", "evaluate", slices="2")
    assert len(workflow.parser.get_parsed_content("validate::dataset")) == 6


def test_memory_does_not_change_a_result(start, tmp_path, monkeypatch):
    monkeypatch.setattr(region, "SCRATCH", 100)  # as if the maps of four filters were large
    image = np.random.default_rng(0).random((60, 56, 3), np.float32) * 900
    nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / "one.nii.gz")
    torch.manual_seed(0)
    network = MultiScaleGenerator(4, 1)
    torch.nn.init.normal_(network.head_x4.weight, std=0.1)
    torch.save(network.state_dict(), tmp_path / "w.pt")
    results, given = [], []
    for memory_gb in ("0.1", "8"):
        sizes: list[int] = []

        def note(module, args, sizes=sizes):
            if isinstance(module, SRResNet):
                sizes.append(args[0].numel())

        hook = torch.nn.modules.module.register_module_forward_pre_hook(note)
        keys = {"dataset_dir": tmp_path / "one.nii.gz", "sequence": None, "weights": tmp_path / "w.pt"}
        start("inference", memory_gb=memory_gb, **keys)
        hook.remove()
        given.append(sizes)
        results.append(nib.load(tmp_path / "out" / "one_sr.nii.gz").get_fdata())
        shutil.rmtree(tmp_path / "out")
    assert given[1] == [3 * 60 * 56] and len(given[0]) > 3 and max(given[0]) < 60 * 56
    np.testing.assert_allclose(results[0], results[1], rtol=0, atol=1e-5 * np.abs(results[1]).max())


def test_the_critic_has_the_generator_s_rate(start):
    get = start("train", promote="false").parser.get_parsed_content
    rates = [get(name).param_groups[0]["initial_lr"] for name in ("optimizer", "discriminator_optimizer")]
    assert rates == [BUDGET["fine_tuning_rate"]] * 2


def test_a_network_without_skip_does_not_replace_one_with_it(start, tmp_path, capsys):
    keys = {"from_scratch": "true", "skip": "false"}  # as the command line has it
    workflow = start("train", run_name="before", promote="false")
    assert workflow.parser.get_parsed_content("network").skip is True
    before = file_hash(tmp_path / "models" / "model.pt")
    workflow = start("train", run_name="plain", promote="true", **keys)
    assert workflow.parser.get_parsed_content("network").skip is False
    assert "model.pt stays: it belongs to another network shape" in capsys.readouterr().out
    assert file_hash(tmp_path / "models" / "model.pt") == before
    assert "no_skip" in load_flat(tmp_path / "runs" / "plain" / "best.pt")


def test_weights_tell_their_network_everywhere(start, tmp_path, capsys):
    plain = tmp_path / "plain.pt"
    torch.save(MultiScaleGenerator(3, 2, 1, skip=False).state_dict(), plain)
    scan = tmp_path / "one.nii.gz"
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random((20, 24, 2), np.float32) * 900, np.eye(4)), scan)
    jobs = {("inference",): {"dataset_dir": scan, "sequence": None}, ("train",): {"promote": "false"}}
    for configs, keys in jobs.items():
        network = start(*configs, weights=plain, **keys).parser.get_parsed_content("network")
        assert (network.leave.out_channels, len(network.blocks), len(network.middle)) == (3, 2, 1)
        assert not network.skip
    both = f"{{'same': '{plain}'}}"
    start("train", "evaluate", slices=1, run_name="e", compared=both, weights=plain)
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| mean")]
    means = {cells[3].strip(): float(cells[5].split()[0]) for cells in (r.split("|") for r in rows)}
    assert means["same"] == pytest.approx(means["network"], abs=0.3)  # of the whole slice, and of the region's context
    assert means["same"] < means["bicubic"] - 3


def test_a_key_that_contradicts_the_weights_is_named(start, line_of):
    with pytest.raises(Exception) as error:
        start("train", filters="8")
    assert "holds a network with filters 4, not 8; add --from_scratch true" in line_of(error)


def test_the_adversarial_weights_are_a_key_away(start, tmp_path):
    scan = tmp_path / "one.nii.gz"
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random((20, 24, 2), np.float32) * 900, np.eye(4)), scan)
    (tmp_path / "models").mkdir()
    torch.save(MultiScaleGenerator(2, 1, 1).state_dict(), tmp_path / "models" / "msgan.pt")
    for variant, filters in (("msgan", 2), ("mse", 4)):
        workflow = start("inference", variant=variant, dataset_dir=scan, sequence=None)
        assert workflow.parser.get_parsed_content("network").leave.out_channels == filters


def test_an_evaluation_scores_each_way_of_down_sampling(start, tmp_path):
    start("train", "evaluate", slices=1, run_name="ways", degradation="['block', 'kspace']")
    table = (tmp_path / "runs" / "ways" / "scores.csv").read_text(encoding="utf-8")
    assert "x4 block" in table and "x4 kspace" in table and "x4 bicubic" not in table
