# SPDX-License-Identifier: Apache-2.0
"""The objective's weights, the methods that are compared, the scores, and expected times."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine
from torch import nn

from common.inputs import InputError
from common.losses import WeightedLoss
from common.trainers import AdversarialTrainer
from lesion_msgan_lib import metrics, training
from lesion_msgan_lib.networks import MultiScaleGenerator, SRResNet
from lesion_msgan_lib.training import MSEAlone, compared_networks, expected_seconds, objective, schedule, weights_of


def test_the_objective_s_weights():
    assert objective(1, 1.0, "0.006", "vgg.pt") == {"mse_x2": 1, "mse_x4": 1, "vgg": 0.006}
    assert objective(1, 1.0, 0.006, "null") == {"mse_x2": 1, "mse_x4": 1, "vgg": 0}
    for wrong in (-1, "much", None, True):
        with pytest.raises(InputError, match="x2_weight must be a number from 0; got"):
            objective(wrong, 1.0, 0, None)
        with pytest.raises(InputError, match="vgg_weight must be a number from 0; got"):
            objective(1, 1.0, wrong, None)


def rates(kind, epochs, pretraining=0, warmup=0):
    """The learning rate of every iteration of a run with five per epoch, of 1 at most."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, seen = schedule(optimizer, kind, 5, epochs, pretraining, warmup), []
    for _ in range(5 * (epochs + pretraining)):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def test_the_paper_s_rate_falls_to_a_tenth_in_the_middle_of_the_game():
    assert rates("step", 4) == pytest.approx([1.0] * 10 + [0.1] * 10)
    assert rates("step", 4, pretraining=2) == pytest.approx([1.0] * 20 + [0.1] * 10)  # its epochs come on top
    assert rates("step", 1) == pytest.approx([1.0] * 5)


def test_the_other_rate_rises_and_falls_to_0():
    seen = rates("cosine", 4, pretraining=2, warmup=6)
    assert seen[:7] == pytest.approx([i / 6 for i in range(7)]) and max(seen) == 1
    assert seen[6:] == sorted(seen[6:], reverse=True) and seen[-1] < 0.01 and seen[18] == pytest.approx(0.5)
    with pytest.raises(InputError, match="schedule must be step or cosine"):
        rates("linear", 4)


def test_pre_training_is_mse_alone():
    loss = WeightedLoss(
        {n: nn.MSELoss() for n in ("mse_x2", "mse_x4", "vgg")}, {"mse_x2": 0.5, "mse_x4": 1, "vgg": 0.006}
    )
    engine = Engine(lambda engine, batch: seen.append(dict(loss.weights)))
    engine.generator_warmup, seen = 1, []
    MSEAlone(loss).attach(engine)
    engine.run([0], max_epochs=3)
    assert seen == [{"mse_x2": 0.5, "mse_x4": 1, "vgg": 0}] + 2 * [{"mse_x2": 0.5, "mse_x4": 1, "vgg": 0.006}]


def test_a_variant_of_the_shipped_weights():
    assert [weights_of("models", name) for name in ("mse", "msgan")] == ["models/model.pt", "models/msgan.pt"]
    with pytest.raises(InputError, match="variant must be mse or msgan"):
        weights_of("models", "gan")


@pytest.mark.parametrize(
    "network",
    [
        *(MultiScaleGenerator(4, 2, 1), SRResNet(4, 3), SRResNet(4, 1, x2_head=True), SRResNet(4, 2, middle_blocks=1)),
        *(MultiScaleGenerator(4, 2, 1, skip=False), SRResNet(4, 1, skip=False)),
    ],
)
def test_weights_tell_their_network(tmp_path, network):
    with torch.no_grad():
        network.head_x4.weight.normal_(std=0.1)
    torch.save(network.state_dict(), tmp_path / "w.pt")
    made = compared_networks(f"{{'my net': '{tmp_path / 'w.pt'}'}}", "cpu")
    image = torch.randn(1, 1, 7, 8)
    with torch.no_grad():
        expected = network.eval()(image)
    torch.testing.assert_close(made["my_net"](image), expected, atol=1e-4, rtol=0)
    assert compared_networks("null", "cpu") == {}


