from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from metalearn_cli.backbones.common.weights import without_weights
from metalearn_cli.core.build import build
from metalearn_cli.core.errors import ConfigError

SPEC = {"_target_": "metalearn_cli.backbones.resnet18.resnet18", "hidden": 2, "norm": "running"}


def resnet(**settings: Any) -> nn.Module:
    network: nn.Module = build(SPEC | settings, "backbone", shape=(3, 8, 8))
    return network


@pytest.fixture
def stored() -> dict[str, Tensor]:
    """Return the tensors of a trained network, with the classifier that torchvision's have."""
    torch.manual_seed(1)
    network = resnet()
    network(torch.rand(4, 3, 8, 8))  # running statistics that are not those of a new one
    return network.state_dict() | {"fc.weight": torch.rand(5, 16), "fc.bias": torch.rand(5)}


def written(tensors: Any, path: Path) -> str:
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return str(path)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.bin"])
def test_tensors_and_running_statistics_are_those_of_the_file(
    name: str, stored: dict[str, Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "metalearn_cli")
    found = resnet(weights=written(stored, tmp_path / name)).state_dict()
    assert all(torch.equal(tensor, stored[n]) for n, tensor in found.items() if "num_batches" not in n)
    assert "left out: fc.weight, fc.bias" in caplog.text or "left out: fc.bias, fc.weight" in caplog.text


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_tensors_of_a_training_script_s_checkpoint_are_found(
    wrapper: str, stored: dict[str, Tensor], tmp_path: Path
) -> None:
    found = resnet(weights=written({wrapper: stored, "epoch": 3}, tmp_path / "w.pth"))
    assert torch.equal(found.state_dict()["conv1.weight"], stored["conv1.weight"])


def test_half_precision_becomes_single(stored: dict[str, Tensor], tmp_path: Path) -> None:
    halves = {n: t.half() for n, t in stored.items() if "num_batches" not in n}
    found = resnet(weights=written(halves, tmp_path / "w.safetensors")).state_dict()["conv1.weight"]
    assert torch.equal(found, stored["conv1.weight"].half().float())


def test_the_prefix_of_dataparallel_is_taken_away(stored: dict[str, Tensor], tmp_path: Path) -> None:
    wrapped = {f"module.{name}": tensor for name, tensor in stored.items()}
    found = resnet(weights=written(wrapped, tmp_path / "w.pth")).state_dict()
    assert torch.equal(found["conv1.weight"], stored["conv1.weight"])


def test_numbers_that_are_not_finite_are_refused(stored: dict[str, Tensor], tmp_path: Path) -> None:
    stored["conv1.weight"].view(-1)[3] = torch.nan
    with pytest.raises(ConfigError, match=r"has numbers that are NaN or infinite, in conv1\.weight"):
        resnet(weights=written(stored, tmp_path / "w.pth"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"norm": "batch"}, "bn1.running_mean (here absent, there [2])"),
        ({"stem": "large"}, "conv1.weight (here [2, 3, 7, 7], there [2, 3, 3, 3])"),
        ({"hidden": 4}, "and 97 more; torchvision's weights need backbone.stem=large backbone.norm=running"),
    ],
)
def test_another_network_s_are_refused(
    settings: dict[str, Any], said: str, stored: dict[str, Tensor], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        resnet(**settings, weights=written(stored, tmp_path / "w.pth"))
    message = str(caught.value)
    assert message.startswith("backbone.weights: ") and "of another network than this resnet" in message
    assert said in message and len(message) < 500


class Bomb:
    def __reduce__(self) -> Any:
        return os.mkdir, (os.environ["BOMB"],)


@pytest.mark.parametrize(
    ("name", "what", "said"),
    [
        ("w.pth", "gone", "does not exist"),
        ("w.pth", "cut", "is damaged, or no file of weights"),
        ("w.safetensors", "cut", "is damaged, or no file of weights"),
        ("w.pth", "empty", "is damaged, or no file of weights"),
        ("w.safetensors", "empty", "is damaged, or no file of weights"),
        ("w.pth", "code", "with torch.save(model.state_dict(), FILE)"),
        ("w.pth", "list", "must hold tensors by name"),
        ("w.pth", "text", "is refused: it holds more than tensors, or is damaged"),
    ],
)
def test_bad_files_get_a_sentence(
    name: str,
    what: str,
    said: str,
    stored: dict[str, Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, target = tmp_path / name, tmp_path / "ran"
    monkeypatch.setenv("BOMB", str(target))
    if what != "gone":
        written({"code": {"conv1.weight": Bomb()}, "list": [torch.rand(2)]}.get(what, stored), path)
    if what in ("cut", "empty", "text"):
        path.write_bytes({"cut": path.read_bytes()[:-2000], "empty": b"", "text": b"<html>not found</html>"}[what])
    with pytest.raises(ConfigError) as caught:
        resnet(weights=str(path))
    assert str(caught.value).startswith(f"backbone.weights: weights {path} ") and said in str(caught.value)
    assert "weights_only" not in str(caught.value)
    assert not target.exists()


def test_a_checkpoint_s_settings_name_no_file() -> None:
    spec = {"_target_": "a.A", "weights": "w.pth", "parts": {"x": {"_target_": "b.B", "weights": "w.pth"}}}
    assert without_weights(spec) == {
        "_target_": "a.A",
        "weights": None,
        "parts": {"x": {"_target_": "b.B", "weights": None}},
    }
    assert without_weights({"_target_": "a.A", "hidden": 2}) == {"_target_": "a.A", "hidden": 2}
