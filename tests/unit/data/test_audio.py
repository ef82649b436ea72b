"""Own recordings: every format and layout, what they become, and every file that cannot be used."""

import io
import itertools
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from sources import esc50 as esc50_source
from sources import fsdd as fsdd_source
from sources import speech_commands as commands_source
from sources.audio import RATE, fill, save, sound

from metalearn_cli.core.errors import ConfigError, DataError
from metalearn_cli.data.audio import audio
from metalearn_cli.data.common.files import files_in
from metalearn_cli.data.common.layouts import of_names
from metalearn_cli.data.common.pixels import TooLarge
from metalearn_cli.data.common.waves import Shape, item_of, mel_bands, samples_of
from metalearn_cli.data.esc50 import esc50
from metalearn_cli.data.fsdd import fsdd
from metalearn_cli.data.speech_commands import speech_commands

RAW = Shape(RATE, 0.05, "raw", 8, 0.01)
SMALL = {"rate": RATE, "seconds": 0.05, "mels": 8, "hop": 0.01}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MLX_CACHE_DIR", str(tmp_path / "cache"))


def encoded(samples, rate=RATE, kind="WAV", subtype=None):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def with_rate(rate):
    content = encoded(np.ones(100))
    return content[:24] + rate.to_bytes(4, "little") + content[28:]


@pytest.mark.parametrize(
    ("kind", "subtype", "closeness"),
    [
        ("WAV", "PCM_16", 1e-4),
        ("WAV", "FLOAT", 1e-7),
        ("FLAC", "PCM_24", 1e-6),
        ("OGG", "VORBIS", 0.1),
        ("MP3", None, 0.3),
    ],
)
def test_formats(kind, subtype, closeness):
    samples = sound(0, 0.4)
    rate = 8000  # MP3 has a few rates
    found = samples_of(encoded(samples, rate, kind, subtype), Shape(rate, 0.2, "raw", 8, 0.01))
    assert (found.dtype, len(found)) == (np.float32, len(samples))
    if kind != "MP3":  # which is shifted by its frames
        assert np.abs(found - samples).max() < closeness


def test_channels_are_mixed_and_lengths_and_rates_made_equal():
    left = sound(0, 0.1)
    both = np.stack([left, -left], 1)
    assert np.abs(samples_of(encoded(both), RAW)).max() < 1e-3
    assert len(samples_of(encoded(sound(0, 0.5)), RAW)) == RAW.length == 200  # cut
    short = samples_of(encoded(sound(0, 0.02)), RAW)
    assert len(short) == 200 and not short[80:].any()  # padded
    time = np.arange(4000) / 8000
    wave = np.sin(2 * np.pi * 440 * time).astype(np.float32)
    found = samples_of(encoded(wave, 8000, subtype="FLOAT"), Shape(RATE, 0.5, "raw", 8, 0.01))
    assert np.abs(found[50:-50] - wave[::2][50:-50]).max() < 0.01


def test_samples_are_counted_before_they_are_decoded():
    both = np.stack([sound(0, 0.5)] * 2, 1)
    assert len(samples_of(encoded(both), RAW, most=400)) == 200  # the rest of the file is not decoded
    with pytest.raises(TooLarge, match="has 200 samples in 2 channels; at most 399 are read"):
        samples_of(encoded(both), RAW, most=399)


def test_a_louder_recording_is_the_same_item():
    samples = sound(3, 0.05)
    for shape in (RAW, RAW._replace(features="logmel")):
        one, two = (item_of(factor * samples, shape).astype(float) for factor in (0.1, 0.9))
        assert np.abs(one - two).max() <= (1e-6 if shape.features == "raw" else 1)
        assert one.shape == shape.item


