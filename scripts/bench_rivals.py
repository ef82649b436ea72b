"""The peers, each run as its own examples run it, and the plain loop that gradients are compared with.

Each function sets up one of them on a network and returns its meta-step: gradients of a batch of episodes and a step of
Adam, after which the network's tensors still have the gradients. Adam is built as in each example.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import torch
from bench_common import Workload
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Adam

# torchvision's compiled operators do not load with every build of torch. Nothing here uses them, but importing
# torchvision registers them with the compiler, which fails if they are missing
sys.modules.setdefault("torchvision._meta_registrations", ModuleType("torchvision._meta_registrations"))

LR = 1e-3  # of Adam
Batch = tuple[Tensor, Tensor, Tensor, Tensor]  # core.types.Episode: support_x [T, S, ...], support_y, query_x, query_y
Step = Callable[[Batch], object]


def network(workload: Workload, device: str = "cpu") -> nn.Sequential:
    """Return the peers' conv4 for 28x28 images; the weights are the same at every call and on any device."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for channels in (1, 64, 64, 64):
        norm = nn.BatchNorm2d(64, track_running_stats=False)
        layers += [nn.Conv2d(channels, 64, 3, padding=1), norm, nn.ReLU(), nn.MaxPool2d(2)]
    head = [nn.Linear(64, workload.way)] if workload.inner_steps else []
    return nn.Sequential(*layers, nn.Flatten(), *head).to(device)


def shared(net: nn.Sequential) -> list[nn.Parameter]:
    """Return the tensors that our network has, too: all but biases, which cancel in the normalisation after them."""
    without = {id(layer.bias) for layer in net if isinstance(layer, nn.Conv2d)}
    return [p for p in net.parameters() if id(p) not in without]


def plain_maml(net: nn.Sequential, workload: Workload) -> Step:
    """Run MAML in plain PyTorch: a loop over tasks, a graph per task."""
    optimizer = Adam(net.parameters(), LR)
    initial = dict(net.named_parameters())

    def step(batch: Batch) -> None:
        optimizer.zero_grad()
        for support_x, support_y, query_x, query_y in zip(*batch, strict=True):
            fast: dict[str, Tensor] = dict(initial)
            for _ in range(workload.inner_steps):
                loss = cross_entropy(functional_call(net, fast, support_x), support_y)
                slopes = torch.autograd.grad(loss, list(fast.values()), create_graph=not workload.first_order)
                pairs = zip(fast.items(), slopes, strict=True)
                fast = {name: p - workload.inner_lr * slope for (name, p), slope in pairs}
            (cross_entropy(functional_call(net, fast, query_x), query_y) / len(batch[0])).backward()
        optimizer.step()

    return step


def learn2learn_maml(net: nn.Sequential, workload: Workload) -> Step:
    """The loop of learn2learn's examples/vision/maml_omniglot.py: a clone per task, gradients averaged by hand."""
    import learn2learn

    maml = learn2learn.algorithms.MAML(net, lr=workload.inner_lr, first_order=workload.first_order)
    optimizer = Adam(maml.parameters(), LR)

    def step(batch: Batch) -> None:
        optimizer.zero_grad()
        for support_x, support_y, query_x, query_y in zip(*batch, strict=True):
            learner = maml.clone()
            for _ in range(workload.inner_steps):
                learner.adapt(cross_entropy(learner(support_x), support_y))
            error = cross_entropy(learner(query_x), query_y)
            error.backward()
            error.item()
        for p in maml.parameters():
            p.grad.mul_(1.0 / len(batch[0]))
        optimizer.step()

    return step


