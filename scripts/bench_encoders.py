"""What each encoder costs: its parameters and features, and seconds on one thread.

The seconds are those of the features of 100 items, and of the gradient of a task of second-order MAML (5-way 1-shot, 5
queries of a class, one inner step); weights are random:

    python scripts/bench_encoders.py
"""

from __future__ import annotations

import time
from typing import Any

import torch

from metalearn_cli.backbones.common.items import make_backbone
from metalearn_cli.core.build import build
from metalearn_cli.core.items import Facts
from metalearn_cli.core.learning import task_loss
from metalearn_cli.core.network import network
from metalearn_cli.core.random import seeded

IMAGE = {size: Facts("image", size, "unit", 20) for size in ((1, 28, 28), (3, 84, 84))}
SERIES = {size: Facts("audio", size, "real", 20) for size in ((2, 128), (16_000,))}
TEXT = Facts("text", (32,), "ids", 20, vocabulary=4096)
VECTOR = Facts("vector", (100,), "real", 20)

ROWS: tuple[tuple[str, Facts, dict[str, Any]], ...] = (
    ("mlp", VECTOR, {}),
    ("conv4", IMAGE[1, 28, 28], {}),
    ("vit", IMAGE[1, 28, 28], {}),
    ("resnet12", IMAGE[1, 28, 28], {}),
    ("resnet18", IMAGE[1, 28, 28], {}),
    ("resnet50", IMAGE[1, 28, 28], {}),
    ("conv4", IMAGE[3, 84, 84], {}),
    ("vit", IMAGE[3, 84, 84], {"patch": 7}),
    ("resnet12", IMAGE[3, 84, 84], {}),
    ("resnet18", IMAGE[3, 84, 84], {}),
    ("cnn1d", SERIES[2, 128], {}),
    ("cnn1d", SERIES[(16_000,)], {"kernel": 9, "stride": 4}),
    ("transformer", TEXT, {}),
    ("transformer", TEXT, {"layers": 0}),
)


def drawn(facts: Facts, count: int) -> torch.Tensor:
    """Return random items."""
    if facts.values == "ids":
        return torch.randint(0, int(facts.vocabulary), (count, *facts.shape))  # type: ignore[arg-type]
    return torch.rand(count, *facts.shape)


def seconds(function: Any) -> float:
    """Return the shortest of three times."""
    took = []
    for _ in range(3):
        began = time.perf_counter()
        function()
        took.append(time.perf_counter() - began)
    return min(took)


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    maml = build({"_target_": "metalearn_cli.algorithms.maml.Maml"}, "algorithm")
    print("| backbone | settings | an item | parameters | features | 100 items, s | a task of MAML, s |")
    print("|---|---|---|---|---|---|---|")
    for name, facts, settings in ROWS:
        component = name if name in ("resnet18", "resnet50") else name.capitalize()
        target = f"metalearn_cli.backbones.{name}.{component}"
        with seeded(0):
            net = network(make_backbone({"_target_": target, **settings}, facts), 5)
            hundred, support, query = drawn(facts, 100), drawn(facts, 5), drawn(facts, 25)
        labels = torch.arange(5), torch.arange(5).repeat(5)

        def embed() -> None:
            with torch.no_grad():
                net.features(net.params, hundred)  # noqa: B023

        def task() -> None:
            state = maml.adapt(net, {}, support, labels[0], 5)  # noqa: B023
            logits = maml.predict(net, {}, state, query)  # noqa: B023
            torch.autograd.grad(task_loss(logits, labels[1]), list(net.params.values()))  # noqa: B023

        count = sum(p.numel() for n, p in net.params.items() if n.startswith("backbone."))
        told = ", ".join(f"{key}={value}" for key, value in settings.items())
        shape = "x".join(map(str, facts.shape))
        print(f"| {name} | {told} | {shape} | {count:,} | {net.out_dim} | {seconds(embed):.3f} | {seconds(task):.3f} |")


if __name__ == "__main__":
    main()
