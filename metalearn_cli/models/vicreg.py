"""VICReg: Bardes, Ponce & LeCun 2022, https://arxiv.org/abs/2105.04906, equations 1 to 6 and algorithm 1.

The embeddings of two random views of an item are brought together.
Every dimension must keep its variance over the batch and no two may vary together, so that they cannot collapse.

Legend: B items, E dimensions of the embedding, ... the shape of one item.
"""

from __future__ import annotations

from typing import Annotated, cast

from torch import Tensor, nn
from torch.nn.functional import mse_loss, relu

from metalearn_cli.core.check import Above, Below, Range
from metalearn_cli.core.items import Items, joined
from metalearn_cli.core.views import view
from metalearn_cli.models.common.projecting import make_projector

EPSILON = 1e-4  # added to variances before the root, as in the paper


class Vicreg(nn.Module):
    """Invariance, variance and covariance of embeddings, scaled as in algorithm 1.

    There the squared distance of two views is a mean over dimensions, and the variance term a mean over both views;
    equations 5 and 6 have sums.

    Args:
        backbone: maps [B, ...] to [B, D]; its `out_dim` is D.
        hidden: width of the hidden layer before the embedding, >= 1.
        outputs: E, >= 2.
        invariance: weight of the squared distance of two views (lambda), >= 0.
        variance: weight of the variance that dimensions lack (mu), >= 0.
        covariance: weight of the squared covariances (nu), >= 0.
        strength: of the random views, > 0 and < 1, see `core.views.view`.
    """

    whole_batch = True

    def __init__(
        self,
        backbone: nn.Module,
        hidden: Annotated[int, Range(1)] = 256,
        outputs: Annotated[int, Range(2)] = 256,
        invariance: Annotated[float, Range(0)] = 25.0,
        variance: Annotated[float, Range(0)] = 25.0,
        covariance: Annotated[float, Range(0)] = 1.0,
        strength: Annotated[float, Above(0), Below(1)] = 0.25,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = make_projector(cast(int, backbone.out_dim), hidden, outputs)
        self.invariance, self.variance, self.covariance = invariance, variance, covariance
        self.strength = strength

    def forward(self, x: Items, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss [] of items x [B, ...], and its three terms; labels y are not used."""
        views = joined([view(x, self.strength), view(x, self.strength)])
        one, two = self.projector(self.backbone(views)).chunk(2)
        distance = mse_loss(one, two)
        (lacking_1, covarying_1), (lacking_2, covarying_2) = _spread(one), _spread(two)
        lacking, covarying = (lacking_1 + lacking_2) / 2, covarying_1 + covarying_2
        loss = self.invariance * distance + self.variance * lacking + self.covariance * covarying
        terms = {"invariance": distance, "variance": lacking, "covariance": covarying}
        return loss, {name: term.detach() for name, term in terms.items()}


def _spread(z_BE: Tensor) -> tuple[Tensor, Tensor]:
    """Return how much deviation the dimensions lack (equation 1), and how much they covary (equations 3 and 4)."""
    centred = z_BE - z_BE.mean(0)
    covariance = centred.T @ centred / (len(z_BE) - 1)
    variance = covariance.diagonal()
    lacking = relu(1 - (variance + EPSILON).sqrt()).mean()
    return lacking, (covariance.square().sum() - variance.square().sum()) / z_BE.shape[1]