def higher_maml(net: nn.Sequential, workload: Workload) -> Step:
    """The loop of higher's examples/maml-omniglot.py; its first order is the cheapest that its interface allows."""
    import higher

    optimizer, inner = Adam(net.parameters(), LR), SGD(net.parameters(), lr=workload.inner_lr)
    own = list(net.parameters())

    def step(batch: Batch) -> None:
        optimizer.zero_grad()
        for support_x, support_y, query_x, query_y in zip(*batch, strict=True):
            options = {"copy_initial_weights": False, "track_higher_grads": not workload.first_order}
            with higher.innerloop_ctx(net, inner, **options) as (fast, changes):
                for _ in range(workload.inner_steps):
                    changes.step(cross_entropy(fast(support_x), support_y))
                error = cross_entropy(fast(query_x), query_y)
                if workload.first_order:
                    for p, slope in zip(own, torch.autograd.grad(error, list(fast.parameters())), strict=True):
                        p.grad = slope if p.grad is None else p.grad.add_(slope)
                else:
                    error.backward()
                error.item()
        for p in own:
            p.grad.mul_(1.0 / len(batch[0]))
        optimizer.step()

    return step


def torchopt_maml(net: nn.Sequential, workload: Workload, per_task: bool = False) -> Step:
    """The loop of torchopt's examples/few-shot/maml_omniglot.py: one backward pass for all tasks, or one for each."""
    import torchopt

    optimizer, inner = Adam(net.parameters(), LR), torchopt.MetaSGD(net, lr=workload.inner_lr)
    own = list(net.parameters())  # the network's own attributes become the adapted tensors

    def step(batch: Batch) -> None:
        optimizer.zero_grad()
        start = torchopt.extract_state_dict(net, by="reference", detach_buffers=True)
        inner_start = torchopt.extract_state_dict(inner, by="reference")
        errors = []
        for support_x, support_y, query_x, query_y in zip(*batch, strict=True):
            for _ in range(workload.inner_steps):
                inner.step(cross_entropy(net(support_x), support_y))
            error = cross_entropy(net(query_x), query_y)
            if per_task:
                (error / len(batch[0])).backward()
            else:
                errors.append(error)
            error.item()
            torchopt.recover_state_dict(net, start)
            torchopt.recover_state_dict(inner, inner_start)
        if errors:
            torch.stack(errors).mean().backward()
        assert own[0].grad is not None
        optimizer.step()

    return step


def torchopt_per_task(net: nn.Sequential, workload: Workload) -> Step:
    """See `torchopt_maml`; this way is faster than the library's example."""
    return torchopt_maml(net, workload, per_task=True)


def parallel_metalearn_maml(net: nn.Sequential, workload: Workload, **how: Any) -> Step:
    """The library's own `MAML.step` with a fixed inner learning rate, task by task or under vmap."""
    from metalearn.algorithms.MAML import MAML
    from metalearn.inner_optimizers.optimizers import InnerSGD
    from metalearn.loss.categorical_accuracy import CategoricalAccuracy
    from metalearn.loss.CEloss import CrossEntropy
    from metalearn.model_wrappers.MAMLWrapper import MAML_Model

    class Part(nn.Module):  # the library passes more than x to both parts of a network
        def __init__(self, layers: nn.Module) -> None:
            super().__init__()
            self.layers = layers

        def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
            return self.layers(x)

    model = MAML_Model(backbone=Part(net[:-1]), head=Part(net[-1]))
    inner = InnerSGD(
        initial_fast_weights=model.get_fast_weights(),
        inner_lr=workload.inner_lr,
        first_order=workload.first_order,
        learn_lr=False,
    ).to(next(net.parameters()).dtype)
    algorithm = MAML(
        model=model,
        optimizer=Adam(model.parameters(), LR),
        inner_optimizer=inner,
        support_loss_fn=CrossEntropy(metric_fn=CategoricalAccuracy()),
        inner_steps=workload.inner_steps,
        device=torch.device("cpu"),
        **how,
    )

    def step(batch: Batch) -> None:
        support_x, support_y, query_x, query_y = batch
        algorithm.step(iter([(support_x, {"labels": support_y}, query_x, {"labels": query_y})]), training=True)

    return step


def parallel_metalearn_loop(net: nn.Sequential, workload: Workload) -> Step:
    """See `parallel_metalearn_maml`."""
    return parallel_metalearn_maml(net, workload, backend="sequential")


def parallel_metalearn_vmap(net: nn.Sequential, workload: Workload) -> Step:
    """See `parallel_metalearn_maml`; 4 tasks at a time is its fastest here, all at once take 4 GB."""
    return parallel_metalearn_maml(net, workload, backend="vmap", chunk_size=4)


