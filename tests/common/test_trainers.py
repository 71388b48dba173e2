# SPDX-License-Identifier: Apache-2.0
"""Adversarial training: what each network is shown, who is stepped when, and that a resumed run repeats itself."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.networks.nets import PatchDiscriminator
from torch import nn

from common.engine.image_pool import ImagePool
from common.engine.trainers import AdversarialTrainer, terms_of
from common.errors import InputError
from common.handlers import RunCheckpoint, TermsTable
from common.losses import CriterionGAN, WassersteinGAN, WeightedLoss


class Recorder(nn.Module):
    """A discriminator that remembers the mean of every image it was shown in training."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.seen = []

    def forward(self, image):
        self.seen.append([float(x.detach().mean()) for x in image])
        return self.scale * image.flatten(1).mean(dim=1, keepdim=True)


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, image):
        return self.scale * image


def loader(count=8, batch=2, shift=10.0):
    """Inputs are constant 1, 2, 3 ...; targets lie ``shift`` higher."""
    items = [
        {"image": torch.full((1, 8, 8), i + 1.0), "label": torch.full((1, 8, 8), i + 1 + shift)} for i in range(count)
    ]
    return DataLoader(Dataset(items), batch_size=batch, shuffle=False)


def trainer(network=None, critic=None, data=None, **kwargs):
    network, critic = network or Scale(), critic or Recorder()
    settings = {
        "max_epochs": 1,
        "loss_function": WeightedLoss({"l1": nn.L1Loss()}, {"l1": 1.0}),
        "adversarial_loss": WassersteinGAN(),
        "optimizer": torch.optim.SGD(network.parameters(), lr=0.01),
        "discriminator_optimizer": torch.optim.SGD(critic.parameters(), lr=0.01),
        **kwargs,
    }
    return AdversarialTrainer(
        device="cpu", train_data_loader=data or loader(), network=network, discriminator=critic, **settings
    )


def convolutions(norm=None, seed=0):
    torch.manual_seed(seed)
    middle = [nn.BatchNorm2d(4)] if norm == "batch" else []
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), *middle, nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 3, padding=1))


@pytest.mark.filterwarnings("error:Detected call of `lr_scheduler.step")
def test_schedules_of_a_network_that_rests_at_first_draw_no_warning():
    network, critic = Scale(), Recorder()
    optimizers = [torch.optim.Adam(net.parameters(), lr=0.1) for net in (network, critic)]
    schedules = [torch.optim.lr_scheduler.StepLR(optimizer, 1) for optimizer in optimizers]
    settings = {"optimizer": optimizers[0], "discriminator_optimizer": optimizers[1]}
    run = trainer(network, critic, generator_warmup=1, **settings)
    run.add_event_handler(Events.EPOCH_COMPLETED, lambda _: [schedule.step() for schedule in schedules])
    run.run()
    assert float(critic.scale.detach()) == 1 != float(network.scale.detach())


def test_is_what_monai_expects():
    network = Scale()
    run = trainer(network)
    assert isinstance(run, SupervisedTrainer)
    assert run.network is network


def test_the_discriminator_is_shown_the_target_as_real_never_the_input():
    critic = Recorder()
    run = trainer(critic=critic)
    run.run()
    # iterations of two batches: the critic's step on the first, the generator's on the second
    real, fake = critic.seen[0][:2], critic.seen[0][2:]
    assert real == [11.0, 12.0]  # the targets of inputs 1 and 2
    assert fake == [1.0, 2.0]  # the untrained generator hands its input on
    inputs = set(range(1, 9))
    assert all(not inputs & set(shown[:2]) for shown in critic.seen if len(shown) == 4)


def test_critic_steps_are_on_new_batches_with_fakes_made_anew():
    critic, network = Recorder(), Scale()
    made = []
    network.register_forward_hook(lambda _, args, out: made.append(float(args[0].mean())))
    run = trainer(network, critic, loader(12), critic_steps=2, generator_steps=1)
    run.run()
    assert run.state.epoch_length == 2
    assert made == [1.5, 3.5, 5.5, 7.5, 9.5, 11.5]  # every batch once, in order
    assert [len(shown) for shown in critic.seen] == [4, 4, 2, 4, 4, 2]


def test_both_networks_can_step_on_the_same_batches():
    critic, network, made = Recorder(), Scale(), []
    network.register_forward_hook(lambda _, args, out: made.append(float(args[0].mean())))
    run = trainer(network, critic, loader(8), critic_steps=2, generator_steps=1, same_batches=True)
    run.run()
    assert run.state.epoch_length == 2
    assert made == [1.5, 3.5, 3.5, 5.5, 7.5, 7.5]  # the generator's step is on the critic's last batch
    assert [len(shown) for shown in critic.seen] == [4, 4, 2] * 2
    assert trainer(data=loader(8), same_batches=True).state.epoch_length == 4


