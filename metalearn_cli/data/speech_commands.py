"""Speech Commands: 35 words, each spoken by many people, one second at 16 kHz.

Source: Warden 2018, arXiv:1804.03209 (CC BY 4.0).
"""

from __future__ import annotations

from typing import Annotated

from metalearn_cli.core.check import Range
from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.common.files import benchmark_root, files_in
from metalearn_cli.data.common.layouts import of_names
from metalearn_cli.data.common.sounds import recordings
from metalearn_cli.data.common.waves import FORMATS, Features, Hop, Mels, Rate, Seconds, Shape

WHAT = "a folder with a folder for each word"


def speech_commands(
    root: str | None = None,
    split: str = "auto",
    rate: Rate = 16000,
    seconds: Seconds = 1.0,
    features: Features = "logmel",
    mels: Mels = 40,
    hop: Hop = 0.02,
    seed: Annotated[int, Range(0)] = 0,
) -> Dataset:
    """Spoken words; a class is a word. The published lists split speakers, not classes, so they are not used.

    Args:
        root: a folder with a folder for each word; None means $MLX_DATA_DIR/speech_commands.
        split: "auto" (words by seed), or see `manifest.placed`.
        rate: samples per second, to which all are resampled, 1000 to 192000.
        seconds: length of an item, > 0 and <= 600.
        features: "logmel", an image of `mels` bands by time with values in [0, 1], or "raw", the samples.
        mels: frequency bands, 8 to 512.
        hop: seconds between two columns of the image, 0.001 to 1.
        seed: of the split, >= 0.

    Raises:
        UserError: if the data cannot be used; a DataError names each file.
    """
    files = files_in(benchmark_root(root, "speech_commands", WHAT))
    manifest = of_names(files, FORMATS, "{label}/{speaker}_nohash_{n}.wav")  # so not _background_noise_
    return recordings("speech_commands", files, manifest, Shape(rate, seconds, features, mels, hop), split, seed)
