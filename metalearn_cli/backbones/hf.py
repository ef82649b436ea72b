"""An encoder of Hugging Face's `transformers`, from a folder on disk: texts, images or waveforms.

Nothing in the folder is run: no code of its own, no pickle. The network stays in eval mode, without dropout, so that
every way of batching tasks gives the same numbers. Attention is written out ("eager"), because the fused kernels have
no second derivative on a CPU.

Legend: B items, N ids or tokens, D features, C channels, H height, W width, L samples.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from metalearn_cli.backbones.common.foreign import blocks_of, differentiable, drop_unused, torchvision_fault
from metalearn_cli.core.check import OnDisk
from metalearn_cli.core.errors import UserError
from metalearn_cli.core.importing import importing
from metalearn_cli.core.items import Facts

READS = {"input_ids": "texts as ids", "pixel_values": "images", "input_values": "waveforms"}
"""What an encoder reads, by the name of its main input."""

RESAMPLING = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Pillow's numbers of its filters, which preprocessor_config.json has."""

_log = logging.getLogger("metalearn_cli")

WANTED = ["*.json", "*.safetensors", "*.txt", "*.model"]
"""The files that a download fetches: nothing that could be run."""


class Hf(nn.Module):
    """An encoder that transformers' `AutoModel` builds, with its weights.

    Texts are ids of the encoder's own tokenizer, plus one (`data.tokenizer=FOLDER`). Images and waveforms are scaled
    here as the folder's preprocessor_config.json says; a grey image becomes one of equal channels.

    Args:
        facts: of the data.
        path: the encoder's folder, with config.json, its weights as safetensors, and tokenizer.json (texts) or
            preprocessor_config.json (images, waveforms); or, with `download`, its name on the Hugging Face hub.
        pooling: the features of an item: "mean" of all tokens (without padding) or places, or "cls", the first token.
        download: whether the folder may be fetched from the hub.

    Attributes:
        out_dim: D.
        batch_statistics: False: an item's output does not depend on other items.

    Raises:
        ValueError: if there is no such encoder, its files are damaged or unsafe, or it does not fit the data.
        UserError: if transformers is not installed.
    """

    batch_statistics = False
    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        facts: Facts,
        path: Annotated[str | None, OnDisk()] = None,
        pooling: Literal["mean", "cls"] = "mean",
        download: bool = False,
    ) -> None:
        super().__init__()
        folder = _folder(path, download)
        settings = _checked(folder)
        self.encoder, missing = _loaded(folder)
        self.pooling = pooling
        self._reads = self.encoder.main_input_name
        if self._reads != _offered(facts):
            takes = READS.get(self._reads, f"{self._reads}, which no data gives")
            raise ValueError(f"path {folder} has an encoder of {takes}; {_told(facts)}")
        if self._reads == "input_ids":
            self._padding = settings.get("pad_token_id") or 0
            _check_vocabulary(facts, folder, self.encoder.config)
        else:
            prepared = preprocessor(folder)
            for name in ("scale", "shift") if self._reads == "pixel_values" else ():
                self.register_buffer(name, torch.tensor(getattr(prepared, name))[:, None, None])
            self._normalised = prepared.normalised
        self._try(facts, folder, missing)

    @property
    def blocks(self) -> list[nn.ParameterList]:
        """Return the parameters from input to output, block by block."""
        return blocks_of(self)

    def train(self, mode: bool = True) -> Hf:
        """Stay in eval mode."""
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        """Return features [B, D] of ids [B, N], images [B, C, H, W] or waveforms [B, L] or [B, 1, L]."""
        return self._pooled(self._encoded(x), x)

    def _encoded(self, x: Tensor) -> Tensor:
        """Return tokens [B, N, D], or maps [B, D, H, W]."""
        if self._reads == "input_ids":
            return self._called(self._ids(x), self._mask(x))
        if self._reads == "pixel_values":
            return self._called(x * self.scale + self.shift)
        x = x.flatten(1)
        if self._normalised:
            x = (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + 1e-7).sqrt()
        return self._called(x)

    def _ids(self, x: Tensor) -> Tensor:
        """Return the tokenizer's ids."""
        return torch.where(x == 0, self._padding, x - 1)

    def _mask(self, x: Tensor) -> Tensor:
        """Return what the attention adds to its scores; from a mask [B, N], transformers cannot make it under vmap."""
        dtype = self.encoder.dtype
        return torch.where(x == 0, torch.finfo(dtype).min, torch.zeros((), dtype=dtype, device=x.device))[:, None, None]

    def _called(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        given = {} if mask is None else {"attention_mask": mask}
        return cast(Tensor, self.encoder(**{self._reads: x}, **given).last_hidden_state)

    def _pooled(self, h: Tensor, x: Tensor) -> Tensor:
        """Return features [B, D] of what the encoder gives for items x."""
        if h.ndim == 4:
            return h.mean((2, 3))
        if self.pooling == "cls":
            return h[:, 0]
        if self._reads != "input_ids":
            return h.mean(1)
        weight_BN1 = (x != 0)[..., None].to(h.dtype)
        return (h * weight_BN1).sum(1) / weight_BN1.sum(1).clamp(min=1)

    def _try(self, facts: Facts, folder: Path, missing: set[str]) -> None:
        """Encode two items: sets `out_dim`, and which parameters learn.

        Raises:
            ValueError: if the encoder cannot take such items, or lacks weights that it needs.
        """
        shape = cast(tuple[int, ...], facts.shape)
        x = torch.linspace(0, 1, 2 * math.prod(shape)).view(2, *shape)
        if texts := self._reads == "input_ids":
            x = 1 + torch.arange(2 * shape[0]).view(2, *shape) % (cast(int, facts.vocabulary) - 1)
            x[1, 1 + shape[0] // 2 :] = 0
        try:
            with torch.enable_grad():
                h = self._encoded(x)
                used = drop_unused(self.encoder, self._pooled(h, x))
            with torch.no_grad():
                again = self._called(self._ids(x), (x != 0).long()) if texts else self._encoded(x)
        except (RuntimeError, ValueError, IndexError, TypeError, AttributeError) as error:
            reason = str(error).strip().partition("\n")[0]
            message = f"path {folder} has an encoder that cannot take items of shape {facts.plain_shape} ({reason})"
            raise ValueError(message + _advice(facts, folder, self.encoder.config)) from error
        if lacking := sorted(missing & used):
            what = ", ".join(lacking[:3]) + (f" and {len(lacking) - 3} more" if len(lacking) > 3 else "")
            raise ValueError(f"path {folder} has the weights of another architecture: they lack {what}")
        if not torch.isfinite(h).all():
            raise ValueError(f"path {folder} has weights that give features that are NaN or infinite")
        if h.ndim == 4 and self.pooling == "cls":
            raise ValueError("pooling cls needs a first token, and this encoder gives maps; use mean")
        real = x != 0 if texts else ...
        if not torch.allclose(h[real], again[real], rtol=1e-3, atol=1e-4):
            kind = "from which padding cannot be hidden" if texts else "that draws random numbers"
            raise ValueError(f"path {folder} has an encoder {kind} ({type(self.encoder).__name__}); choose another")
        self.out_dim = h.shape[1] if h.ndim == 4 else h.shape[-1]


class Preprocessor(NamedTuple):
    """What preprocessor_config.json says.

    Attributes:
        scale: of each channel; an image in [0, 1] is multiplied by it, then `shift` is added.
        shift: of each channel.
        normalised: whether each waveform is brought to mean 0 and variance 1.
        size: (H, W) of the images that the encoder was trained on, () if it does not say.
        resampling: the filter that brings an image to this size, "" if it does not say.
    """

    scale: list[float]
    shift: list[float]
    normalised: bool
    size: tuple[int, ...]
    resampling: str


def preprocessor(folder: Path) -> Preprocessor:
    """Read how an encoder's items are prepared.

    Raises:
        ValueError: if the file is missing or damaged.
    """
    told = _json(folder / "preprocessor_config.json")
    normalise = bool(told.get("do_normalize", True))
    try:
        mean, std = (list(map(float, told.get(f"image_{n}", [d]))) for n, d in (("mean", 0.0), ("std", 1.0)))
        full = 255 * float(told.get("rescale_factor", 1 / 255)) if told.get("do_rescale", True) else 255.0
        crop = told.get("crop_size") if told.get("do_center_crop", "crop_size" in told) else None
        size = crop or told.get("size") or ()
        if isinstance(size, Mapping):
            size = [size[k] for k in ("height", "width") if k in size] or [size["shortest_edge"]] * 2
        size = (size, size) if isinstance(size, int) else tuple(map(int, size))
        resample = told.get("resample")
        return Preprocessor(
            scale=[full / s for s in std] if normalise else [full],
            shift=[-m / s for m, s in zip(mean, std, strict=True)] if normalise else [0.0],
            normalised=normalise,
            size=size,
            resampling=RESAMPLING[resample] if isinstance(resample, int) else "",
        )
    except (TypeError, ValueError, LookupError, ZeroDivisionError) as error:
        raise ValueError(f"path {folder / 'preprocessor_config.json'} is damaged: {error}") from error


def _folder(path: str | None, download: bool) -> Path:
    """Return the encoder's folder.

    Raises:
        ValueError: if there is none.
    """
    if path is None:
        raise ValueError("path is missing: type backbone.path=FOLDER, a folder with an encoder of transformers")
    if Path(path).is_dir():
        return Path(path)
    if not download:
        fetched = "a training fetches one of that name with backbone.download=true"
        raise ValueError(f"path {path} is no folder; put the encoder there ({fetched})")
    _transformers()
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(path, allow_patterns=WANTED))
    except Exception as error:  # of the network, of the hub, of the disk
        reason = str(error).partition("\n")[0]
        raise ValueError(f"path {path} is no folder and cannot be downloaded: {reason}") from error


def _checked(folder: Path) -> dict[str, Any]:
    """Return the contents of config.json, once nothing in the folder would have to be run.

    Raises:
        ValueError: if the file is missing or damaged, or names code, or the weights are a pickle.
    """
    settings = _json(folder / "config.json")
    if "auto_map" in settings:
        raise ValueError(
            f"path {folder} asks for code of its own (auto_map in config.json), which is never run; "
            "if transformers knows the architecture, remove this entry"
        )
    if not list(folder.glob("*.safetensors")):
        other = next((file.name for pattern in ("*.bin", "*.pt", "*.h5") for file in folder.glob(pattern)), None)
        found = f"only {other}, which is never read" if other else "none"
        advice = "save_pretrained of transformers writes it"
        raise ValueError(f"path {folder} needs its weights as *.safetensors, there is {found}; {advice}")
    return settings


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_bytes())
    except OSError as error:
        raise ValueError(f"path {file.parent} has no {file.name} that can be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"path {file} is damaged: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"path {file} is damaged: it has no settings")
    return found