def test_a_tone_is_in_its_band():
    rate, mels = 8000, 20
    shape = Shape(rate, 0.5, "logmel", mels, 0.02)
    time = np.arange(4000) / rate
    for tone in (300, 1000, 2500):
        item = item_of(np.sin(2 * np.pi * tone * time).astype(np.float32), shape)
        loudest = int(item[0, :, 10].argmax())
        weights = mel_bands(mels, 512, rate)
        assert loudest == int(weights[:, round(tone / rate * 512)].argmax())
    assert weights.max() <= 1 and (weights.sum(1) > 0).all()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "cannot be read as a recording"),
        (b"RIFF1234WAVE", "cannot be read as a recording"),
        (encoded(np.zeros((0, 1), np.float32)), "has no samples"),
        (encoded(np.full(100, np.nan, np.float32), subtype="FLOAT"), "has samples that are not finite"),
        (encoded(np.full((100, 2), 3e38, np.float32), subtype="FLOAT"), r"has samples of a size of 3e\+38"),
        (encoded(np.ones(100), 999), "has 999 samples a second; rates from 1000 to 1000000 are read"),
        (encoded(np.ones(100), 96_000_001), "has 96000001 samples a second"),  # a filter of 15 GB
        (encoded(np.ones(100), 2**31 - 1), "has 2147483647 samples a second"),
        (with_rate(0), "cannot be read as a recording: its header says 0 samples a second"),
    ],
)
def test_files_that_are_no_recordings(content, told):
    with pytest.raises(ValueError, match=told):
        samples_of(content, RAW)


def test_folders_archives_and_tables_give_the_same_items(tmp_path):
    folder = fill(tmp_path / "sounds", 8, 3)
    data = audio(str(folder), **SMALL)
    assert (data.facts.kind, data.facts.shape, data.facts.values) == ("audio", (1, 8, 5), "unit")
    files = sorted(path.relative_to(folder) for path in folder.rglob("*.*"))
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        for file in files:
            archive.write(folder / file, file)
    (tmp_path / "t.csv").write_text("\n".join(["file,label", *(f"sounds/{f},{f.parent}" for f in files)]))
    others = [audio(str(tmp_path / "s.zip"), **SMALL), audio(str(tmp_path / "t.csv"), **SMALL)]
    assert {other.fingerprint for other in others} == {data.fingerprint}
    raw = audio(str(folder), features="raw", **SMALL)
    assert (raw.facts.shape, raw.facts.values) == ((200,), "real")


def test_rates_and_lengths_are_told(tmp_path):
    folder = fill(tmp_path / "sounds", 6, 3)
    data = audio(str(folder), **{**SMALL, "rate": 2 * RATE, "seconds": 0.05})
    assert data.about["sampling rates"] == {f"{RATE} Hz": 18}
    assert data.about["lengths"] == "0.06 to 0.06 s"
    assert data.about["cut to length"] == 18
    (told,) = [f.what for f in data.findings if f.where == "data.rate"]
    assert (
        told
        == f"is {2 * RATE}, but the recordings have at most {RATE} samples a second: data.rate={RATE} loses nothing"
    )
    assert not [f for f in audio(str(folder), **{**SMALL, "rate": RATE}).findings if f.where == "data.rate"]


def test_recordings_in_one_folder_get_a_pattern_to_type(tmp_path):
    for n in range(12):
        save(tmp_path / "r" / f"{'abcdef'[n // 2]}_ann_{n}.wav", n)
    with pytest.raises(DataError, match=r"""such as "data\.pattern='{label}_{group}_{n}\.wav'""") as error:
        audio(str(tmp_path / "r"), **SMALL)
    assert len(error.value.findings) == 1
    save(tmp_path / "r" / "odd.wav", 0)
    data = audio(str(tmp_path / "r"), pattern="{label}_{who}_{n}.wav", **SMALL)
    (told,) = [f for f in data.findings if f.where == "data.pattern"]
    assert (told.blocks, told.items) == (False, ("odd.wav",))


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("{speaker}_{n}.wav", "needs {label}, and each field once"),
        ("{label}_{label}.wav", "needs {label}, and each field once"),
        ("{label}_{1}.wav", r"has the field \{1\}; a field is a word that begins with a letter, such as \{n1\}"),
        ("{label}+{n}.wav", r"fits none of 4 files, such as 3_ann_0.wav"),
    ],
)
def test_patterns_that_do_not_fit(tmp_path, pattern, told):
    for n in range(4):
        save(tmp_path / "r" / f"3_ann_{n}.wav", n)
    with pytest.raises(ConfigError, match=told):
        audio(str(tmp_path / "r"), pattern=pattern, **SMALL)


