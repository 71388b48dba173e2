# SPDX-License-Identifier: Apache-2.0
"""A run can go on where it stopped, keeps its best weights, and replaces the bundle's own with care."""

from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from monai.data import DataLoader
from monai.engines import SupervisedTrainer
from monai.handlers import LrScheduleHandler
from torch import nn

from common.errors import InputError
from common.handlers import BestWeights, PromoteWeights, RunCheckpoint, StartingWeights, checkpoints
from common.io.weights import load_flat, save_atomically


def network(width=3, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 1))


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def refused(call, *args):
    with pytest.raises(InputError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_handler_that_two_lists_of_a_configuration_share_is_one_object():
    entry = {"_target_": "common.handlers.shared", "handler": "@counter"}
    parser = ConfigParser({"counter": {"_target_": "collections.Counter"}, "first": [entry], "second": [entry]})
    (one,), (other,) = (parser.get_parsed_content(name) for name in ("first", "second"))
    assert one is other is parser.get_parsed_content("counter")


# StartingWeights


@pytest.fixture
def shipped(tmp_path):
    path = tmp_path / "models" / "model.pt"
    save_atomically(network(seed=5).state_dict(), path)
    return path


def test_a_run_starts_from_the_weights_given(shipped):
    net = network()
    start = StartingWeights(nn.DataParallel(net), str(shipped))
    assert start.source is None
    assert start.load() == start.source == str(shipped)
    assert equal(net.state_dict(), load_flat(shipped))


@pytest.mark.parametrize("word", [True, "true", 1])
def test_from_scratch_keeps_the_random_weights(shipped, word):
    net = network()
    assert StartingWeights(net, str(shipped), word).load() == "random initialisation"
    assert equal(net.state_dict(), network().state_dict())


@pytest.mark.parametrize("name", ["mine.pt", "models/model.pt", "models/targets/t2w.pt"])
def test_starting_weights_must_be_there_and_fit(tmp_path, name):
    path = tmp_path / name
    assert refused(StartingWeights(network(), str(path)).load) == f"{path}: no such weights file"
    save_atomically(network().state_dict(), path)
    assert refused(StartingWeights(network(7), str(path)).load).endswith("belong to another network shape")


# RunCheckpoint


def trainer(folder, epochs, until=None):
    """A small training whose data depends on the epoch; stops after the epoch ``until`` as if it were killed."""
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.7)
    best = BestWeights(folder, net)
    inputs = torch.rand(6, 2, generator=torch.Generator().manual_seed(1))
    data = [{"image": x, "label": x.sum(0, keepdim=True)} for x in inputs]
    checkpoint = RunCheckpoint(
        folder, {"network": net, "optimizer": optimizer, "lr_scheduler": scheduler, "best": best}
    )
    engine = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=DataLoader(data, batch_size=2),
        network=net,
        optimizer=optimizer,
        loss_function=nn.MSELoss(),
        train_handlers=[LrScheduleHandler(scheduler, print_lr=False), checkpoint],
    )
    if until:
        engine.add_event_handler(Events.EPOCH_COMPLETED(once=until), lambda e: e.terminate())
    return engine, checkpoint, net


def test_a_resumed_run_ends_with_the_weights_of_an_undisturbed_one(tmp_path):
    undisturbed, _, expected = trainer(tmp_path / "a", 5)
    undisturbed.run()
    stopped, _, half_way = trainer(tmp_path / "b", 5, until=2)
    stopped.run()
    assert not equal(half_way.state_dict(), expected.state_dict())
    resumed, checkpoint, net = trainer(tmp_path / "b", 5)
    assert checkpoint.resume("true") is True
    epochs = []
    resumed.add_event_handler(Events.EPOCH_STARTED, lambda e: epochs.append(e.state.epoch))
    resumed.run()
    assert epochs == [3, 4, 5] and resumed.state.iteration == undisturbed.state.iteration
    assert equal(net.state_dict(), expected.state_dict())


def test_without_the_wish_nothing_is_resumed(tmp_path):
    _, checkpoint, _ = trainer(tmp_path, 2)
    assert checkpoint.resume("false") is False and checkpoint.resume(None) is False


def test_the_checkpoint_holds_tensors_and_plain_numbers(tmp_path):
    trainer(tmp_path, 1)[0].run()
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    assert set(state) == {"network", "optimizer", "lr_scheduler", "best", "scalers", "epoch"} and state["epoch"] == 1


def test_further_facts_are_saved_and_a_complete_run_can_be_gone_on_from(tmp_path):
    engine, checkpoint = trainer(tmp_path, 1)[:2]
    checkpoint.facts = {"stage": "first"}
    engine.run()
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    assert state["stage"] == "first"
    with pytest.raises(InputError, match="complete"):
        checkpoint.restore(state)
    checkpoint.restore(state, complete=True)
    checkpoint.facts = {}
    with pytest.raises(InputError, match="does not belong"):
        checkpoint.restore(state, complete=True)


