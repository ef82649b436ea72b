"""Pictures of regressions from one number to one number: the fits of some episodes, before and after adaptation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from metalearn_cli.core.types import Episode
from metalearn_cli.engine.episodes import Learner, fitted
from metalearn_cli.records.plots import Curve, curve_picture

_BETWEEN = 200
"""Places of a curve besides the queries, where answers do not depend on each other."""


def is_curve(episode: Episode) -> bool:
    """Whether an episode is such a regression."""
    x, y = episode.support_x, episode.support_y
    return isinstance(x, Tensor) and y.is_floating_point() and x.shape[1:] == y.shape[1:] == (1,)


def draw_curves(learner: Learner, episodes: Sequence[Episode], title: str, path: Path) -> None:
    """Draw episodes, a panel for each.

    Args:
        learner: the learner, on the device of the episodes.
        episodes: in its precision.
        title: what they are.
        path: the PNG file.
    """
    curves = []
    for episode in episodes:
        support_x, x = episode.support_x, episode.query_x
        assert isinstance(support_x, Tensor) and isinstance(x, Tensor)
        if not learner.net.batch_statistics:
            low, high = torch.cat([support_x, x]).aminmax()
            share = torch.linspace(0, 1, _BETWEEN, dtype=x.dtype, device=x.device)[:, None]
            x = torch.cat([x, (1 - share) * low + share * high])
        with torch.no_grad():
            fit = fitted(learner, support_x, episode.support_y, x)
        curves.append(tree_map_only(Tensor, lambda t: t.float().cpu(), Curve(episode, x, fit)))
    curve_picture(curves, title, path)