def _transformers() -> Any:
    """Return the package, silenced.

    Raises:
        UserError: if it is not installed.
    """
    torchvision_fault()
    try:
        with importing():
            import transformers
    except ModuleNotFoundError as error:
        raise UserError("backbone=hf needs transformers; type: pip install 'metalearn-cli[hf]'") from error
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


def _loaded(folder: Path) -> tuple[Any, set[str]]:
    """Return the encoder with its weights, and the names of its tensors that the file lacks.

    Raises:
        ValueError: if it cannot be built, or the file has more layers than it.
    """
    library = _transformers()
    try:
        model, info = library.AutoModel.from_pretrained(
            str(folder),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            attn_implementation="eager",
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:  # of the file format, of the configuration, of the library
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"path {folder} cannot be loaded: {reason}") from error
    encoder = model.get_encoder() if model.config.is_encoder_decoder else model
    _check_unused(info["unexpected_keys"], model, folder)
    missing = _own_names(info["missing_keys"], model, encoder)
    differentiable(encoder)
    encoder.pooler = nn.Identity()  # features are pooled here; some architectures call their pooler unasked
    return encoder, {re.sub(r"\.parametrizations\.(\w+)\.original\d", r".\1", name) for name in missing}


def _own_names(names: Iterable[str], model: Any, encoder: Any) -> set[str]:
    """Return the names that tensors of a model have in its encoder; those of others are left out."""
    tensors = dict(model.named_parameters(remove_duplicate=False))
    wanted = {id(tensors[name]) for name in names if name in tensors}
    return {name for name, p in encoder.named_parameters(remove_duplicate=False) if id(p) in wanted}