def test_a_complete_run_says_so_and_goes_on_with_more_epochs(tmp_path):
    trainer(tmp_path, 2)[0].run()
    text = refused(trainer(tmp_path, 2)[1].resume, True)
    assert text == f"{tmp_path}/last.pt: this run is complete with 2 epochs; give it more to go on"
    longer, checkpoint, _ = trainer(tmp_path, 3)
    checkpoint.resume(True)
    longer.run()
    assert longer.state.epoch == 3


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path):
    engine, checkpoint, net = trainer(tmp_path, 4, until=1)
    engine.run()
    smaller = RunCheckpoint(tmp_path, {"network": net})
    smaller.attach(engine)
    assert refused(smaller.resume, True) == f"{tmp_path}/last.pt: does not belong to this configuration"
    checkpoint.parts["network"] = network(7)
    assert refused(checkpoint.resume, True).endswith("its network does not fit this configuration")
    (tmp_path / "last.pt").unlink()
    assert "no such weights file" in refused(checkpoint.resume, True)


def test_further_processes_save_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "is_main_process", lambda: False)
    trainer(tmp_path, 1)[0].run()
    assert not (tmp_path / "last.pt").exists()


# BestWeights


def evaluator(*handlers, score=lambda: 0.0):
    """An evaluator with a key metric; ``score`` gives its value."""
    engine = Engine(lambda *_: None)

    @engine.on(Events.EPOCH_COMPLETED)
    def metric(engine):
        engine.state.key_metric_name = "psnr"
        engine.state.metrics["psnr"] = score()

    for handler in handlers:
        handler.attach(engine)
    return engine


def validate(engine, epoch):
    engine.load_state_dict({"epoch": epoch, "epoch_length": 1, "max_epochs": epoch + 1})
    engine.run([0])


def mark(net, number):
    nn.init.constant_(net[0].weight, number)


def train(folder, scores, best=None):
    """Validates once per score, the weights being marked with the epoch."""
    net = network()
    best = best or BestWeights(folder, nn.DataParallel(net))
    best.network = net
    queue = iter(scores)
    engine = evaluator(best, score=lambda: next(queue))
    for epoch in range(len(scores)):
        mark(net, float(epoch + 1))
        validate(engine, epoch)
    return best


def test_the_best_weights_are_kept_not_the_last(tmp_path):
    best = train(tmp_path, [20.0, 22.0, 25.0, 25.0, 24.0])
    assert (best.first, best.score, best.epoch) == (20.0, 25.0, 3)
    state = torch.load(tmp_path / "best.pt", weights_only=True)
    assert set(state) == set(network().state_dict()) and bool((state["0.weight"] == 3).all())


def test_the_last_weights_are_kept_where_they_are_wanted(tmp_path):
    best = train(tmp_path, [20.0, 25.0, 24.0], best=BestWeights(tmp_path, network(), last=True))
    assert (best.first, best.score, best.epoch) == (20.0, 24.0, 3)
    assert bool((load_flat(tmp_path / "best.pt")["0.weight"] == 3).all())


def test_starting_weights_that_are_never_beaten_are_the_best(tmp_path):
    assert train(tmp_path, [20.0, 19.0, float("nan")]).epoch == 1
    assert bool((load_flat(tmp_path / "best.pt")["0.weight"] == 1).all())


def test_a_first_score_that_is_none_is_told(tmp_path):
    with pytest.raises(InputError, match="has no value on the held-out data"):
        train(tmp_path, [float("nan"), 20.0])


def test_a_resumed_run_remembers_the_best(tmp_path):
    first = train(tmp_path, [20.0, 25.0])
    save_atomically(first.state_dict(), tmp_path / "state.pt")
    again = BestWeights(tmp_path, network())
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    train(tmp_path, [24.0, 23.0], best=again)
    assert (again.first, again.score, again.epoch) == (20.0, 25.0, 2)
    assert again.resumed and not first.resumed
    assert bool((load_flat(tmp_path / "best.pt")["0.weight"] == 2).all())


def test_lower_scores_can_be_the_better_ones(tmp_path):
    best = train(tmp_path, [0.5, 0.2, 0.3, float("nan")], best=BestWeights(tmp_path, network(), lower=True))
    assert (best.first, best.score, best.epoch) == (0.5, 0.2, 2)
    assert bool((load_flat(tmp_path / "best.pt")["0.weight"] == 2).all())


# PromoteWeights


class Promotion:
    """A finished run on someone's data, whose network scores the mean of its first weights."""

    def __init__(
        self, folder, *, own=4.0, present=3.0, started_from_present=False, data="/data/a.nii", lower=False, **options
    ):
        self.target = folder / "models" / "model.pt"
        net = network()
        if present is not None:
            mark(net, present)
            save_atomically(net.state_dict(), self.target)
        self.net = net
        best = BestWeights(folder / "run", net, lower=lower)
        self.evaluator = evaluator(best, score=lambda: float(net[0].weight.detach().mean()))
        mark(net, present if started_from_present else 1.0)
        validate(self.evaluator, 0)
        mark(net, own)
        validate(self.evaluator, 1)
        mark(net, 2.0)  # the last epoch is not the best one
        start = StartingWeights(net, str(self.target))
        start.source = str(self.target) if started_from_present else "random initialisation"
        self.runs = self.evaluator.state.epoch
        trainer = Engine(lambda *_: None)
        PromoteWeights(best, str(self.target), [{"image": data}], self.evaluator, start, **options).attach(trainer)
        self.best = best
        trainer.run([0])

    @property
    def now(self):
        return float(load_flat(self.target)["0.weight"].mean())