def plain_protonet(net: nn.Sequential, workload: Workload) -> Step:
    """Run ProtoNet in plain PyTorch: support and query in one pass."""
    optimizer = Adam(net.parameters(), LR)

    def step(batch: Batch) -> None:
        optimizer.zero_grad()
        for support_x, _, query_x, query_y in zip(*batch, strict=True):
            support, query = net(torch.cat([support_x, query_x])).split([len(support_x), len(query_x)])
            prototypes = support.view(workload.way, workload.shot, -1).mean(1)
            loss = cross_entropy(-(query[:, None] - prototypes).square().sum(-1), query_y)
            (loss / len(batch[0])).backward()
        optimizer.step()

    return step


def learn2learn_protonet(net: nn.Sequential, workload: Workload) -> Step:
    """The loop of learn2learn's examples/vision/protonet_miniimagenet.py: items sorted by class, in one pass."""
    optimizer = Adam(net.parameters(), LR)
    way, items = workload.way, workload.shot + workload.query

    def step(batch: Batch) -> None:
        optimizer.zero_grad()
        for support_x, support_y, query_x, query_y in zip(*batch, strict=True):
            labels, order = torch.cat([support_y, query_y]).sort(stable=True)
            embedded = net(torch.cat([support_x, query_x])[order])
            chosen = np.zeros(len(labels), dtype=bool)
            for offset in range(workload.shot):
                chosen[np.arange(way) * items + offset] = True
            support, query = torch.from_numpy(chosen), torch.from_numpy(~chosen)
            prototypes = embedded[support].reshape(way, workload.shot, -1).mean(1)
            queries, targets = embedded[query], labels[query].long()
            apart = queries.unsqueeze(1).expand(-1, way, -1) - prototypes.unsqueeze(0).expand(len(queries), -1, -1)
            logits = -(apart**2).sum(2)
            loss = cross_entropy(logits, targets)
            (loss / len(batch[0])).backward()
            (logits.argmax(1) == targets).float().mean().item()
        optimizer.step()

    return step


def easyfsl_protonet(net: nn.Sequential, workload: Workload) -> Step:
    """The loop of easyfsl's notebook: support and query in passes of their own, distances not squared."""
    from easyfsl.methods import PrototypicalNetworks

    optimizer, classifier = Adam(net.parameters(), LR), PrototypicalNetworks(net)

    def step(batch: Batch) -> None:
        optimizer.zero_grad()
        for support_x, support_y, query_x, query_y in zip(*batch, strict=True):
            classifier.process_support_set(support_x, support_y)
            loss = cross_entropy(classifier(query_x), query_y)
            (loss / len(batch[0])).backward()
            loss.item()
        optimizer.step()

    return step


PLAIN = "plain PyTorch"
MAML: dict[str, Callable[[nn.Sequential, Workload], Step]] = {
    PLAIN: plain_maml,
    "learn2learn": learn2learn_maml,
    "higher": higher_maml,
    "torchopt": torchopt_maml,
    "torchopt, per task": torchopt_per_task,
    "parallel-metalearn": parallel_metalearn_loop,
    "parallel-metalearn, vmap": parallel_metalearn_vmap,
}
PROTONET: dict[str, Callable[[nn.Sequential, Workload], Step]] = {
    PLAIN: plain_protonet,
    "learn2learn": learn2learn_protonet,
    "easyfsl": easyfsl_protonet,
}
NO_FIRST_ORDER = {"torchopt", "torchopt, per task"}
MODULES = {"parallel-metalearn": "metalearn", PLAIN: "torch"}  # where the module has another name


def rivals(workload: Workload) -> dict[str, Callable[[nn.Sequential, Workload], Step]]:
    """Return the contestants that can run a workload, installed or not."""
    known = MAML if workload.inner_steps else PROTONET
    return {n: make for n, make in known.items() if not (workload.first_order and n in NO_FIRST_ORDER)}


def installed(name: str) -> bool:
    """Return whether a peer is installed."""
    package = name.split(",")[0]
    return importlib.util.find_spec(MODULES.get(package, package)) is not None
