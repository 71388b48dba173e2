# SPDX-License-Identifier: Apache-2.0
"""Stages of a run: which are run, and that a stopped run goes on in the one where it was."""

import pytest
import torch
from ignite.engine import Engine, Events

from common.engine import Stage, StagePlan
from common.errors import InputError


class Sum:
    """Stands for a network that all stages train."""

    def __init__(self):
        self.value = 0

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


def stage(total, step, epochs=2, **more):
    def add(engine, batch):
        total.value = 10 * total.value + step

    trainer = Engine(add)
    trainer.scaler = None
    trainer.state.max_epochs, trainer.state.epoch_length = epochs, 1
    trainer.run = lambda: Engine.run(trainer, [0], max_epochs=epochs, epoch_length=1)
    return Stage(trainer, {"total": total}, **more)


def plan(folder, wanted=(), epochs=2):
    total = Sum()
    stages = {
        "first": stage(total, 1, from_scratch_only=True),
        "second": stage(total, 2),
        "third": stage(total, 3, epochs),
    }
    return StagePlan(folder, stages, wanted), total


def stop_after(made, name, epoch):
    def stop(engine):
        raise KeyboardInterrupt

    made.stages[name].trainer.add_event_handler(Events.EPOCH_COMPLETED(once=epoch), stop)


@pytest.mark.parametrize(
    ("wanted", "from_scratch", "value", "told"),
    [
        ((), True, 112233, "stage first: 2 epochs of 1 iterations"),
        ((), False, 2233, "stage first: skipped (the starting weights are trained; it would undo them)"),
        (("first",), False, 11, "stage third: skipped (not wanted)"),
        (("third", "second"), True, 2233, "stage first: skipped (not wanted)"),
    ],
)
def test_stages_run_in_their_order(tmp_path, capsys, wanted, from_scratch, value, told):
    made, total = plan(tmp_path, wanted)
    made.begin(resume=False, from_scratch=from_scratch)
    made.run()
    assert total.value == value
    assert told in capsys.readouterr().out


@pytest.mark.parametrize("epoch", [1, 2])
@pytest.mark.parametrize("name", ["first", "second", "third"])
def test_a_stopped_run_goes_on_where_it_was(tmp_path, name, epoch):
    made, _ = plan(tmp_path, epochs=3)
    made.begin(resume=False, from_scratch=True)
    stop_after(made, name, epoch)
    with pytest.raises(KeyboardInterrupt):
        made.run()
    saved = torch.load(tmp_path / "last.pt", weights_only=True)
    assert (saved["stage"], saved["epoch"], saved["plan"]) == (name, epoch, ["first", "second", "third"])
    again, total = plan(tmp_path, epochs=3)
    again.begin(resume=True, from_scratch=True)
    again.run()
    assert total.value == 1122333


def test_a_complete_run_is_not_resumed_and_a_foreign_one_neither(tmp_path):
    made, _ = plan(tmp_path, ("first",))
    made.begin(resume=False, from_scratch=True)
    made.run()
    with pytest.raises(InputError, match="this run is complete with 2 epochs"):
        plan(tmp_path)[0].begin(resume=True, from_scratch=True)
    for state in (7, {"stage": "fourth"}, {"stage": "first", "plan": ["first"]}):
        torch.save(state, tmp_path / "last.pt")
        with pytest.raises(InputError, match="does not belong to this configuration"):
            plan(tmp_path)[0].begin(resume=True, from_scratch=True)


def test_a_single_stage_says_nothing_and_saves_no_plan(tmp_path, capsys):
    total = Sum()
    made = StagePlan(tmp_path, {"only": stage(total, 1)})
    made.begin(resume=False, from_scratch=False)
    made.run()
    assert total.value == 11
    assert capsys.readouterr().out == ""
    assert torch.load(tmp_path / "last.pt", weights_only=True).keys() == {"total", "scalers", "epoch"}
