"""The speaker encoder of Resemblyzer, rebuilt from its file of weights: what it hears is who speaks.

Source: Wan et al. 2018, https://arxiv.org/abs/1710.10467; weights: the package Resemblyzer on PyPI (Apache 2.0).

Legend: B items, L samples, F frames, D features.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, pad, relu

from metalearn_cli.core.check import OnDisk
from metalearn_cli.core.items import Facts

RATE, WINDOW, HOP, MELS, WIDTH = 16000, 400, 160, 40, 256
LOUDNESS = 10 ** (-30 / 20)  # -30 dB of full scale, which it was trained on


class Speaker(nn.Module):
    """Three LSTM layers over mel frames, a linear layer and ReLU, then length 1.

    Args:
        facts: of the data: waveforms of 16,000 samples a second; it was trained on 1.6 s.
        weights: Resemblyzer's file pretrained.pt; null starts from random ones.

    Attributes:
        out_dim: D.
        blocks: the LSTM and the linear layer.
        batch_statistics: False: an item's output does not depend on other items.

    Raises:
        ValueError: if items are no waveforms, or the file is missing or another one.
    """

    batch_statistics = False
    window: Tensor
    filters: Tensor

    def __init__(self, facts: Facts, weights: Annotated[str | None, OnDisk()] = None) -> None:
        super().__init__()
        shape = facts.shape if isinstance(facts.shape, tuple) else ()
        if facts.values != "real" or len(shape) not in (1, 2) or shape[:-1] not in ((), (1,)) or shape[-1] < WINDOW:
            told = f"{facts.kind} items of shape {facts.plain_shape}"
            raise ValueError(f"speaker needs waveforms of {WINDOW} or more samples; this data has {told}")
        self.lstm = nn.LSTM(MELS, WIDTH, 3, batch_first=True)
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.out_dim = WIDTH
        self.register_buffer("window", torch.hann_window(WINDOW))
        self.register_buffer("filters", mel_filters())
        if weights is not None:
            self._load(weights)

    @property
    def blocks(self) -> list[nn.Module]:
        """Return the parts from input to output."""
        return [self.lstm, self.linear]

    def forward(self, x: Tensor) -> Tensor:
        """Return features [B, D] of waveforms [B, L] or [B, 1, L]."""
        x = x.flatten(1)
        x = x * (LOUDNESS / x.square().mean(1, keepdim=True).sqrt().clamp(min=1e-6))
        frames_BFW = (
            pad(x, (WINDOW // 2, WINDOW // 2)).unfold(1, WINDOW, HOP) * self.window
        )  # vmap has no rule for stft
        _, (last, _) = self.lstm(torch.fft.rfft(frames_BFW).abs().square() @ self.filters.mT)
        return normalize(relu(self.linear(last[-1])), dim=1)

    def _load(self, path: str) -> None:
        try:
            read: Any = torch.load(Path(path), map_location="cpu", weights_only=True)["model_state"]
            wanted = self.lstm.state_dict(prefix="lstm.") | self.linear.state_dict(prefix="linear.")
            for name, tensor in wanted.items():
                if read[name].shape != tensor.shape:
                    raise ValueError(f"{name} has another shape")
                tensor.copy_(read[name])
        except Exception as error:  # torch's reader can raise almost any error on a file of another kind
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise ValueError(f"weights {path} is not the file pretrained.pt of Resemblyzer ({reason})") from error


def mel_filters() -> Tensor:
    """Return the triangular filters [mels, frequencies] of Slaney's scale, each of area one, as librosa has them."""
    top = 15 + 27 * math.log(RATE / 2 / 1000) / math.log(6.4)
    mel = torch.linspace(0, top, MELS + 2, dtype=torch.float64)
    edge = torch.where(mel < 15, mel * 200 / 3, 1000 * torch.exp(math.log(6.4) / 27 * (mel - 15)))[:, None]
    frequency = torch.linspace(0, RATE / 2, WINDOW // 2 + 1, dtype=torch.float64)
    up = (frequency - edge[:-2]) / (edge[1:-1] - edge[:-2])
    down = (edge[2:] - frequency) / (edge[2:] - edge[1:-1])
    return (torch.minimum(up, down).clamp(min=0) * 2 / (edge[2:] - edge[:-2])).float()
