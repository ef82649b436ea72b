"""Free Spoken Digit Dataset: the ten digits, spoken 50 times each by six speakers, 8 kHz.

Source: Jackson et al., github.com/Jakobovski/free-spoken-digit-dataset (CC BY-SA 4.0).
"""

from __future__ import annotations

from typing import Annotated

from metalearn_cli.core.check import Range
from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.common.files import benchmark_root, files_in
from metalearn_cli.data.common.layouts import of_names
from metalearn_cli.data.common.sounds import recordings
from metalearn_cli.data.common.waves import FORMATS, Features, Hop, Mels, Rate, Seconds, Shape

WHAT = "a folder with recordings/ or recordings.zip"


def fsdd(
    root: str | None = None,
    split: str = "auto",
    rate: Rate = 8000,
    seconds: Seconds = 1.0,
    features: Features = "logmel",
    mels: Mels = 40,
    hop: Hop = 0.02,
    within: bool = False,
    seed: Annotated[int, Range(0)] = 0,
) -> Dataset:
    """Spoken digits; a class is a digit of a speaker, so that no speaker of val or test is heard in training.

    Args:
        root: a folder with recordings/ or recordings.zip; None means $MLX_DATA_DIR/fsdd.
        split: "auto" (four speakers train, one each validates and tests, by seed), or see `manifest.placed`.
        rate: samples per second, to which all are resampled, 1000 to 192000.
        seconds: length of an item, > 0 and <= 600.
        features: "logmel", an image of `mels` bands by time with values in [0, 1], or "raw", the samples.
        mels: frequency bands, 8 to 512.
        hop: seconds between two columns of the image, 0.001 to 1.
        within: whether the classes of an episode are all of one speaker.
        seed: of the split, >= 0.

    Raises:
        UserError: if the data cannot be used; a DataError names each file.
    """
    files = files_in(benchmark_root(root, "fsdd", WHAT))
    manifest = of_names(files, FORMATS, "{label}_{group}_{n}.wav")._replace(by_place=True)
    data = recordings("fsdd", files, manifest, Shape(rate, seconds, features, mels, hop), split, seed)
    return data.within_groups("speakers") if within else data
