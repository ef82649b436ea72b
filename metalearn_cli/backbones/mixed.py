"""One encoder for each part of an item, such as a picture and its caption; their features are concatenated.

Legend: B items, D features.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from metalearn_cli.backbones.common.items import fitting, make_backbone, named, part_of
from metalearn_cli.core.build import Spec
from metalearn_cli.core.errors import ConfigError
from metalearn_cli.core.items import Facts, Items


class Mixed(nn.Module):
    """The features of an item's parts, each from its own backbone, side by side in the order of the parts' names.

    Args:
        facts: of items that are made of parts.
        parts: the settings of parts' backbones, by the part's name; each other part gets the backbone for its kind.

    Attributes:
        out_dim: D, the sum of those of the parts' backbones.
        batch_statistics: whether an item's output depends on the other items of its batch.

    Raises:
        ValueError: if items are not made of parts, or have no part of a name.
        ConfigError: if a part's backbone cannot be built, or takes other items.
    """

    def __init__(self, facts: Facts, parts: dict[str, Spec] | None = None) -> None:
        super().__init__()
        if isinstance(facts.shape, tuple):
            raise ValueError(f"the items are {named(facts)}, not made of parts; use backbone={fitting(facts)}")
        given = parts or {}
        if unknown := given.keys() - facts.shape.keys():
            raise ValueError(f"parts has {', '.join(unknown)}, but the items are {named(facts)}")
        self.encoders = nn.ModuleDict()
        for name in sorted(facts.shape):
            own = part_of(facts, name)
            self.encoders[name] = _encoder(name, own, given.get(name) or _default(own))
        self.out_dim = sum(encoder.out_dim for encoder in self.encoders.values())  # type: ignore[misc]
        self.batch_statistics = any(encoder.batch_statistics for encoder in self.encoders.values())

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The blocks of the parts' backbones, one backbone after the other."""
        return [block for encoder in self.encoders.values() for block in encoder.blocks]  # type: ignore[union-attr]

    def forward(self, x: Items) -> Tensor:
        """Return features [B, D] of items x, a dict of parts."""
        assert isinstance(x, dict)
        return torch.cat([encoder(x[name]) for name, encoder in self.encoders.items()], 1)


def _default(facts: Facts) -> Spec:
    name = fitting(facts)
    return {"_target_": f"metalearn_cli.backbones.{name}.{name.capitalize()}"}


def _encoder(name: str, facts: Facts, spec: Spec) -> nn.Module:
    """Build the backbone of a part.

    Raises:
        ConfigError: with the part's name in the keys.
    """
    try:
        return make_backbone(spec, facts)
    except ConfigError as error:
        keys = [p.key.replace("backbone", f"backbone.parts.{name}", 1) for p in error.problems]
        raise ConfigError([p._replace(key=k) for p, k in zip(error.problems, keys, strict=True)]) from error
