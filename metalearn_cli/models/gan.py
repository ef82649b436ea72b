"""A generative adversarial network whose discriminator's trunk is the backbone that moves on.

Source: Huang et al. 2024, "The GAN is dead; long live the GAN!" (R3GAN), https://arxiv.org/abs/2501.05441: the
relativistic pairing loss with zero-centred gradient penalties on real (R1) and generated items (R2), equations 2 to 4.

Legend: B items, N images, C channels, H height, W width, Z dimensions of the noise, ... the shape of one item.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from metalearn_cli.models._decoder import make_decoder


class Gan(nn.Module):
    """Both players learn in one step from one scalar, whose gradient is right for each of them.

    Args:
        backbone: the discriminator's trunk; maps items [B, ...] to features and says their number as `out_dim`.
        shape: of one item.
        value_range: "unit" for values in [0, 1], "real" for standardised ones.
        latent: Z, >= 1.
        hidden: channels (images) or width (vectors) of the generator, >= 1.
        gamma: weight of the gradient penalties, >= 0.

    Raises:
        ValueError: if a value is out of range.
    """

    def __init__(
        self,
        backbone: nn.Module,
        shape: tuple[int, ...],
        value_range: str,
        latent: int = 64,
        hidden: int = 64,
        gamma: float = 1.0,
    ) -> None:
        super().__init__()
        for name, value, low in (("latent", latent, 1), ("hidden", hidden, 1), ("gamma", gamma, 0)):
            if value < low:
                raise ValueError(f"{name} must be >= {low}, got {value}")
        self.backbone = backbone
        self.critic = nn.Linear(cast(int, backbone.out_dim), 1)
        self.generator = make_decoder(latent, shape, hidden, "auto")
        self.latent = latent
        self.gamma = gamma
        self.unit = value_range == "unit"

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss [] and metrics of items x [B, ...]; their classes y are not looked at."""
        fake = self._generate(x)
        real, shown = x.detach().requires_grad_(), fake.detach().requires_grad_()
        # one pass, so that where the backbone uses batch statistics both players' items share them
        real_score, fake_score = self._judge(torch.cat([real, shown])).split(len(x))
        gradients = torch.autograd.grad(real_score.sum() + fake_score.sum(), (real, shown), create_graph=True)
        penalty = torch.stack([g.flatten(1).square().sum(1).mean() for g in gradients]).sum()
        loss_critic = softplus(fake_score - real_score).mean()
        loss_generator = softplus(real_score - fake_score).mean()
        # the generator's loss reaches it through the images alone, so the critic gets no gradient of it
        (pull,) = torch.autograd.grad(loss_generator, shown, retain_graph=True)
        surrogate = ((fake - fake.detach()) * pull).sum()
        metrics = {
            "critic": loss_critic.detach(),
            "generator": loss_generator.detach(),
            "penalty": penalty.detach(),
        }
        return loss_critic + self.gamma / 2 * penalty + surrogate, metrics

    def pictures(self, x: Tensor) -> dict[str, Tensor]:
        """Return as many generated images [N, C, H, W] as there are in x."""
        return {"samples": self._generate(x)} if x.ndim == 4 and self.unit else {}

    def _judge(self, x: Tensor) -> Tensor:
        scores: Tensor = self.critic(self.backbone(x))
        return scores[:, 0]

    def _generate(self, x: Tensor) -> Tensor:
        output: Tensor = self.generator(torch.randn(len(x), self.latent, device=x.device, dtype=x.dtype))
        return output.sigmoid() if self.unit else output
