"""Networks of timm: the same numbers as the library's own, and right gradients in every way of batching."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from conftest import on_cpu
from encoders import timm_or_skip, weights_into
from torch import Tensor

from metalearn_cli.algorithms.maml import Maml
from metalearn_cli.backbones.timm import Timm
from metalearn_cli.core.errors import UserError
from metalearn_cli.core.network import HEAD, Network, network, unwritten
from metalearn_cli.core.random import seeded
from metalearn_cli.core.types import Episode
from metalearn_cli.engine.episodes import Learner, trained
from metalearn_cli.engine.tasks import Tasks

WAY, TASKS, ITEMS = 2, 2, 3
SHAPES = {
    "test_vit": (3, 32, 32),
    "test_resnet": (3, 32, 32),
    "test_convnext": (3, 64, 64),  # its layer normalisations permute dimensions
    "test_efficientnet_ln": (3, 32, 32),  # and these are followed by an activation
    "swin_tiny_patch4_window7_224": (3, 224, 224),  # its maps have channels last
}
"""Networks of timm, and the images that they are given; those named test_ are small."""
MAPS = {"test_resnet": (96, 1, 1), "test_convnext": (64, 2, 2), "test_efficientnet_ln": (256, 1, 1)}


def items(name: str, *shape: int) -> Tensor:
    with seeded(0, "items"):
        return torch.rand(*shape, *SHAPES[name])


def built(name: str, weights: Path, outputs: int | None = None) -> Network:
    """Return a network in float64, with a head that is not zero."""
    net = network(Timm(SHAPES[name], name, str(weights)).double(), outputs)
    with seeded(0, "head"):
        drawn = {n: p + 0.1 * torch.randn_like(p) if n.startswith(HEAD) else p for n, p in net.params.items()}
    return net._replace(params=drawn)


@pytest.mark.slow
class TestNetworksOfTimm:
    @pytest.mark.parametrize("name", SHAPES)
    def test_features_and_maps_are_those_of_the_library(self, name: str, tmp_path: Path) -> None:
        weights = weights_into(tmp_path, name)
        model = timm_or_skip().create_model(name, num_classes=10, checkpoint_path=str(weights)).double().eval()
        ours = Timm(SHAPES[name], name, str(weights)).double()
        x = items(name, 2).double()
        mean, std = (torch.tensor(model.pretrained_cfg[key])[:, None, None].double() for key in ("mean", "std"))
        with torch.no_grad():
            h = model.forward_features((x - mean) / std)
            torch.testing.assert_close(ours(x), model.forward_head(h, pre_logits=True))
            if name == "test_vit":
                assert ours.maps_shape is None and not hasattr(ours, "maps")
                return
            torch.testing.assert_close(ours.maps(x), h if name in MAPS else h.permute(0, 3, 1, 2))
        assert ours.maps_shape == MAPS.get(name, (768, 7, 7)) == ours.maps(x).shape[1:]

    @pytest.mark.parametrize("name", list(SHAPES)[:4])
    def test_second_order_gradients_in_a_batch_of_tasks_are_those_of_a_loop(self, name: str, tmp_path: Path) -> None:
        net = built(name, weights_into(tmp_path, name), WAY)
        x = items(name, TASKS, 2 * ITEMS).double()
        y = (torch.arange(ITEMS) % WAY).repeat(TASKS, 1)
        episodes = Episode(x[:, :ITEMS], y, x[:, ITEMS:], y)
        learner = Learner(Maml(inner_lr=0.01, inner_steps=1), net, {}, WAY, "inductive")

        def task(params: dict[str, Tensor], episode: Episode) -> dict[str, Tensor]:
            return {"loss": trained(learner.of(params), episode).loss}

        def gradients(batching: str) -> dict[str, Tensor]:
            leaves = {n: t.detach().clone().requires_grad_(n in net.params) for n, t in learner.tensors.items()}
            Tasks(on_cpu(task_batching=batching, precision="64-true"), TASKS).gradients(task, leaves, episodes)
            return {name: leaves[name].grad for name in net.params}

        found, largest = gradients("loop"), 0.0
        for name, gradient in gradients("vmap").items():
            largest = max(largest, gradient.abs().max().item())
            torch.testing.assert_close(gradient, found[name], rtol=1e-7, atol=1e-9 * largest)

    @pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
    def test_every_tensor_is_used_and_nothing_is_random_or_written(self, name: str, tmp_path: Path) -> None:
        net, x = built(name, weights_into(tmp_path, name)), items(name, 4).double()
        z = net.features(net.params, x)
        slopes = torch.autograd.grad(z.sin().sum(), list(net.params.values()))
        assert all(slope.abs().max() > 0 for slope in slopes)
        assert sorted(n for names in net.blocks for n in names) == sorted(net.params)
        with unwritten(net.constants):
            assert torch.equal(net.training(net.params).features(net.params, x), z)

    def test_a_grey_image_has_equal_channels(self) -> None:
        timm_or_skip()
        grey, x = (Timm((channels, 32, 32), "test_vit") for channels in (1, 3)), torch.rand(2, 1, 32, 32)
        one, three = grey
        three.load_state_dict(one.state_dict())
        torch.testing.assert_close(one(x), three(x.expand(-1, 3, -1, -1)))

    def test_weights_of_another_network_are_refused(self, tmp_path: Path) -> None:
        weights = weights_into(tmp_path, "test_vit")
        with pytest.raises(ValueError, match=r"^weights .* of another network .*; weights must be of this very model"):
            Timm((3, 32, 32), "test_resnet", str(weights))

    @pytest.mark.parametrize(
        ("name", "shape", "message"),
        [
            (
                "vit_tiny_patch16_224",
                (3, 32, 32),
                r"cannot take images of shape \[3, 32, 32\] .* of 3 x 224 x 224: type data\.size=224 \(bicubic\)$",
            ),
            ("test_resnet", (2, 32, 32), r"cannot take images of shape \[2, 32, 32\] .* of 3 x 160 x 160: type "),
            ("test_nfnet", (3, 32, 32), r"without right second derivatives \(of batch_norm\); choose another$"),
            ("levit_128s", (3, 224, 224), r"keeps tensors of one call for the next; choose another$"),
            ("resnet81", (3, 32, 32), r"is no network of timm [\d.]+; did you mean resnet"),
            ("hf-hub:timm/test_vit.r160_in1k", (3, 32, 32), r"is no network of timm [\d.]+"),
            ("test_vit.another", (3, 32, 32), r"cannot be built by timm: Invalid pretrained tag \(another\)"),
        ],
    )
    def test_says_what_does_not_fit(self, name: str, shape: tuple[int, ...], message: str) -> None:
        timm_or_skip()
        with pytest.raises(ValueError, match=f"^name {name} " + r".*" + message):
            Timm(shape, name)


def test_takes_images_alone() -> None:
    with pytest.raises(ValueError, match=r"shape \(7,\) is not an image .* which timm needs; use backbone=mlp"):
        Timm((7,), "test_vit")


def test_a_name_is_needed() -> None:
    with pytest.raises(ValueError, match=r"^name is missing: type backbone\.name=NAME of a network of timm, such as "):
        Timm((3, 32, 32))


@pytest.mark.parametrize(
    ("version", "fault", "message"),
    [
        (
            "2.13.0+cpu",
            "it is broken",
            r"\(it is broken\); .* --force-reinstall torchvision --index-url=INDEX, .* torch's cpu build .*",
        ),
        ("2.13.0", "", r"\(.*timm.*\); type: pip install --no-deps timm; pip install --no-deps .* torchvision$"),
    ],
)
def test_says_what_to_install(monkeypatch: pytest.MonkeyPatch, version: str, fault: str, message: str) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setattr(torch, "__version__", version)
    monkeypatch.setattr("metalearn_cli.backbones.timm.torchvision_fault", lambda: fault)
    with pytest.raises(UserError, match=r"^backbone=timm needs timm and torchvision " + message):
        Timm((3, 32, 32), "test_vit")
