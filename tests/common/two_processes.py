# SPDX-License-Identifier: Apache-2.0
"""Run under torchrun by test_trainers: both networks in DistributedDataParallel on the CPU."""

import torch
import torch.distributed as dist
from monai.data import DataLoader, Dataset
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from common.engine.trainers import AdversarialTrainer
from common.losses import WassersteinGAN
from common.utils import distributed


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 3, padding=1))


def main() -> None:
    distributed.start()
    rank = dist.get_rank()
    torch.manual_seed(100 + rank)  # each process has data of its own
    items = [{"image": torch.rand(1, 8, 8), "label": torch.rand(1, 8, 8)} for _ in range(8)]
    generator, critic = (DistributedDataParallel(network(seed)) for seed in (0, 1))
    before = generator.module[0].weight.detach().clone()
    trainer = AdversarialTrainer(
        device="cpu",
        max_epochs=2,
        train_data_loader=DataLoader(Dataset(items), batch_size=2),
        network=generator,
        optimizer=torch.optim.Adam(generator.parameters(), lr=1e-2),
        loss_function=nn.L1Loss(),
        discriminator=critic,
        discriminator_optimizer=torch.optim.Adam(critic.parameters(), lr=1e-2),
        adversarial_loss=WassersteinGAN(),
        penalty_weight=10,
    )
    trainer.run()
    mine = torch.cat([p.detach().flatten() for net in (generator, critic) for p in net.parameters()])
    both = [torch.empty_like(mine) for _ in range(2)]
    dist.all_gather(both, mine)
    assert torch.equal(*both), "the processes differ"
    assert not torch.equal(before, generator.module[0].weight), "nothing was trained"
    if rank == 0:
        print("equal", flush=True)
    distributed.stop()


if __name__ == "__main__":
    main()
