"""SSF: Lian, Zhou, Feng & Wang 2022, https://arxiv.org/abs/2210.08823."""

import torch


class Ssf:
    """Learn a scale, and a shift, for each output of every layer of the frozen backbone.

    Args:
        shift: also shift, not only scale.
    """

    def __init__(self, shift: bool = True):
        self.shift = shift

    def rates(self, net):
        return dict.fromkeys(net.head_names, 1.0)

    def init(self, net, sizes):
        backbone = {name: p for name, p in net.params.items() if name not in net.head_names}
        own = {f"scale.{name}": torch.ones(len(p)) for name, p in backbone.items() if p.ndim > 1}
        vectors = {name: p for name, p in backbone.items() if p.ndim == 1} if self.shift else {}
        return own | {f"shift.{name}": torch.zeros(len(p)) for name, p in vectors.items()}

    def merged(self, net, own):
        changed = dict(net.params)
        for name, p in net.params.items():
            if f"scale.{name}" in own:
                changed[name] = p * own[f"scale.{name}"].view(-1, *[1] * (p.ndim - 1))
            elif f"shift.{name}" in own:
                changed[name] = p + own[f"shift.{name}"]
        return changed