class TwoScales(nn.Module):
    """Coarse to fine, in training."""

    def __init__(self):
        super().__init__()
        self.coarse, self.fine = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(()))

    def forward(self, image):
        fine = 2 * self.fine * image
        return [self.coarse * image[:, :, ::2, ::2], fine] if self.training else fine


def test_of_several_outputs_the_last_is_judged_and_the_loss_has_all():
    shapes = []

    def sum_of_both(made, target):
        shapes.append(tuple(tuple(image.shape) for image in made))
        return (made[0] - target[:, :, ::2, ::2]).abs().mean() + (made[1] - target).abs().mean()

    network, critic = TwoScales(), Recorder()
    loss = WeightedLoss({"both": sum_of_both}, {"both": 1.0})
    run = trainer(network, critic, loss_function=loss, adversarial_weight=1)
    run.run()
    assert set(shapes) == {((2, 1, 4, 4), (2, 1, 8, 8))}
    assert network.coarse != 1 and network.fine != 1  # both are trained
    assert tuple(run.state.output[0]["pred"].shape) == (1, 8, 8)
    assert critic.seen[0] == pytest.approx([11, 12, 2, 4])  # two targets, and twice the inputs


def test_every_output_has_a_gradient_even_without_weight():
    network = TwoScales()
    loss = WeightedLoss({"fine": lambda made, target: (made[1] - target).abs().mean()}, {"fine": 1.0})
    trainer(network, loss_function=loss).run()
    assert network.coarse.grad == 0  # not None, for which several processes would wait in vain


def test_several_generator_steps():
    steps = []
    run = trainer(data=loader(12), critic_steps=1, generator_steps=2)
    run.add_event_handler(IterationEvents.BACKWARD_COMPLETED, lambda e: steps.append(e.state.iteration))
    run.run()
    assert steps == [1, 1, 2, 2]


def test_warm_up_stages():
    network, critic = Scale(), Recorder()
    run = trainer(network, critic, loader(4), max_epochs=3, generator_warmup=1, discriminator_warmup=1)
    history = []

    @run.on(Events.EPOCH_COMPLETED)
    def remember(engine):
        history.append((network.scale.item(), critic.scale.item(), terms_of(engine.state.output)))

    run.run()
    (g1, d1, t1), (g2, d2, t2), (g3, d3, t3) = history
    assert g1 != 1
    assert d1 == 1
    assert "adversarial" not in t1
    assert g2 == g1
    assert d2 != 1
    assert t2["loss"] == t2["discriminator_loss"]
    assert g3 != g2
    assert d3 != d2
    assert "adversarial" in t3
    assert len(critic.seen[0]) == 4  # the first it saw was a step of its own


def test_without_weight_the_discriminator_does_not_train():
    critic = Recorder()
    run = trainer(critic=critic, adversarial_weight=0)
    run.run()
    assert float(critic.scale) == 1
    assert critic.seen == []


@pytest.mark.parametrize("stepped", ["generator", "discriminator"])
def test_the_network_that_is_not_stepped_changes_nothing(stepped):
    network, critic = convolutions("batch"), convolutions("batch", seed=1)
    warmup = {"generator_warmup": 0, "discriminator_warmup": 1} if stepped == "discriminator" else {}
    frozen = network if stepped == "discriminator" else critic
    rate = 0.0 if stepped == "generator" else 0.1  # the critic's own step apart, only buffers could change
    run = trainer(network, critic, loader(8), adversarial_loss=CriterionGAN(), **warmup)
    run.discriminator_optimizer.param_groups[0]["lr"] = rate
    if stepped == "generator":
        changes = []
        run.add_event_handler(IterationEvents.FORWARD_COMPLETED, lambda e: changes.append(_buffers(critic)))
        run.add_event_handler(Events.ITERATION_COMPLETED, lambda e: changes.append(_buffers(critic)))
        run.run()
        assert torch.equal(changes[0], changes[1])
        assert not torch.equal(changes[1], changes[2])  # its own step in between does change them
    else:
        before = {key: value.clone() for key, value in frozen.state_dict().items()}
        run.run()
        assert all(torch.equal(value, before[key]) for key, value in frozen.state_dict().items())
    assert all(p.requires_grad for p in (*network.parameters(), *critic.parameters()))


def _buffers(network):
    return torch.cat([buffer.flatten().float() for buffer in network.buffers()]).clone()


