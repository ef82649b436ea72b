"""How a recording becomes an item, and plain values that say so, to treat other recordings in the same way; no torch.

Legend: L samples, F frames, M mel bands.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from metalearn_cli.core.check import Above, Range
from metalearn_cli.core.errors import UserError
from metalearn_cli.data.common.pixels import ONE, TooLarge

# the settings of all data sets of recordings, see `Shape`
Features = Literal["logmel", "raw"]
Rate = Annotated[int, Range(1000, 192_000)]
Seconds = Annotated[float, Above(0), Range(high=600)]
Mels = Annotated[int, Range(8, 512)]
Hop = Annotated[float, Range(0.001, 1)]

FORMATS = (".wav", ".flac", ".ogg", ".mp3")
LARGEST = 1 << 30  # bytes of a file
MOST_SAMPLES = 1 << 28  # that are decoded
RATES = range(1000, 1_000_001)  # samples per second of a file: the filter that resamples it grows with them
LOUDEST = 2.0**32  # integers that were stored as floats have such sizes; the power of larger ones overflows
QUIET = 1e-4  # a recording that is never louder, or has no larger range of values, is silent; 1 is the loudest
DECIBELS = 80.0  # between the values 0 and 1 of an item
WINDOW = 0.025  # seconds


class Shape(NamedTuple):
    """How a recording becomes an item.

    Attributes:
        rate: samples per second.
        seconds: length; longer recordings are cut, shorter ones padded with silence.
        features: "logmel": an image [1, M, F] with values in [0, 1]; "raw": samples [L], at most 1 in size.
        mels: M.
        hop: seconds from one frame to the next.
    """

    rate: int
    seconds: float
    features: Features
    mels: int
    hop: float

    @property
    def length(self) -> int:
        """L."""
        return round(self.rate * self.seconds)

    @property
    def item(self) -> tuple[int, ...]:
        """The shape of an item."""
        if self.features == "raw":
            return (self.length,)
        return (1, self.mels, max(1, math.ceil(self.length / round(self.rate * self.hop))))


def shape_of(preprocessing: Mapping[str, Any]) -> Shape:
    """Return how a recording became an item of a data set; without mel bands, their settings are 0."""
    return Shape(**{name: preprocessing.get(name, 0) for name in Shape._fields})


class _Unusable(ValueError):
    """Its text goes after the name of the file."""


def samples_of(content: bytes, shape: Shape, most: int = MOST_SAMPLES) -> NDArray[np.float32]:
    """Return the beginning of a recording [L], mixed to one channel, resampled, and padded with zeros.

    Args:
        content: of the file.
        shape: how it becomes an item.
        most: samples that are decoded, of all channels together.

    Raises:
        TooLarge: if there are more.
        ValueError: if it cannot be read; its text goes after the name of the file.
        UserError: if the libraries are not installed.
    """
    return fitted(*mixed_of(content, shape, most), shape)


def mixed_of(content: bytes, shape: Shape, most: int = MOST_SAMPLES) -> tuple[NDArray[np.float32], int]:
    """Return the beginning of a recording, mixed to one channel, and its samples per second; see `samples_of`."""
    try:
        import scipy.signal  # noqa: F401  what resampling needs, so that both are missed at once
        import soundfile
    except ImportError as error:
        raise UserError(f"recordings need the extra audio: pip install 'metalearn-cli[audio]' ({error})") from error
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            rate = file.samplerate
            if rate not in RATES:
                told = f"rates from {RATES[0]} to {RATES[-1]} are read: save it at such a rate"
                raise _Unusable(f"has {rate} samples a second; {told}")
            wanted = min(file.frames, math.ceil(rate * shape.seconds))
            if wanted * file.channels > most:
                raise TooLarge(f"has {wanted} samples in {file.channels} channels; at most {most} are read")
            found = file.read(wanted, "float32", always_2d=True)
    except (_Unusable, TooLarge):
        raise
    except (RuntimeError, ValueError, TypeError) as error:
        told = getattr(error, "error_string", str(error)).rstrip(".")  # without the address of an object
        if "SF_INFO" in told:
            told = "its header says 0 samples a second, or 0 channels"
        raise ValueError(f"cannot be read as a recording: {told}") from error
    if not len(found):
        raise ValueError("has no samples")
    if not np.isfinite(found).all():
        raise ValueError("has samples that are not finite")
    if (loudest := np.abs(found).max()) > LOUDEST:
        raise ValueError(f"has samples of a size of {loudest:.3g}; save it with samples from -1 to 1")
    return found.mean(1), rate


def fitted(mixed: NDArray[np.float32], rate: int, shape: Shape) -> NDArray[np.float32]:
    """Return samples [L], resampled and padded with zeros."""
    from scipy.signal import resample_poly

    if rate != shape.rate:
        common = math.gcd(rate, shape.rate)
        mixed = resample_poly(mixed, shape.rate // common, rate // common).astype(np.float32)
    mixed = mixed[: shape.length]
    return np.pad(mixed, (0, shape.length - len(mixed)))


def recorded(content: bytes) -> tuple[int, float]:
    """Return the samples per second of a recording, and its seconds."""
    import soundfile

    about = soundfile.info(io.BytesIO(content))
    return about.samplerate, about.frames / about.samplerate


def item_of(samples: NDArray[np.float32], shape: Shape) -> NDArray[Any]:
    """Return samples [L] as an item, whatever their loudness.

    A log-mel image is uint8: 255 is the highest power in a band and frame, 0 is 80 dB less. Raw samples are scaled to a
    highest value of 1.
    """
    loudest = float(np.abs(samples).max(initial=0))
    if shape.features == "raw":
        return samples / loudest if loudest > QUIET else samples
    window, hop = round(shape.rate * WINDOW), round(shape.rate * shape.hop)
    frames = shape.item[2]
    size = 2 << (window - 1).bit_length()
    padded = np.pad(samples, (window // 2, window + hop))
    steps = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop][:frames]
    power = np.abs(np.fft.rfft(steps * np.hanning(window).astype(np.float32), size)) ** 2
    bands = mel_bands(shape.mels, size, shape.rate) @ power.T
    decibels = 10 * np.log10(np.maximum(bands, 1e-10))
    scaled = (decibels - decibels.max()) / DECIBELS + 1 if loudest > QUIET else np.zeros_like(decibels)
    return np.round(ONE * scaled.clip(0, 1)).astype(np.uint8)[None]


def mel_edges(mels: int, rate: int) -> NDArray[np.float64]:
    """Return the edges [M + 2] of bands that are equally wide in mel (O'Shaughnessy 1987), in Hz.

    A band begins at one edge, is highest at the next and ends at the one after that.

    Args:
        mels: M.
        rate: samples per second; the bands end at half of it.
    """
    top = 2595 * math.log10(1 + rate / 2 / 700)
    return 700 * (10 ** (np.linspace(0, top, mels + 2) / 2595) - 1)


def mel_bands(mels: int, size: int, rate: int) -> NDArray[np.float32]:
    """Return the weights [M, size / 2 + 1] of triangular bands; see `mel_edges`.

    Args:
        mels: M.
        size: of the Fourier transform.
        rate: samples per second; the bands end at half of it.
    """
    edges = mel_edges(mels, rate)
    frequencies = np.linspace(0, rate / 2, size // 2 + 1)
    rising = (frequencies - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - frequencies) / (edges[2:] - edges[1:-1])[:, None]
    return np.minimum(rising, falling).clip(0).astype(np.float32)
