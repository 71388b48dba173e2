# SPDX-License-Identifier: Apache-2.0
"""Bundles as clients of a federation, through MONAI's own algorithm class."""

from __future__ import annotations

import shutil

import pytest
import torch
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems, WeightType
from monai.fl.utils.exchange_object import ExchangeObject

from tools.package import ROOT, bundle_names

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # of batch normalisation: seen, not learned


@pytest.fixture
def sites(tiny, tmp_path):
    """A function that starts clients with half of the data each."""
    started = []

    def start(name, count=2, rate=0.001, **algorithm):
        bundle = tiny(name)
        for number in range(1, count + 1):
            folder = tmp_path / f"site-{number}"
            _half_of(bundle.data, folder / "data", number)
            settings = {"dataset_dir": str(folder / "data"), "device": "cpu"}
            train = bundle.keys("train", folder / "runs", rate, **settings)
            evaluation = bundle.keys("evaluate", folder / "eval", rate, **settings)
            root = str(ROOT / "bundles" / name)
            algorithm = {"send_weight_diff": False, **algorithm}
            client = MonaiAlgo(bundle_root=root, train_kwargs=train, eval_kwargs=evaluation, **algorithm)
            client.initialize({ExtraItems.CLIENT_NAME: f"site-{number}", ExtraItems.APP_ROOT: str(folder)})
            started.append(client)
        return started, torch.load(bundle.models / "model.pt", weights_only=True)  # what a server starts from

    yield start
    for client in started:
        client.finalize()


def _half_of(data, folder, number):
    """Copies two of four cases, or of four frames of each probe."""
    shutil.copytree(data, folder)
    below = [folder] if not (folder / "low").is_dir() else [folder / "low", folder / "high", folder / "truth"]
    for part in below:
        for place, path in enumerate(sorted(part.iterdir())):
            if place // 2 != number - 1:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def weights_of(client):
    answer = client.get_weights()
    assert answer.weight_type == WeightType.WEIGHTS
    return {name: torch.as_tensor(weight).clone() for name, weight in answer.weights.items()}


def averaged(first, second):
    """FedAvg of two sites with as much data each."""
    return {name: ((a.double() + second[name].double()) / 2).to(a.dtype) for name, a in first.items()}


@pytest.mark.parametrize("name", bundle_names())
def test_two_sites_train_a_round_and_evaluate_their_average(sites, name):
    clients, sent = sites(name)
    before = [p.clone() for p in getattr(clients[0].trainer, "discriminator", torch.nn.Identity()).parameters()]
    for client in clients:
        client.train(ExchangeObject(weights=sent))
    answers = [weights_of(client) for client in clients]
    for answer in answers:
        assert answer.keys() == sent.keys()
        assert any(not torch.equal(answer[key], sent[key]) for key in sent if not key.endswith(STATISTICS))
        assert all(tensor.isfinite().all() for tensor in answer.values())
    assert any(not torch.equal(answers[0][key], answers[1][key]) for key in sent), "each has data of its own"
    after = getattr(clients[0].trainer, "discriminator", torch.nn.Identity()).parameters()
    assert not before or any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
    shared = averaged(*answers)
    for client in clients:
        metrics = client.evaluate(ExchangeObject(weights=shared)).metrics
        key = client.evaluator.state.key_metric_name
        compared = {"kl_above_floor": "kl_reference"}.get(key, key)  # a rule of choice, which the input has no score in
        assert f"baseline_{compared}" in metrics and torch.isfinite(torch.as_tensor(metrics[key])).all()
    state = clients[0].evaluator.network.state_dict()
    assert all(torch.equal(state[key], tensor) for key, tensor in shared.items()), "it is the average that was scored"
    # a second round starts from the average
    clients[0].train(ExchangeObject(weights=shared))
    assert clients[0].trainer.state.epoch == 2


@pytest.mark.parametrize("name", bundle_names())
def test_with_learning_rate_0_the_global_weights_come_back(sites, name):
    (client,), sent = sites(name, count=1, rate=0.0)
    client.train(ExchangeObject(weights=sent))
    changed = {key for key, tensor in weights_of(client).items() if not torch.equal(tensor, sent[key])}
    # batch normalisation that is not frozen keeps statistics of what it has seen, whatever the rate
    seen = set(STATISTICS) if name == "lesion_msgan" else set()
    assert {key.rsplit(".", 1)[1] for key in changed} == seen


def test_differences_leave_what_is_no_weight_alone(sites):
    """The histograms among brasyn_synthesis's weights survive where only differences travel."""
    (client,), sent = sites("brasyn_synthesis", count=1, send_weight_diff=True)
    client.train(ExchangeObject(weights=sent))
    answer = client.get_weights()
    assert answer.weight_type == WeightType.WEIGHT_DIFF
    assert sent["landmarks"].any() and not torch.as_tensor(answer.weights["landmarks"]).any()