def test_weights_of_something_else(tmp_path):
    torch.save(nn.Conv2d(1, 1, 3).state_dict(), tmp_path / "w.pt")
    state = SRResNet(4, 1).state_dict()
    torch.save({**state, "enter.0.weight": torch.zeros(2, 2)}, tmp_path / "v.pt")
    for name, text in (("w", "w.pt: holds no weights of a SRResNet"), ("v", "v.pt: these weights belong to another")):
        with pytest.raises(InputError, match=text):
            compared_networks({"a": str(tmp_path / f"{name}.pt")}, "cpu")
    for name in ("truth", "network", "label", "../a", ""):
        with pytest.raises(InputError, match="is taken or no plain name"):
            compared_networks({name: str(tmp_path / "w.pt")}, "cpu")
    with pytest.raises(InputError, match="compared must be like"):
        compared_networks("best.pt", "cpu")


def test_expected_time_counts_every_stage(monkeypatch):
    monkeypatch.setattr(training, "convolution_rate", lambda device: 1e6)
    network = SRResNet(4, 1).eval()
    held_out = SimpleNamespace(pixels=lambda: 100)
    work = network.multiplications / 1e6
    assert expected_seconds(network, "cpu", 0, 0, None, held_out, 3) == pytest.approx(600 * work)

    def stage(epoch):
        return "generator" if epoch < 3 else "both"

    state = SimpleNamespace(epoch=1, max_epochs=3)
    trainer = SimpleNamespace(critic_steps=1, generator_steps=1, steps=2, state=state, stage=stage)
    trainer.passes_left = partial(AdversarialTrainer.passes_left, trainer)
    # one epoch with the generator alone (4 forward passes), one with both in turn (5 each)
    assert expected_seconds(network, "cpu", 10, 36, trainer, held_out, 0) == pytest.approx(360 * 9 * work)


def test_scores_of_all_methods(monkeypatch):
    scores = metrics.region_scores("gms_region", ["bilinear"])
    kinds = [f"{p}{k}_region" for p in ("", "baseline_", "bilinear_") for k in ("psnr", "ssim", "gms")]
    assert set(scores) == set(kinds) - {"gms_region"}
    truth = torch.rand(1, 12, 12)
    items = [{"pred": truth, "bicubic": truth + 0.1, "bilinear": truth + 0.2, "label": truth}]
    engine = Engine(lambda engine, batch: batch)
    for name, handler in {**scores, **metrics.best_by("gms")}.items():
        handler.attach(engine, name)
    engine.run([items])
    found = engine.state.metrics
    assert found["psnr_region"] == 100 > found["baseline_psnr_region"] > found["bilinear_psnr_region"]
    assert found["gms_region"] == pytest.approx(1)
    with pytest.raises(InputError, match="best_by must be one of psnr, ssim, gms"):
        metrics.best_by("lpips")


class Distance(nn.Module):
    """In the place of ``lpips.LPIPS``: the mean absolute difference, times a weight."""

    def __init__(self, **kwargs):
        super().__init__()
        assert kwargs["pretrained"] is False and kwargs["pnet_rand"] is True  # nothing is downloaded
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, image, truth):
        assert image.shape[1] == 3 and image.min() >= -1 and truth.max() <= 1
        return (self.weight * (image - truth).abs().mean()).reshape(1, 1, 1, 1)


def test_lpips_when_weights_are_given(monkeypatch, tmp_path):
    monkeypatch.setattr(metrics, "lpips", SimpleNamespace(LPIPS=Distance))
    monkeypatch.setattr(metrics, "has_lpips", True)
    torch.save({"weight": torch.tensor(3.0)}, tmp_path / "lpips.pt")
    truth = torch.linspace(0, 1, 144).reshape(1, 1, 12, 12)
    metric = metrics.region_scores(lpips_weights=tmp_path / "lpips.pt")["lpips_region"].metric_fn
    metric(truth, truth)
    metric((truth - 0.1).clamp(0), truth)
    same, other = metric.get_buffer().flatten().tolist()
    assert same == 0 and other == pytest.approx(3 * 2 * 0.1, rel=0.15)
    with pytest.raises(InputError, match="no such weights file"):
        metrics.PerceptualDistance(str(tmp_path / "none.pt"))
    monkeypatch.setattr(metrics, "has_lpips", False)
    with pytest.raises(InputError, match="pip install lpips"):
        metrics.PerceptualDistance(str(tmp_path / "lpips.pt"))
