"""What every transfer method must be: it says what learns, and the engine trains that and nothing else.

Each is tried on a network without buffers and on one with running statistics. What a method asks for besides items and
labels (`asks`) is made up here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from contract.components import built, make, specs
from torch import Tensor

from metalearn_cli.backbones.mlp import Mlp
from metalearn_cli.core.network import Network, Params, network
from metalearn_cli.core.random import seeded
from metalearn_cli.core.types import Method
from metalearn_cli.stages.transfer import OWN, merged, method_loss

CLASSES, ITEMS, SHAPE = 4, 12, (1, 8, 8)
METHODS = built("method")
SIZES = {"also": {"one": 3, "two": 2}, "taught_features": {"taught_features": 5}}
BACKBONES = ("without buffers", "with running statistics")


class Case(NamedTuple):
    """A method on a network in float64, with all tensors as transfer begins."""

    method: Method
    net: Network
    tensors: Params

    def at(self, progress: float) -> Method:
        """Return the method at a share of training."""
        return self.method.at(progress) if hasattr(self.method, "at") else self.method

    def learning(self, progress: float) -> set[str]:
        """Return the names of the tensors that learn at a share of training."""
        rates = self.at(progress).rates(self.net)
        return {name for name in self.tensors if name in rates or name.startswith(OWN)}

    def loss(self, tensors: Params, progress: float, step: int = 0) -> tuple[Tensor, Tensor]:
        """Return the loss [] of a step's batch, and its logits."""
        return method_loss(self.at(progress), self.net, tensors, self.net.params, batch(step))


def case_of(method: Any, kind: str = BACKBONES[0]) -> Case:
    """Return the case of a method on a kind of network."""
    with seeded(0, "backbone"):
        running = make(specs("backbone")["resnet"] | {"hidden": 2}, "backbone", shape=SHAPE)
        backbone = running if kind == BACKBONES[1] else Mlp(SHAPE, hidden=8, layers=3)
    net = network(backbone.double(), CLASSES)
    return Case(method, net, net.params | net.constants | {OWN + name: p for name, p in drawn(method, net).items()})


def drawn(method: Any, net: Network) -> Params:
    """Return a method's own tensors, drawn as the stage does it."""
    sizes = {name: size for asked in getattr(method, "asks", ()) for name, size in SIZES.get(asked, {}).items()}
    with seeded(0, "method"):
        own = method.init(net, sizes) if hasattr(method, "init") else {}
    return {name: tensor.detach().double().requires_grad_() for name, tensor in own.items()}


def batch(step: int) -> dict[str, Any]:
    """Return a batch with everything that a method may ask for."""
    with seeded(0, "batch", step):
        y = torch.arange(ITEMS) % CLASSES
        centres = torch.linspace(0.2, 1, CLASSES)[:, None, None, None]
        x = (centres[y] * torch.rand(ITEMS, *SHAPE)).double()
        taught = 4 * torch.nn.functional.one_hot(y, CLASSES).double() + torch.rand(ITEMS, CLASSES)
        teacher = {"taught": taught, "taught_features": taught @ torch.rand(CLASSES, 5).double()}
        also = {name: (x.flip(0), torch.arange(ITEMS) % classes) for name, classes in SIZES["also"].items()}
        return {"x": x, "y": y, **teacher, "unlabelled": torch.rand(ITEMS, *SHAPE).double(), "also": also}


@pytest.fixture(params=[(name, kind) for name in METHODS for kind in BACKBONES], ids="-".join)
def case(request: pytest.FixtureRequest) -> Case:
    name, kind = request.param
    return case_of(METHODS[name], kind)


def stepped(case: Case, steps: int, whole: bool = True) -> tuple[Params, list[float]]:
    """Return the tensors after some steps by a plain optimizer over all that ever learns, and the losses.

    Args:
        case: what is trained.
        steps: how many.
        whole: whether these are the whole training, or its beginning.
    """
    tensors = {name: tensor.detach().clone() for name, tensor in case.tensors.items()}
    leaves = [tensors[name].requires_grad_() for name in sorted(case.learning(1.0))]
    optimizer, losses = torch.optim.Adam(leaves, lr=0.02), []
    for step in range(steps):
        optimizer.zero_grad()
        loss, _ = case.loss(tensors, step / steps if whole else 0.0)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return tensors, losses