def test_generator_step_leaves_no_gradients_in_the_discriminator():
    critic = convolutions(seed=1)
    run = trainer(convolutions(), critic, adversarial_loss=CriterionGAN())
    norms = []

    @run.on(IterationEvents.FORWARD_COMPLETED)
    def forget(engine):
        critic.zero_grad(set_to_none=True)

    run.add_event_handler(
        IterationEvents.BACKWARD_COMPLETED, lambda e: norms.append([p.grad for p in critic.parameters()])
    )
    run.run()
    assert norms
    assert all(gradient is None for step in norms for gradient in step)


def test_penalty_is_refused_with_batch_normalisation():
    with pytest.raises(ValueError, match="batch normalisation"):
        trainer(critic=convolutions("batch"), penalty_weight=10)


def test_every_term_is_logged_at_every_iteration(tmp_path):
    torch.manual_seed(0)
    critic = PatchDiscriminator(2, channels=4, in_channels=1, num_layers_d=1, norm=None)
    loss = WeightedLoss({"l1": nn.L1Loss(), "mse": nn.MSELoss()}, {"l1": 1.0, "mse": 2.0})
    run = trainer(
        convolutions(),
        critic,
        loader(8, shift=0.1),
        loss_function=loss,
        penalty_weight=10,
        adversarial_weight=0.5,
        train_handlers=[TermsTable(tmp_path, terms_of)],
    )
    run.run()
    with (tmp_path / "terms.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = {"loss", "loss_l1", "loss_mse", "adversarial", "discriminator_loss", "score_gap", "gradient_penalty"}
    names |= {"generator_gradient", "discriminator_gradient"}
    for iteration in ("1", "2"):
        terms = {row["term"]: float(row["value"]) for row in rows if row["iteration"] == iteration}
        assert terms.keys() == names
        weighted = terms["loss_l1"] + 2 * terms["loss_mse"] + 0.5 * terms["adversarial"]
        assert terms["loss"] == pytest.approx(weighted, rel=1e-4)
        assert terms["score_gap"] == pytest.approx(-terms["discriminator_loss"], rel=1e-4, abs=1e-6)


def test_unpaired_data_compare_the_prediction_with_the_input():
    run = trainer(data=loader(4, shift=100.0), paired=False, adversarial_weight=1e-6)
    run.run()
    assert terms_of(run.state.output)["loss_l1"] == pytest.approx(0, abs=1e-3)


def test_the_discriminator_can_be_shown_crops():
    shapes = []

    class Sizes(Recorder):
        def forward(self, image):
            shapes.append(tuple(image.shape))
            return super().forward(image)

    items = [{"image": torch.rand(1, 12, 10), "label": torch.rand(1, 6, 6)} for _ in range(8)]
    data = DataLoader(Dataset(items), batch_size=2)
    pool = ImagePool(2)
    trainer(critic=Sizes(), data=data, paired=False, discriminator_crop=6, pool=pool).run()
    assert shapes == [(4, 1, 6, 6), (2, 1, 6, 6)] * 2  # two targets and two crops, then the generator's crops
    assert pool.images.shape == (2, 1, 6, 6)


def test_accumulation_is_a_larger_batch():
    results = []
    for batch, count in ((4, 1), (2, 2)):
        network, critic = convolutions(), convolutions(seed=1)
        run = trainer(
            network, critic, loader(8, batch, shift=0.3), accumulation_steps=count, adversarial_loss=CriterionGAN()
        )
        run.run()
        results.append([*network.parameters(), *critic.parameters()])
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(*results, strict=True))


def test_too_few_batches_are_named():
    with pytest.raises(InputError, match="1 batches, but one training step takes 6"):
        trainer(data=loader(2), critic_steps=5)


def test_the_pool_shows_earlier_fakes_as_soon_as_it_has_enough():
    pool = ImagePool(2, share=0.5)
    random = torch.Generator().manual_seed(0)

    def batch(value):
        return torch.full((2, 1, 1), float(value))

    assert pool.mix(batch(1), random).flatten().tolist() == [1, 1]
    assert pool.mix(batch(2), random).flatten().tolist() == [1, 2]
    assert pool.images.flatten().tolist() == [1, 2]
    shown = pool.mix(batch(3), random)
    assert shown.flatten().tolist()[1] == 3
    assert shown.flatten().tolist()[0] in (1, 2)
    assert 3 in pool.images.flatten().tolist() and len(pool) == 2
    with pytest.raises(ValueError, match="capacity"):
        ImagePool(0)


def test_a_pool_that_becomes_full_overwrites_with_the_rest():
    pool = ImagePool(5, share=1)
    for value in (1.0, 2.0):
        pool.mix(torch.full((3, 1), value))
    assert sorted(pool.images.flatten().tolist()) == [1, 1, 2, 2, 2]
    assert pool.mix(torch.full((7, 1), 3.0)).unique().tolist() == [1, 2, 3]


