# SPDX-License-Identifier: Apache-2.0
"""Pre-training, the learning rate, the methods that are compared, and the scores."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine
from torch import nn

from common.errors import InputError
from common.losses import WeightedLoss
from lesion_msgan_lib import metrics
from lesion_msgan_lib.networks import MultiScaleGenerator, SRResNet
from lesion_msgan_lib.recipe import RECIPE
from lesion_msgan_lib.training import MSEAlone, other_methods, schedule


def rates(kind, epochs, pretraining=0, warmup=0):
    """The learning rate of every iteration of a run with five per epoch, of 1 at most."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, seen = schedule(optimizer, kind, range(11), epochs, pretraining, warmup, critic_steps=2), []
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


def test_pre_training_is_mse_alone():
    loss = WeightedLoss(
        {n: nn.MSELoss() for n in ("mse_x2", "mse_x4", "vgg")}, {"mse_x2": 0.5, "mse_x4": 1, "vgg": 0.006}
    )
    engine = Engine(lambda engine, batch: seen.append(dict(loss.weights)))
    engine.generator_warmup, seen = 1, []
    MSEAlone(loss).attach(engine)
    engine.run([0], max_epochs=3)
    assert seen == [{"mse_x2": 0.5, "mse_x4": 1, "vgg": 0}] + 2 * [{"mse_x2": 0.5, "mse_x4": 1, "vgg": 0.006}]


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
    compared = RECIPE.keys["compared"].plain(f"{{'my net': '{tmp_path / 'w.pt'}'}}")
    made = other_methods(compared, "cpu")
    image = torch.randn(1, 1, 7, 8)
    with torch.no_grad():
        expected = network.eval()(image)
    torch.testing.assert_close(made["my_net"](image), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(
        made["bilinear"](image), nn.functional.interpolate(image, scale_factor=4, mode="bilinear")
    )
    assert list(other_methods(RECIPE.keys["compared"].plain("null"), "cpu")) == ["bilinear"]


def test_weights_of_something_else(tmp_path):
    torch.save(nn.Conv2d(1, 1, 3).state_dict(), tmp_path / "w.pt")
    state = SRResNet(4, 1).state_dict()
    torch.save({**state, "enter.0.weight": torch.zeros(2, 2)}, tmp_path / "v.pt")
    for name, text in (("w", "w.pt: holds no weights of a SRResNet"), ("v", "v.pt: these weights belong to another")):
        with pytest.raises(InputError, match=text):
            other_methods({"a": str(tmp_path / f"{name}.pt")}, "cpu")
    for name in ("truth", "network", "label", "../a", ""):
        with pytest.raises(InputError, match="is taken or no plain name"):
            RECIPE.keys["compared"].plain({name: str(tmp_path / "w.pt")})
    with pytest.raises(InputError, match="compared must be like"):
        RECIPE.keys["compared"].plain("best.pt")


def test_scores_of_all_methods(monkeypatch):
    scores = metrics.region_scores("gms", ["bilinear"])
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