@pytest.mark.medium
def test_no_speaker_is_in_two_splits(tmp_path):
    data = fsdd(**fsdd_source.write(tmp_path / "fsdd"))
    speakers = [{name.split("/")[0] for name in s.names} for s in data.splits.values()]
    assert sorted(map(len, speakers)) == [1, 1, 4]
    assert set().union(*speakers) == set(fsdd_source.SPEAKERS)


@pytest.mark.medium
def test_background_noise_is_no_word_and_numbers_have_names(tmp_path):
    data = speech_commands(**commands_source.write(tmp_path / "commands"))
    names = {name for s in data.splits.values() for name in s.names}
    assert names == {*commands_source.WORDS, *commands_source.MORE}
    data = esc50(**esc50_source.write(tmp_path / "esc"))
    assert {name for s in data.splits.values() for name in s.names} == {*esc50_source.NAMES, *esc50_source.MORE}


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Write ESC-50's files once; each test writes its own lists beside them."""
    return esc50_source.write(tmp_path_factory.mktemp("esc"))


@pytest.mark.medium
def test_the_published_lists_split_the_sounds_where_they_lie(sounds):
    names = [*esc50_source.NAMES, *esc50_source.MORE]
    parts = [names[:12], names[12:15], names[15:]]
    esc50_source.lists(Path(sounds["root"]) / "ESC_paper_splits.npy", *parts)
    data = esc50(**sounds)
    assert [set(split.names) for split in data.splits.values()] == [set(own) for own in parts]
    assert data.protocol == "as given"
    assert esc50(**sounds, split="classes").protocol == "classes, seed 0"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda parts: parts[:2], "does not hold three lists: the classes of train, val and test"),
        (lambda parts: [*parts[:2], "siren"], "does not hold three lists"),
        (lambda parts: [*parts[:2], [*parts[2], "dog"]], "lists the class dog twice"),
        (lambda parts: [*parts[:2], [*parts[2], "owl"]], "lists owl, which is no class of meta/esc50.csv"),
        (lambda parts: [*parts[:2], parts[2][1:]], "does not list the class toilet_flush"),
        (lambda parts: [*parts[:2], [*parts[2], 3]], "has a class whose name is no text"),
        (lambda parts: [*parts[:2], [*parts[2], Path()]], "asks for pathlib"),
    ],
)
def test_lists_that_do_not_fit_are_told(sounds, change, told):
    names = [*esc50_source.NAMES, *esc50_source.MORE]
    esc50_source.lists(Path(sounds["root"]) / "ESC_paper_splits.npy", *change([names[:12], names[12:18], names[18:]]))
    with pytest.raises(DataError) as refused:
        esc50(**sounds)
    (finding,) = refused.value.findings
    assert finding.where == "ESC_paper_splits.npy" and told in finding.what


def test_every_file_that_cannot_be_read_and_silence(tmp_path):
    folder = fill(tmp_path / "sounds", 6, 3)
    (folder / "class00" / "0.ogg").write_bytes(b"no recording")
    soundfile.write(folder / "class01" / "0.ogg", np.zeros(0), RATE)
    soundfile.write(folder / "class02" / "1.flac", np.zeros(100), RATE)
    soundfile.write(folder / "class03" / "2.wav", np.full(100, 0.03), 2 * RATE)  # resampled, it would have two edges
    with pytest.raises(DataError) as error:
        audio(str(folder), **SMALL)
    assert sorted(f.where for f in error.value.findings) == ["class00/0.ogg", "class01/0.ogg"]
    data = audio(str(folder), unreadable="skip", **SMALL)
    assert [(f.where, f.what) for f in data.findings if "silent" in f.what] == [
        ("class02/1.flac", "is silent"),
        ("class03/2.wav", "is silent: all its samples have the same value"),
    ]


