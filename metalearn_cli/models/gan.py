"""Generative adversarial network: Huang et al. 2024, https://arxiv.org/abs/2501.05441 ("R3GAN").

A generator makes items from noise, and a discriminator, whose trunk is the backbone, learns to tell them from real
ones. Its loss compares a real and a made item (relativistic), and penalties on its gradient at both make training
converge.

The penalties are finite differences (Lin et al. 2025, https://arxiv.org/abs/2501.08316, section 3.3).

Legend: B items, N images, C channels, H height, W width, ... the shape of one item.
"""

from __future__ import annotations

from typing import Annotated, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from metalearn_cli.core.check import Range
from metalearn_cli.core.network import normalised_by
from metalearn_cli.models.common.decoders import check_one_part, make_decoder

SIGMA = 0.01  # standard deviation of the noise in the finite differences of the gradient penalties, see `Gan`


class Gan(nn.Module):
    """Two players in one loss: a generator, and a discriminator that is the backbone and a linear layer.

    The discriminator learns to score an item higher than a generated one, the generator the opposite. Penalties on the
    squared gradient of the score, at items (R1) and at generated ones (R2), make training converge. They are
    finite differences along random directions: the exact ones need second derivatives, which cost several times as
        much.

    The batch statistics are those of the real items alone. With statistics of their own, generated items would look the
    same at any contrast, and a batch of one image many times would get a variance like any other.

    Compared with the exact penalties, the estimates have the noise of one draw (a quarter of their value) and a bias
    that decreases with `SIGMA`: R1 is 1.0 to 1.25 times the exact value; R2, where the score is more curved, 0.6 to 1.0
    (conv4-32 on glyphs, 2 seeds, untrained and after 30 and 200 steps). With 0.003, the rounding of bf16-mixed
    dominates the differences and makes small penalties ten times as large.

    A step uses a quarter of the batch. With as many generated items, and a noisy copy of each for the finite
    difference, the backbone sees as many items as with other models, and a step takes about as long.

    Args:
        backbone: maps [B, ...] to [B, D]; its `out_dim` is D.
        shape: of one item.
        value_range: "unit" (values in [0, 1]) or "real".
        latent: dimensions of the generator's standard normal input, >= 1.
        hidden: channels of the first map (images) or width (vectors) of the generator, >= 1.
        gamma: weight of the gradient penalties, >= 0.

    Raises:
        ValueError: if items are text, or have several parts.
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
        check_one_part(shape, "gan")
        if value_range == "ids":
            raise ValueError("gan makes numbers, but the items are text (ids); use model=autoencoder")
        self.backbone = backbone
        # no bias: a relativistic loss uses only differences of scores
        self.critic = nn.Linear(cast(int, backbone.out_dim), 1, bias=False)
        self.generator = make_decoder(latent, shape, hidden, fine=True)
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
        score, slope = self._score(torch.cat([x, fake]), len(x))
        real_score, fake_score = score.chunk(2)
        loss = softplus(fake_score - real_score).mean()
        penalty = 2 * slope.mean()  # R1 + R2, each a mean over as many items
        # the generator's loss is differentiated here only with respect to generated items, so the discriminator gets
        # none of it
        generator_loss = softplus(real_score - fake_score).mean()
        (direction,) = torch.autograd.grad(generator_loss, fake, retain_graph=True)
        total = loss + self.gamma / 2 * penalty + ((made - fake.detach()) * direction).sum()
        metrics = {"discriminator": loss, "generator": generator_loss, "penalty": penalty}
        return total, {name: value.detach() for name, value in metrics.items()}

    def generate(self, like: Tensor) -> Tensor:
        """Return as many new items [B, ...] as `like` has, on its device and in its number format."""
        z = torch.randn(len(like), self.latent, device=like.device, dtype=like.dtype)
        made: Tensor = self.generator(z)
        return made.sigmoid() if self.unit else made

    def pictures(self, x: Tensor) -> dict[str, Tensor]:
        """Return as many generated images [N, C, H, W] in [0, 1] as there are in x."""
        return {"samples": self.generate(x)} if self.images and self.unit else {}

    def _score(self, x: Tensor, real: int) -> tuple[Tensor, Tensor]:
        """Return the score of each item [B] and an estimate of its squared gradient [B]; the first `real` are real."""
        near = x + SIGMA * torch.randn_like(x)
        with normalised_by(real):
            score, near_score = self.critic(self.backbone(torch.cat([x, near])))[:, 0].chunk(2)
        return score, ((near_score - score) / SIGMA).square()