def _check_unused(names: Iterable[str], model: Any, folder: Path) -> None:
    """Check that a file has no more layers than the encoder; other tensors that it does not need are told.

    Raises:
        ValueError: if it has.
    """
    unused = sorted(names)
    lists = [name for name, part in model.named_modules() if isinstance(part, nn.ModuleList)]
    if layers := [name for name in unused if any(re.search(rf"(^|\.){re.escape(n)}\.\d", name) for n in lists)]:
        told = f"{layers[0]} and {len(layers) - 1} more" if len(layers) > 1 else layers[0]
        raise ValueError(f"path {folder} has the weights of another architecture: config.json has no place for {told}")
    if unused:
        _log.info("left out of %s: %s", folder, ", ".join(unused))


def _offered(facts: Facts) -> str:
    """Return the name of the input that items of a data set can be, "" if there is none."""
    shape = () if isinstance(facts.shape, Mapping) else facts.shape
    if facts.values == "ids" and len(shape) == 1:
        return "input_ids"
    if facts.kind == "image" and len(shape) == 3:
        return "pixel_values"
    line = len(shape) == 1 or (len(shape) == 2 and shape[0] == 1)
    return "input_values" if facts.values == "real" and line else ""


def _told(facts: Facts) -> str:
    what = READS.get(_offered(facts), f"{facts.kind} items of shape {facts.plain_shape}")
    return f"this data has {what}; choose an encoder of these"