def test_the_benchmarks_say_where_they_looked(tmp_path, monkeypatch):
    monkeypatch.delenv("MLX_DATA_DIR", raising=False)
    with pytest.raises(ConfigError, match=r"data.root: is missing: data.root=PATH, a folder with recordings/"):
        fsdd()
    monkeypatch.setenv("MLX_DATA_DIR", str(tmp_path))
    with pytest.raises(ConfigError, match="is missing, and MLX_DATA_DIR has no fsdd"):
        fsdd()


@pytest.mark.slow
def test_real_recordings():
    root = Path(__file__).parents[4] / "shared" / "data" / "fsdd"
    if not root.is_dir():
        pytest.skip("needs ../shared/data/fsdd")
    data = fsdd(str(root))
    assert [len(s.names) for s in data.splits.values()] == [40, 10, 10]
    assert sum(int(s.counts.sum()) for s in data.splits.values()) == 3000
    assert not [f for f in data.findings if f.blocks]


BIRDS = ("great_tit", "great_egret", "crow", "blue_jay", "blue_tit", "wren")


@pytest.mark.parametrize("pattern", ["{label}_{n}.wav", "{where}_{label}_{n}.wav", "{label}_{where}_{n}.wav"])
def test_a_label_of_two_words_is_whole_and_told(tmp_path, pattern):
    for k, n in itertools.product(range(len(BIRDS)), range(2)):
        save(tmp_path / "r" / pattern.format(label=BIRDS[k], n=n, where="home"), 10 * k + n)
    data = audio(str(tmp_path / "r"), pattern=pattern, **SMALL)
    assert {name for split in data.splits.values() for name in split.names} == set(BIRDS)
    told = [finding.what for finding in data.findings if finding.where == "data.pattern"]
    assert len(told) == 1 and "fits 8 files in two ways" in told[0] and "the label 'blue_jay'" in told[0]
    shorter = pattern.replace("{label}", "{label}_{part1}")
    assert told[0].endswith(f"not 'blue'; the shorter one is: \"data.pattern='{shorter}'\"")
    entries = of_names(files_in(tmp_path / "r"), (".wav",), shorter).entries
    assert {entry.label for entry in entries if "blue_jay" in entry.source} == {"blue"}
    assert data.about["fields"].startswith("where, n: not used; one" if "where" in pattern else "n: not used; one")


def test_a_pattern_that_makes_a_class_of_each_file_is_named(tmp_path):
    for label, who, n in itertools.product(("crow", "wren", "owl"), ("anna", "ben"), range(3)):
        save(tmp_path / "r" / f"{label}_{who}_{n}.wav", 3)
    with pytest.raises(DataError) as error:
        audio(str(tmp_path / "r"), pattern="{label}_{group}.wav", **SMALL)
    (told,) = (finding.what for finding in error.value.findings if finding.where == "data.pattern")
    assert "gives 18 of 18 classes a single file, such as 0/crow_anna; give each part of the names" in told
    right = of_names(files_in(tmp_path / "r"), (".wav",), "{label}_{group}_{n}.wav")
    assert not right.findings and "fields" not in right.about


def test_a_pattern_that_names_each_part_has_one_reading(tmp_path):
    for k, n in itertools.product(range(6), range(2)):
        save(tmp_path / "r" / f"crow{k}_2020_{n}.wav", 10 * k + n)
    data = audio(str(tmp_path / "r"), pattern="{label}_{year}_{n}.wav", **SMALL)
    assert {name for split in data.splits.values() for name in split.names} == {f"crow{k}" for k in range(6)}
    assert not any(finding.where == "data.pattern" for finding in data.findings)
