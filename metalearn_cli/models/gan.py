"""Generative adversarial network whose discriminator's trunk is the backbone.

Sources: Huang et al. 2024, https://arxiv.org/abs/2501.05441 (relativistic loss with both gradient penalties, "R3GAN");
Lin et al. 2025, https://arxiv.org/abs/2501.08316, section 3.3 (the penalty by a finite difference).

Legend: B items, N images, C channels, H height, W width, ... the shape of one item.
"""

from __future__ import annotations

from typing import Annotated, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from metalearn_cli.core.check import Range
from metalearn_cli.models.common.decoders import make_decoder

SIGMA = 0.01  # of the noise by which the finite difference of the gradient penalties looks around, see `Gan`


class Gan(nn.Module):
    """Two players in one loss: a generator, and a discriminator made of the backbone and a linear layer.

    The discriminator learns to score an item above a generated one, the generator the opposite. Penalties on the
    squared gradient of the score, at items (R1) and at generated ones (R2), make the game converge. They are finite
    differences along random directions: the exact ones need second derivatives, which cost several times as much. They
    are those of an item's score with the batch's statistics held fixed, but for the noise of a draw (a quarter of them)
    and for a bias that falls with `SIGMA`: of R1 0.9 to 1.25 times the exact value, of R2, where the score bends more,
    0.6 to 0.9 (conv4-32 on glyphs, 3 seeds, untrained and after 30 and 200 steps; with 0.1 it is 0.5 to 1.1 and 0.1 to
    0.9). With 0.003, differences drown in the rounding of bf16-mixed, which makes small penalties ten times as large.

    A step uses a quarter of the batch. With as many generated items, and a noisy copy of each for the finite
    difference, the backbone sees as many items as with other models, and a step takes about as long.

    Args:
        backbone: maps [B, ...] to [B, D] and says D as `out_dim`.
        shape: of one item.
        value_range: "unit" (values in [0, 1]) or "real".
        latent: dimensions of the generator's standard normal input, >= 1.
        hidden: channels of the first map (images) or width (vectors) of the generator, >= 1.
        gamma: weight of the gradient penalties, >= 0.
    """

    def __init__(
        self,
        backbone: nn.Module,
        shape: tuple[int, ...],
        value_range: str,
        latent: Annotated[int, Range(1)] = 64,
        hidden: Annotated[int, Range(1)] = 64,
        gamma: Annotated[float, Range(0)] = 0.1,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        # no bias: a relativistic loss only sees differences of scores
        self.critic = nn.Linear(cast(int, backbone.out_dim), 1, bias=False)
        self.generator = make_decoder(latent, shape, hidden)
        self.latent = latent
        self.gamma = gamma
        self.unit = value_range == "unit"
        self.images = len(shape) == 3

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return a loss [] whose gradient is each player's own, and metrics; the labels y are not used.

        Args:
            x: items [B, ...].
            y: not used.

        Returns:
            The discriminator's loss with penalties, plus a term of value zero that carries the generator's gradient.
        """
        x = x[: -(-len(x) // 4)]
        made = self.generate(x)
        fake = made.detach().requires_grad_()
        # one batch each, so that batch statistics do not tie the scores of real items to those of generated ones
        real_score, real_slope = self._score(x)
        fake_score, fake_slope = self._score(fake)
        loss = softplus(fake_score - real_score).mean()
        penalty = real_slope + fake_slope
        # the generator's loss, differentiated here by the generated items alone, does not reach the discriminator
        generator_loss = softplus(real_score - fake_score).mean()
        (slope,) = torch.autograd.grad(generator_loss, fake, retain_graph=True)
        total = loss + self.gamma / 2 * penalty + ((made - fake.detach()) * slope).sum()
        metrics = {"discriminator": loss, "generator": generator_loss, "penalty": penalty}
        return total, {name: value.detach() for name, value in metrics.items()}

    def generate(self, like: Tensor) -> Tensor:
        """Return as many new items [B, ...] as there are in `like`, on its device and in its number format."""
        z = torch.randn(len(like), self.latent, device=like.device, dtype=like.dtype)
        made: Tensor = self.generator(z)
        return made.sigmoid() if self.unit else made

    def pictures(self, x: Tensor) -> dict[str, Tensor]:
        """Return as many generated images [N, C, H, W] in [0, 1] as there are in x."""
        return {"samples": self.generate(x)} if self.images and self.unit else {}

    def _score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the score of each item [B] and an estimate of the mean squared gradient [] of the score."""
        near = x + SIGMA * torch.randn_like(x)
        score, near_score = self.critic(self.backbone(torch.cat([x, near])))[:, 0].chunk(2)
        return score, ((near_score - score) / SIGMA).square().mean()
