"""Folders with tiny encoders of other libraries, of random weights, as those libraries save them."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from metalearn_cli.backbones.common.foreign import torchvision_fault

WORDS = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", *"the a cat dog bird sat ran sang on in under mat tree house".split()]
"""The words of the tokenizer, in the order of their ids: padding is not the first."""

TRANSFORMERS = {
    "text": ("Bert", {"vocab_size": 24, "max_position_embeddings": 16, "pad_token_id": 3}),
    "image": ("ViT", {"image_size": 16, "patch_size": 8}),
    "audio": (
        "Wav2Vec2",
        {
            "conv_dim": (8, 8),
            "conv_stride": (5, 4),
            "conv_kernel": (10, 8),
            "num_feat_extract_layers": 2,
            "num_conv_pos_embeddings": 4,
            "num_conv_pos_embedding_groups": 2,
        },
    ),
}
SIZES = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}

PREPROCESSORS = {
    "image": {
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.3, 0.4],
        "size": {"height": 16, "width": 16},
        "resample": 3,
    },
    "audio": {"do_normalize": True, "sampling_rate": 16000},
}


def tokenizer_into(folder: Path) -> Path:
    """Write a tokenizer of whole words and return its folder; `tokenizers` must be installed."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    tokenizer.enable_padding(pad_id=3, pad_token="[PAD]")
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def encoder_into(folder: Path, kind: str) -> Path:
    """Write an encoder of texts, images or waveforms and return its folder; `transformers` must be installed."""
    torchvision_fault()  # hides a broken one, which transformers would import
    import transformers

    name, settings = TRANSFORMERS[kind]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = getattr(transformers, f"{name}Config")(**SIZES, **settings)
        model = getattr(transformers, f"{name}Model")(config)
        for p in model.parameters():
            torch.nn.init.normal_(p, std=0.3)
    model.save_pretrained(folder)
    if kind == "text":
        return tokenizer_into(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSORS[kind]))
    return folder


def package_into(folder: Path, name: str) -> Path:
    """Install a package from PyPI, without what it requires, into a folder; skip the test where that fails."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--retries=0", "--target", str(folder)]
    done = subprocess.run([*command, name], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{name} cannot be installed: {done.stderr.strip().splitlines()[-1]}")
    return folder


@cache
def _declared() -> torch.library.Library | None:
    """Declare the operators that a torchvision of another build than torch's lacks; it can then be imported.

    They would be declared twice beside one that can be imported as it is, and torch would end the process.
    """
    if not subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True).returncode:
        return None
    library = torch.library.Library("torchvision", "DEF")  # to be kept: the operators are gone with it
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def timm_or_skip() -> Any:
    """Return timm; skip the test where it or torchvision is not installed."""
    if sys.modules.get("torchvision", ...) is None:  # hidden by an earlier test
        del sys.modules["torchvision"]
    torchvision_fault.cache_clear()
    if absent := [name for name in ("timm", "torchvision") if not find_spec(name)]:
        pytest.skip(f"{' and '.join(absent)} not installed")
    _declared()
    import timm

    return timm


def weights_into(folder: Path, name: str) -> Path:
    """Write random weights of a network of timm, with its classifier, as timm saves them, and return the file."""
    library = timm_or_skip()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = library.create_model(name, num_classes=10)
        drawn = {n: t + 0.1 * torch.rand_like(t) if t.is_floating_point() else t for n, t in model.state_dict().items()}
    save_file(drawn, folder / f"{name}.safetensors")
    return folder / f"{name}.safetensors"