def test_asks_for_what_there_is(case: Case) -> None:
    assert {*getattr(case.method, "asks", ())} <= batch(0).keys()


def test_rates_name_tensors_of_the_network(case: Case) -> None:
    for progress in (0.0, 0.5, 1.0):
        rates = case.at(progress).rates(case.net)
        assert rates and rates.keys() <= case.net.params.keys()
        assert all(isinstance(rate, float) and rate > 0 for rate in rates.values())
        assert rates.keys() <= case.learning(1.0)  # the optimizer holds what learns in the end


def test_own_tensors_are_a_function_of_the_seed(case: Case) -> None:
    again = drawn(case.method, case.net)
    own = {name.removeprefix(OWN): tensor for name, tensor in case.tensors.items() if name.startswith(OWN)}
    assert own.keys() == again.keys()
    assert all(torch.equal(tensor, again[name]) for name, tensor in own.items())


def test_begins_where_it_was_started(case: Case) -> None:
    begun = merged(case.method, case.net, case.tensors)
    assert begun.keys() == case.tensors.keys()
    for name, tensor in case.tensors.items():
        torch.testing.assert_close(begun[name], tensor)


def test_what_does_not_learn_stays_bit_for_bit(case: Case) -> None:
    """Over the first steps: tensors without a rate, and the running statistics of blocks without a learning tensor."""
    learning = case.learning(0.0) & case.learning(1.0)
    found, _ = stepped(case, 5, whole=False)
    changed = {name for name, tensor in case.tensors.items() if not torch.equal(tensor, found[name])}
    parts = {name.rpartition(".")[0] for names in case.net.blocks if learning & {*names} for name in names}
    written = {name for name in case.net.constants if name.rpartition(".")[0] in parts}
    assert changed == learning | written


def test_gradient_is_that_of_finite_differences(case: Case) -> None:
    """Along one random direction of all tensors that learn."""
    step = 1e-7
    with seeded(2, "elsewhere"):  # where no factor is zero
        own = {n: t + 0.1 * torch.randn_like(t) for n, t in case.tensors.items() if n.startswith(OWN)}
    learning = sorted(case.learning(1.0))
    tensors = {name: tensor.detach().clone() for name, tensor in (case.tensors | own).items()}
    leaves = [tensors[name].requires_grad_() for name in learning]

    def loss(changed: Params) -> Tensor:
        # running statistics are written by each call, and used by none
        return case.loss({n: t if t.requires_grad else t.clone() for n, t in (tensors | changed).items()}, 1.0)[0]

    with seeded(1, "direction"):
        directions = [torch.randn_like(leaf) for leaf in leaves]
    found = torch.autograd.grad(loss({}), leaves, materialize_grads=True)
    slope = sum((g * d).sum().item() for g, d in zip(found, directions, strict=True))
    moved = [
        {n: tensors[n].detach() + by * d for n, d in zip(learning, directions, strict=True)} for by in (step, -step)
    ]
    ends = [loss(there).item() for there in moved]
    assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-4, abs=1e-7)


def test_loss_is_finite_and_falls(case: Case) -> None:
    _, losses = stepped(case, 20)
    assert torch.isfinite(torch.tensor(losses)).all()
    assert losses[-1] < losses[0]


def test_the_network_that_is_handed_on_is_the_one_that_was_trained(case: Case) -> None:
    """What evaluation and the next stage get answers as the loss's own network does."""
    tensors, _ = stepped(case, 5)
    kept = merged(case.method, case.net, tensors)
    net = case.net.of({n: t.clone() for n, t in kept.items()}).training(case.at(1.0).rates(case.net))
    _, logits = case.loss({n: t.clone() for n, t in tensors.items()}, 1.0)
    torch.testing.assert_close(net.output(net.params, batch(0)["x"]), logits.detach())
