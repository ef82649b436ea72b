from __future__ import annotations

from torch.nn.functional import cross_entropy

from metalearn_cli.methods.l2_sp import L2Sp


def test_loss_is_that_of_the_paper(net, start, batch, same):
    loss, logits = L2Sp(alpha=0.3, beta=0.7).loss(net, {}, start, batch)
    p = net.params
    hidden = batch["x"]
    for block in range(2):
        hidden = (hidden @ p[f"backbone.blocks.{block}.weight"].T + p[f"backbone.blocks.{block}.bias"]).relu()
    expected = cross_entropy(hidden @ p["head.weight"].T + p["head.bias"], batch["y"])
    for name, tensor in p.items():
        for weight, origin in zip(tensor.flatten(), start[name].flatten(), strict=True):
            expected = expected + (0.7 * weight**2 if name.startswith("head.") else 0.3 * (weight - origin) ** 2) / 2
    same(loss, expected, p)
    assert logits.shape == (8, 5)