def test_better_weights_replace_the_present_ones_which_are_kept(tmp_path, capsys):
    done = Promotion(tmp_path)
    assert done.now == 4.0
    assert float(load_flat(tmp_path / "run" / "replaced.pt")["0.weight"].mean()) == 3.0
    assert f"{done.target} now holds this run's weights (4.00 against 3.00)" in capsys.readouterr().out


def test_the_present_weights_are_scored_aside(tmp_path):
    done = Promotion(tmp_path, present=9.0)
    assert done.best.score == 4.0 and done.best.first == 1.0  # its score is no part of the record
    assert float(done.net[0].weight.detach().mean()) == 2.0  # and the network is as it was
    assert done.evaluator.state.aside is False


@pytest.mark.parametrize("present", [4.0, 5.0])
def test_weights_that_are_no_better_replace_nothing(tmp_path, present, capsys):
    done = Promotion(tmp_path, present=present)
    assert done.now == present and not (tmp_path / "run" / "replaced.pt").exists()
    assert f"{done.target} stays: it scores {present:.2f}, this run 4.00" in capsys.readouterr().out


@pytest.mark.parametrize(("own", "now"), [(4.0, 4.0), (2.5, 3.0)])
def test_a_run_that_started_from_the_present_weights_knows_their_score(tmp_path, own, now, monkeypatch):
    monkeypatch.setattr(checkpoints, "load_flat", lambda path: load_flat(path) if path.name == "best.pt" else None)
    assert Promotion(tmp_path, own=own, started_from_present=True).now == now


def test_a_resumed_run_scores_the_present_weights(tmp_path):
    """They may be others than those that the run started from."""
    done = Promotion(tmp_path, started_from_present=True, allowed=False)
    mark(done.net, 9.0)
    save_atomically(done.net.state_dict(), done.target)
    done.best.load_state_dict(done.best.state_dict())
    start = StartingWeights(done.net, str(done.target))
    start.source = str(done.target)
    trainer = Engine(lambda *_: None)
    PromoteWeights(done.best, str(done.target), [{"image": "/data/a.nii"}], done.evaluator, start).attach(trainer)
    trainer.run([0])
    assert done.best.first == 3.0 and done.best.score == 4.0 and done.now == 9.0


def test_present_weights_that_cannot_be_read_stay_and_the_run_ends_well(tmp_path, capsys):
    target = tmp_path / "models" / "model.pt"
    target.parent.mkdir()
    target.write_bytes(b"no weights")
    Promotion(tmp_path, present=None)
    assert target.read_bytes() == b"no weights"
    assert f"{target} stays: {target}: not a weights file" in capsys.readouterr().out


def test_lower_is_better_where_the_metric_says_so(tmp_path):
    assert Promotion(tmp_path / "a", own=0.5, present=3.0, lower=True).now == 0.5
    assert Promotion(tmp_path / "b", own=4.0, present=0.5, lower=True).now == 0.5
    assert Promotion(tmp_path / "c", own=0.5, present=None, lower=True).now == 0.5


def test_missing_weights_are_filled_in(tmp_path):
    assert Promotion(tmp_path, present=None).now == 4.0
    assert not (tmp_path / "run" / "replaced.pt").exists()


def test_sample_data_never_replaces_the_bundles_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    inside = tmp_path / "cache" / "restoration-bundles" / "brain" / "a.nii"
    assert Promotion(tmp_path, data=str(inside)).now == 3.0
    assert Promotion(tmp_path, data=Path("/elsewhere/a.nii")).now == 4.0


@pytest.mark.parametrize("word", [False, "false", "0", None])
def test_a_configuration_other_than_the_default_replaces_nothing(tmp_path, word):
    assert Promotion(tmp_path, allowed=word).now == 3.0


def test_present_weights_of_another_shape_stay_and_the_run_ends_well(tmp_path, capsys):
    target = tmp_path / "models" / "model.pt"
    done = Promotion(tmp_path, present=None, allowed=False)
    save_atomically(network(7).state_dict(), target)
    trainer = Engine(lambda *_: None)
    start = StartingWeights(done.net, str(target))
    PromoteWeights(done.best, str(target), [{"image": "/data/a.nii"}], done.evaluator, start).attach(trainer)
    trainer.run([0])
    assert load_flat(target)["0.weight"].shape == (7, 2)
    assert "stays: it belongs to another network shape" in capsys.readouterr().out
