# SPDX-License-Identifier: Apache-2.0
"""Bundles as clients of a federation, through MONAI's own algorithm class."""

import pytest
import torch
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems, WeightType
from monai.fl.utils.exchange_object import ExchangeObject

import rslm_denoise_lib
from common.sample_data import write_brain_cases

SIZES = [[3, 3, 1], 3, [3, 3, 1]]
BUDGET = {"epochs": 1, "warmup": 0, "patches_per_volume": None, "patches": 12, "batch_size": 2, "patch_size": 12}
BUDGET |= {"learning_rate": 0.001, "val_volumes": 1, "val_crop": 16}


@pytest.fixture
def client(tmp_path):
    write_brain_cases(tmp_path / "scans", 2, (28, 30, 24), progress=False)
    keys = {
        **{"dataset_dir": str(tmp_path / "scans"), "sequence": "t1c", "device": "cpu", "budgets": {"short": BUDGET}},
        **{"output_dir": str(tmp_path / "runs"), "ckpt_dir": str(tmp_path / "models"), "from_scratch": True},
        **{"network_def::filters": 4, "network_def::filter_sizes": SIZES, "train::trainer::critic_steps": 2},
    }
    root = str(rslm_denoise_lib.__path__[0]).removesuffix("rslm_denoise_lib")
    evaluation = {**keys, "test_levels": [3], "crop": 16, "classical": False}
    algo = MonaiAlgo(bundle_root=root, send_weight_diff=False, train_kwargs=keys, eval_kwargs=evaluation)
    algo.initialize({ExtraItems.CLIENT_NAME: "site-1", ExtraItems.APP_ROOT: str(tmp_path)})
    yield algo
    algo.finalize()


def test_a_round_of_adversarial_training(client):
    sent = {name: torch.as_tensor(weight).clone() for name, weight in client.get_weights().weights.items()}
    before = [parameter.clone() for parameter in client.trainer.discriminator.parameters()]
    client.train(ExchangeObject(weights=sent))
    answer = client.get_weights()
    assert answer.weight_type == WeightType.WEIGHTS and set(answer.weights) == set(sent)
    assert any(not torch.equal(torch.as_tensor(answer.weights[name]), weight) for name, weight in sent.items())
    after = client.trainer.discriminator.parameters()
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))  # both networks trained
    metrics = client.evaluate(ExchangeObject(weights=sent)).metrics
    assert metrics["psnr_foreground"] > 0 and metrics["baseline_psnr_foreground"] > 20
