# SPDX-License-Identifier: Apache-2.0
"""The bar shows the loss, the samples know their epoch, and clipped gradients keep to their bound."""

import math

import pytest
import torch
from ignite.engine import Engine
from monai.engines import SupervisedTrainer
from torch import nn

from common.errors import InputError
from common.handlers import ClipGradients, ClipWeights, EpochBar, EpochLoss, EpochSamples, progress


class Samples:
    """Remembers the epochs that it was told."""

    def __init__(self):
        self.epochs = []

    def set_epoch(self, epoch):
        self.epochs.append(epoch)


def engine(*losses, handlers=()):
    """Runs through losses; one that is an exception is raised."""

    def step(_, loss):
        if isinstance(loss, Exception):
            raise loss
        return [{"loss": torch.tensor(loss)}]

    made = Engine(step)
    for handler in handlers:
        handler.attach(made)
    return made


# epochs


def test_samples_are_told_each_epoch_before_it_starts():
    samples = Samples()
    made = engine(handlers=[EpochSamples(samples)])
    made.run([0.0], max_epochs=3)
    assert samples.epochs == [1, 2, 3]


def test_a_resumed_run_goes_on_with_its_epochs():
    samples = Samples()
    made = engine(handlers=[EpochSamples(samples)])
    made.load_state_dict({"epoch": 2, "epoch_length": 1, "max_epochs": 4})
    made.run([0.0])
    assert samples.epochs == [3, 4]


# bar


def test_the_bar_shows_epoch_and_loss(capsys, monkeypatch):
    monkeypatch.setattr(progress, "tqdm", lambda **options: bar(**{**options, "mininterval": 0}))
    bar = __import__("tqdm").tqdm
    engine(handlers=[EpochBar("epoch")]).run([0.5, 0.25], max_epochs=2)
    shown = capsys.readouterr().err
    assert "epoch 1/2" in shown and "epoch 2/2" in shown and "2/2" in shown and "loss=0.25" in shown


@pytest.mark.parametrize("output", [None, 3, {"loss": 1.0}, {"other": 1.0}])
def test_the_bar_takes_any_output(output):
    made = Engine(lambda *_: output)
    EpochBar().attach(made)
    made.run([0, 1])


def test_an_error_closes_the_bar_and_goes_on_to_the_caller():
    bar = EpochBar()
    with pytest.raises(RuntimeError, match="broken"):
        engine(handlers=[bar]).run([0.5, RuntimeError("broken")])
    assert bar.bar.disable or bar.bar.n == 1


@pytest.mark.parametrize("name", ["tqdm", "is_main_process"])
def test_there_is_no_bar_without_tqdm_or_in_further_processes(monkeypatch, capsys, name):
    monkeypatch.setattr(progress, name, None if name == "tqdm" else lambda: False)
    engine(handlers=[EpochBar()]).run([0.5])
    assert capsys.readouterr().err == ""


def test_the_epochs_loss_is_the_mean_over_its_batches():
    made = engine(handlers=[EpochLoss()])
    made.run([0.5, 0.25, 0.75], max_epochs=2)
    assert made.state.metrics["train_loss"] == pytest.approx(0.5)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_training_that_diverged_ends_with_a_word(loss):
    with pytest.raises(InputError, match="diverged, its loss is"):
        engine(handlers=[EpochLoss()]).run([0.5, loss, 0.75])


# clipping


def clipped(gradients, rates, bound, scaler=None):
    weights = [nn.Parameter(torch.zeros(len(g))) for g in gradients]
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = torch.tensor(gradient)
    groups = [{"params": [w], "lr": rate} for w, rate in zip(weights, rates, strict=True)]
    made = Engine(lambda *_: None)
    made.scaler = scaler
    ClipGradients(torch.optim.SGD(groups, lr=1.0), bound)(made)
    return [weight.grad.tolist() for weight in weights]


def test_gradients_are_bounded_by_bound_over_rate_of_their_group():
    assert clipped([[5.0, -5.0, 0.5], [5.0, -30.0]], [0.1, 0.01], bound=0.1) == [[1.0, -1.0, 0.5], [5.0, -10.0]]


def test_no_single_step_is_larger_than_the_bound_whatever_the_rate():
    for rate in (1e-3, 0.1, 10.0):
        (gradient,) = clipped([[1e9, -1e9]], [rate], bound=0.01)
        assert [g * rate for g in gradient] == pytest.approx([0.01, -0.01])


def test_a_rate_of_zero_is_no_division_by_zero():
    assert clipped([[5.0]], [0.0], bound=0.1) == [[5.0]]


def test_the_bound_is_meant_for_unscaled_gradients():
    class Scaler:
        """Mixed precision multiplies the loss, hence the gradients."""

        def get_scale(self):
            return 1024.0

    assert clipped([[5.0 * 1024, 0.5 * 1024]], [0.1], bound=0.1, scaler=Scaler()) == [[1024.0, 512.0]]


def test_clipping_happens_before_the_step_of_a_trainer():
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=[{"image": torch.ones(1, 1), "label": torch.full((1, 1), 1e6)}],
        network=network,
        optimizer=optimizer,
        loss_function=nn.MSELoss(),
        train_handlers=[ClipGradients(optimizer, bound=0.01)],
    )
    trainer.run()
    assert network.weight.item() == pytest.approx(0.01)


@pytest.mark.parametrize("bound", [0, -1.0])
def test_a_bound_that_allows_no_step_is_refused(bound):
    with pytest.raises(ValueError, match="bound must be positive"):
        ClipGradients(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0), bound)


def test_weights_stay_clipped_after_every_step_of_a_run_and_are_free_afterwards():
    network = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(network.parameters(), lr=100.0)
    seen = []

    def update(engine, batch):
        seen.append(max(float(p.detach().abs().max()) for p in network.parameters()))
        optimizer.zero_grad()
        network(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        seen.append(max(float(p.detach().abs().max()) for p in network.parameters()))

    engine = Engine(update)
    ClipWeights(optimizer, 0.01).attach(engine)
    engine.run([0, 1], max_epochs=2)
    assert len(seen) == 8 and max(seen) == pytest.approx(0.01)
    update(engine, None)
    assert seen[-1] > 1
    with pytest.raises(ValueError, match="must be positive"):
        ClipWeights(optimizer, 0)
