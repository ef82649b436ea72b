"""What every model must be: a module around a backbone with one finite loss, a function of tensors, batch and seed."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import pytest
import torch
from contract.components import make, specs
from torch import Tensor, nn

from metalearn_cli.backbones.conv4 import Conv4
from metalearn_cli.backbones.mlp import Mlp
from metalearn_cli.backbones.transformer import Transformer
from metalearn_cli.core.errors import ConfigError
from metalearn_cli.core.items import Facts
from metalearn_cli.core.network import Params, pure
from metalearn_cli.core.random import seeded

CLASSES = 4


def text_backbone(shape: tuple[int, ...], hidden: int) -> nn.Module:
    return Transformer(Facts("text", shape, "ids", CLASSES, vocabulary=7), hidden, layers=1)


ITEMS: dict[str, Any] = {
    "images": {"shape": (1, 18, 17), "value_range": "unit", "backbone": Conv4},
    "colour images": {"shape": (3, 8, 8), "value_range": "unit", "backbone": Mlp},
    "standardised images": {"shape": (1, 16, 16), "value_range": "real", "backbone": Conv4},
    "vectors": {"shape": (6,), "value_range": "real", "backbone": Mlp},
    "text": {"shape": (5,), "value_range": "ids", "vocabulary": 7, "backbone": text_backbone},
    "series": {"shape": (2, 9), "value_range": "real", "backbone": Mlp},
}
NUMBERS = {"text"}
TAKES_NOT = {  # the kinds of items that a model refuses
    "gan": NUMBERS,
    "rotation": {"images", "vectors", "series", "text"},  # ours are oblong
    "barlow_twins": NUMBERS,
    "mean_teacher": NUMBERS,
}


class Case(NamedTuple):
    """A model on a narrow backbone, with a batch of well separated classes."""

    model: nn.Module
    backbone: nn.Module
    x: Tensor
    y: Tensor

    @property
    def led(self) -> set[str]:
        """The names of the tensors that follow others."""
        _, tensors = pure(self.model)
        return set(self.model.follow(tensors, 0.0)) if hasattr(self.model, "follow") else set()


def case_of(spec: Any, kind: str = "vectors") -> Case:
    """Return a model, from its settings or its class, on items of a kind."""
    facts = ITEMS[kind]
    with seeded(0, "model", kind):
        backbone = facts["backbone"](facts["shape"], hidden=8)
        if isinstance(spec, type):
            model = spec(backbone)
        else:
            narrow = dict.fromkeys({"hidden", "outputs"} & spec.keys(), 16)
            model = make(spec | narrow, "model", **(facts | {"backbone": backbone, "classes": CLASSES}))
        y = torch.arange(16) % CLASSES
        if kind == "text":
            return Case(model, backbone, torch.randint(7, (CLASSES, *facts["shape"]))[y], y)
        x = torch.randn(CLASSES, *facts["shape"])[y] + 0.1 * torch.randn(16, *facts["shape"])
    return Case(model, backbone, (2 * x).sigmoid() if facts["value_range"] == "unit" else x, y)


def kinds_of(name: str) -> list[str]:
    """Return the kinds of items that a model takes, those of images first."""
    return [kind for kind in ITEMS if kind not in TAKES_NOT.get(name, ())]


PAIRS = [
    # further images take the same path as the first ones
    pytest.param((name, kind), id=f"{name}-{kind}", marks=[pytest.mark.slow] * ("images" in kind and kind != first))
    for name in specs("model")
    for first, *_ in [kinds_of(name)]
    for kind in kinds_of(name)
]


REFUSED = [(name, kind) for name in ("gan", "rotation") for kind in sorted(TAKES_NOT[name])]


@pytest.mark.parametrize(("name", "kind"), REFUSED, ids=map("-".join, REFUSED))
def test_items_that_a_model_cannot_take_are_refused_with_one_that_can(name: str, kind: str) -> None:
    with pytest.raises(ConfigError, match=r"^model: .*; use model=\w+$") as caught:
        case_of(specs("model")[name], kind)
    other = str(caught.value).rpartition("=")[2]
    assert case_of(specs("model")[other], kind).model is not None


@pytest.fixture(params=PAIRS)
def case(request: pytest.FixtureRequest) -> Case:
    name, kind = request.param
    return case_of(specs("model")[name], kind)


def loss_of(case: Case, tensors: Params, apply: Any) -> tuple[Tensor, dict[str, Tensor]]:
    with seeded(0, "step"):
        return apply(tensors, case.x, case.y)


def trained(case: Case, steps: int) -> tuple[Params, list[float]]:
    """Return the tensors after some steps, followers after each, and the losses."""
    apply, tensors = pure(case.model, training=True)
    led = case.led
    learning = [p for name, p in tensors.items() if p.requires_grad and name not in led]
    optimizer = torch.optim.Adam(learning, lr=0.01)
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        loss, _ = loss_of(case, tensors, apply)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if led:
            with torch.no_grad():
                for name, tensor in case.model.follow(tensors, (step + 1) / steps).items():  # type: ignore[operator]
                    tensors[name].copy_(tensor)
    return tensors, losses


def test_wraps_the_backbone_under_its_name(case: Case) -> None:
    assert case.model.backbone is case.backbone
    _, tensors = pure(case.model)
    assert {f"backbone.{name}" for name, _ in case.backbone.named_parameters()} <= tensors.keys() - case.led


def test_loss_is_a_finite_number_with_a_gradient_for_every_tensor_that_learns(case: Case) -> None:
    apply, tensors = pure(case.model, training=True)
    loss, metrics = loss_of(case, tensors, apply)
    assert loss.shape == () and torch.isfinite(loss)
    leaves = {name: p for name, p in tensors.items() if p.requires_grad}
    found = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values()), allow_unused=True), strict=True))
    silent = {n for n, g in found.items() if g is None or not torch.isfinite(g).all() or not g.any()}
    assert silent == case.led & leaves.keys()
    for value in metrics.values():
        assert value.shape == () and torch.isfinite(value) and not value.requires_grad


def test_loss_falls(case: Case) -> None:
    _, losses = trained(case, 8)
    assert all(map(torch.isfinite, torch.tensor(losses)))
    assert min(losses[4:]) < losses[0]


def test_what_follows_comes_nearer_to_what_it_follows(case: Case) -> None:
    """With all others at rest, its steps become smaller and smaller."""
    if not case.led:
        return
    _, tensors = pure(case.model)
    with seeded(0, "elsewhere"):
        tensors = {n: p.detach() + (0 if n in case.led else torch.randn_like(p)) for n, p in tensors.items()}
    lengths = []
    for _ in range(10):
        before = {name: tensor.clone() for name, tensor in tensors.items()}
        followed = case.model.follow(tensors, 0.0)  # type: ignore[operator]
        assert all(torch.equal(before[name], tensor) for name, tensor in tensors.items())  # it writes nothing itself
        assert followed.keys() == case.led
        lengths.append(sum((followed[n] - before[n]).square().sum().item() for n in followed) ** 0.5)
        tensors = tensors | followed
    assert lengths[-1] < lengths[0]
    assert all(later <= earlier for earlier, later in pairwise(lengths))


def test_is_a_function_of_tensors_batch_and_seed(case: Case) -> None:
    apply, tensors = pure(case.model)
    before = {name: p.detach().clone() for name, p in tensors.items()}
    losses = [loss_of(case, tensors, apply)[0] for _ in range(2)]
    assert torch.equal(*losses)
    assert all(torch.equal(before[name], p) for name, p in tensors.items())


def test_pictures_are_images_in_unit_range(case: Case) -> None:
    if not hasattr(case.model, "pictures"):
        return
    with torch.no_grad():
        pictures = case.model.pictures(case.x)
    if case.x.ndim != 4:
        assert pictures == {}
    for images in (
        part for drawn in pictures.values() for part in (drawn.values() if isinstance(drawn, dict) else [drawn])
    ):
        assert images.shape[1:] == case.x.shape[1:]
        assert images.min() >= 0 and images.max() <= 1


def test_learns_in_half_precision_too(case: Case) -> None:
    x = case.x.bfloat16() if case.x.is_floating_point() else case.x
    loss, _ = case.model.bfloat16()(x, case.y)
    loss.backward()
    assert torch.isfinite(loss)
