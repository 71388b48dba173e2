# SPDX-License-Identifier: Apache-2.0
"""What the two sides of an adversarial game minimise: Wasserstein, least squares, cross-entropy.

Each game has ``discriminator(real, fake)`` and ``generator(fake)``, both of logits and both to be minimised. Logits are
a tensor, or a list as MONAI's ``PatchDiscriminator`` returns it, features first and logits last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from monai.losses import PatchAdversarialLoss
from torch import nn

__all__ = ["CriterionGAN", "WassersteinGAN", "gradient_penalty", "last_logits"]

CRITERIA = ("least_squares", "bce")


def last_logits(output: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
    """The logits in a discriminator's output, as float32.

    Example:
        >>> features, logits = torch.zeros(1, 64, 8, 8), torch.ones(1, 1, 6, 6)
        >>> last_logits([features, logits]).shape
        torch.Size([1, 1, 6, 6])
    """
    return (output if isinstance(output, torch.Tensor) else output[-1]).float()


class WassersteinGAN:
    """Critic ``E[D(fake)] - E[D(real)]``, generator ``-E[D(fake)]`` (Arjovsky et al. 2017; Gulrajani et al. 2017).

    Departs from the paper (Nazleem and Sujatha, eq. 3): that writes the interpolated image where the real one belongs.

    Example:
        >>> real, fake = torch.tensor([3.0, 1.0]), torch.tensor([1.0, 0.0])
        >>> WassersteinGAN().discriminator(real, fake), WassersteinGAN().generator(fake)
        (tensor(-1.5000), tensor(-0.5000))
    """

    def discriminator(self, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        """Critic's loss, a scalar of any sign, without the gradient penalty."""
        return fake.mean() - real.mean()

    def generator(self, fake: torch.Tensor) -> torch.Tensor:
        """Generator's loss, a scalar of any sign."""
        return -fake.mean()


class _LogitLoss(PatchAdversarialLoss):
    """MONAI's loss on the logits as they are.

    Its least squares put a LeakyReLU on the logits (a score of -1 for a real image would cost 1.1 instead of 4), its
    cross-entropy a sigmoid, which autocast refuses and which loses precision.
    """

    def __init__(self, criterion: str) -> None:
        super().__init__(criterion=criterion, no_activation_leastsq=True)
        self.activation = None
        if criterion == "bce":
            self.loss_fct = nn.BCEWithLogitsLoss()


class CriterionGAN:
    """Least squares (Mao et al. 2017) or cross-entropy with the non-saturating generator loss (Goodfellow et al. 2014).

    Args:
        criterion: ``least_squares`` or ``bce``.
        factor: on the discriminator's loss, 0.5 for the mean of real and fake.

    Raises:
        ValueError: another criterion.

    Example:
        >>> real, fake = torch.ones(1, 1, 6, 6), torch.full((1, 1, 6, 6), 0.5)  # least squares wants 1 and 0
        >>> CriterionGAN().discriminator(real, fake), CriterionGAN().generator(fake)
        (tensor(0.1250), tensor(0.2500))
    """

    def __init__(self, criterion: str = "least_squares", factor: float = 0.5) -> None:
        if criterion not in CRITERIA:
            raise ValueError(f"criterion must be one of {CRITERIA}, got {criterion!r}")
        self.loss = _LogitLoss(criterion)
        self.factor = factor

    def discriminator(self, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        """Discriminator's loss, a scalar of 0 or more."""
        of_real = self.loss(real, target_is_real=True, for_discriminator=True)
        return self.factor * (of_real + self.loss(fake, target_is_real=False, for_discriminator=True))

    def generator(self, fake: torch.Tensor) -> torch.Tensor:
        """Generator's loss, a scalar of 0 or more."""
        return self.loss(fake, target_is_real=True, for_discriminator=False)


def gradient_penalty(
    critic: Callable[[torch.Tensor], torch.Tensor],
    real: torch.Tensor,
    fake: torch.Tensor,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """``E[(|grad D(x~)| - 1)^2]`` on interpolates x~ of real and fake (Gulrajani et al. 2017; the paper's eq. 3).

    Always in float32, whatever autocast is on: second derivatives overflow in half precision. Each sample has its own
    interpolate, and the norm goes over all elements of a sample.

    Args:
        critic: gives a score, or a map of scores, per sample, by itself: not through batch normalisation.
        real: ``(B, C, H, W[, D])``.
        fake: the same shape.
        generator: random numbers on the CPU, for a run that resumes exactly.

    Returns:
        A scalar of 0 or more with a graph to the critic's parameters.

    Example:
        >>> real, fake = torch.ones(2, 1, 4, 4), torch.zeros(2, 1, 4, 4)
        >>> gradient_penalty(lambda x: 3 * x[:, 0, 0, 0], real, fake).item()  # a slope of 3: (3 - 1)^2
        4.0
    """
    share = torch.rand(len(real), generator=generator).to(real.device).view(-1, *[1] * (real.ndim - 1))
    with torch.autocast(real.device.type, enabled=False):
        between = (share * real.detach().float() + (1 - share) * fake.detach().float()).requires_grad_(True)
        scores = last_logits(critic(between))
        (slope,) = torch.autograd.grad(scores.sum(), between, create_graph=True)
        # the norm's own derivative is infinite at 0
        norm = (slope.flatten(1).square().sum(dim=1) + 1e-12).sqrt()
    return (norm - 1).square().mean()
