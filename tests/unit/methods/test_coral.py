from __future__ import annotations

from torch.nn.functional import cross_entropy

from metalearn_cli.methods.coral import Coral


def test_loss_is_that_of_the_paper(net, batch, same):
    """With covariances as products of matrices, the way the paper writes them."""
    loss, _ = Coral(weight=0.6).loss(net, {}, {}, batch)
    covariances = []
    for name in ("x", "unlabelled"):
        d = net.features(net.params, batch[name])
        total = d.sum(0, keepdim=True)
        covariances.append((d.T @ d - total.T @ total / 8) / 7)
    apart = sum((one - two) ** 2 for one, two in zip(*(c.flatten() for c in covariances), strict=True)) / (4 * 3**2)
    same(loss, cross_entropy(net.output(net.params, batch["x"]), batch["y"]) + 0.6 * apart, net.params)