def _check_vocabulary(facts: Facts, folder: Path, config: Any) -> None:
    """Check that ids are those of the encoder's tokenizer.

    Raises:
        ValueError: if they are not, or the encoder does not know all of them.
    """
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise ValueError(f"path {folder} has no tokenizer.json, without which no text becomes this encoder's ids")
    if facts.tokenizer != hashlib.sha256(file.read_bytes()).hexdigest():
        raise ValueError(
            f"path {folder} has another tokenizer than the one that made the data's ids: "
            f"its texts must be read with this tokenizer; type data.tokenizer={folder}"
        )
    if (most := cast(int, facts.vocabulary) - 1) > config.vocab_size:  # without padding
        told = f"a tokenizer with ids up to {most - 1}, and an encoder of {config.vocab_size} ids"
        raise ValueError(f"path {folder} has {told}: they do not belong together; take both from the same model")


def _advice(facts: Facts, folder: Path, config: Any) -> str:
    """Return which items an encoder takes, as the end of a sentence, or ""."""
    if facts.values == "ids":
        most = getattr(config, "max_position_embeddings", None)
        return f"; it takes at most {most} ids" if most else ""
    if facts.kind != "image":
        return ""
    told, size = preprocessor(folder), getattr(config, "image_size", ())
    high, wide = (size, size) if isinstance(size, int) else size or told.size or (0, 0)
    filtered = f" ({told.resampling})" if told.resampling else ""
    return f"; it takes images of {high} x {wide}: type data.size={high}{filtered}" if high else ""