def test_half_of_the_fakes_are_earlier_ones_and_a_quarter_of_the_minibatch_is_renewed():
    """Mishra et al. 2018: 50 % real, 25 % current, 25 % from the buffer."""
    pool = ImagePool(40, share=0.5)
    old = torch.arange(40.0).view(-1, 1, 1, 1)
    for part in old.split(20):
        pool.mix(torch.cat([part, part]))
    assert len(pool) == 40
    current = 100 + torch.arange(20.0).view(-1, 1, 1, 1)  # with 20 real ones a minibatch of 40
    shown = pool.mix(current, torch.Generator().manual_seed(0))
    assert int((shown < 100).sum()) == int((shown >= 100).sum()) == 10
    assert int((pool.images >= 100).sum()) == 10


def adversarial_run(folder, epochs, resume=False):
    torch.manual_seed(0)
    network, critic = convolutions(), PatchDiscriminator(2, channels=4, in_channels=1, num_layers_d=1, norm=None)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    discriminator_optimizer = torch.optim.Adam(critic.parameters(), lr=1e-3)
    pool = ImagePool(3)
    parts = {
        "network": network,
        "discriminator": critic,
        "optimizer": optimizer,
        "discriminator_optimizer": discriminator_optimizer,
        "pool": pool,
    }
    checkpoint = RunCheckpoint(folder, parts)
    run = trainer(
        network,
        critic,
        loader(8, shift=0.2),
        max_epochs=epochs,
        optimizer=optimizer,
        discriminator_optimizer=discriminator_optimizer,
        penalty_weight=10,
        generator_warmup=1,
        pool=pool,
        train_handlers=[checkpoint],
    )
    checkpoint.resume(resume)
    run.run()
    return {**network.state_dict(), **{f"d.{key}": value for key, value in critic.state_dict().items()}}


def test_resuming_gives_the_weights_of_an_undisturbed_run_bit_by_bit(tmp_path):
    straight = adversarial_run(tmp_path / "straight", 4)
    adversarial_run(tmp_path / "broken", 2)
    resumed = adversarial_run(tmp_path / "broken", 4, resume=True)
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)
    assert torch.load(tmp_path / "broken" / "last.pt", weights_only=True)["epoch"] == 4


def test_loss_scales_are_resumed(tmp_path):
    def stopped(epochs, scale):
        critic = PatchDiscriminator(2, channels=4, in_channels=1, num_layers_d=1, norm=None)
        checkpoint = RunCheckpoint(tmp_path, {})
        run = trainer(convolutions(), critic, max_epochs=epochs, train_handlers=[checkpoint])
        run.scalers = [torch.amp.GradScaler("cpu", init_scale=scale * k) for k in (1, 2)]  # as float16 has them on GPUs
        return run, checkpoint

    stopped(1, 64.0)[0].run()
    run, checkpoint = stopped(2, 4.0)
    assert checkpoint.resume(True)
    assert [scaler.get_scale() for scaler in run.scalers] == [64.0, 128.0]


def test_autocast_keeps_losses_in_float32():
    critic = PatchDiscriminator(2, channels=4, in_channels=1, num_layers_d=1, norm=None)
    run = trainer(convolutions(), critic, amp=True, penalty_weight=1.0)
    run.run()
    terms = terms_of(run.state.output)
    assert all(torch.isfinite(torch.tensor(term)) for term in terms.values())
    # bfloat16 has three digits: the L1 loss is finer than that
    assert torch.tensor(terms["loss"]).bfloat16().float() != torch.tensor(terms["loss"])


PROGRAM = Path(__file__).with_name("two_processes.py")


@pytest.mark.distributed
def test_two_processes_keep_equal_weights():
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(PROGRAM)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "equal" in done.stdout


def test_masks_in_the_target_are_for_the_loss_alone():
    class Masked(nn.Module):
        needs_masks = True

        def forward(self, image, target):
            assert target.shape[1] == 2
            return (target[:, 1:] * (image - target[:, :1]).abs()).mean()

    items = [{"image": torch.ones(1, 8, 8), "label": torch.full((2, 8, 8), 3.0)} for _ in range(4)]
    losses = WeightedLoss({"masked": Masked(), "l1": nn.L1Loss()}, {"masked": 1.0, "l1": 1.0})
    critic = Recorder()
    run = trainer(critic=critic, data=DataLoader(Dataset(items), batch_size=2), loss_function=losses)
    run.run()
    terms = terms_of(run.state.output)
    assert terms["loss_masked"] == pytest.approx(3 * terms["loss_l1"])
    assert critic.seen[0][:2] == [3.0, 3.0]
