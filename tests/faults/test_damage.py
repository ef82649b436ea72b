"""Damage to a checkpoint's files is found when the checkpoint is opened, and a run goes on from the one before it."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest
from faults.folders import differences, result

from metalearn_cli import stages
from metalearn_cli.core.config import MetaTrainConfig, parse
from metalearn_cli.core.errors import Stopped, UserError
from metalearn_cli.records import runs
from metalearn_cli.records.checkpoint import open_checkpoint

FAULTS = int(os.environ.get("MLX_FAULTS", 500))
FILES = ("manifest.json", "model.safetensors", "resume.pt")
SETTINGS = {"steps": 6, "keep": 2, "every": {"log": 1, "evaluate": 2, "save": 2}}


@pytest.fixture
def checkpoint(config, said):
    """Return the folder of a small run's last checkpoint."""
    done = stages.run("meta-train", config("meta-train"), said)
    return Path(done["folder"]) / "checkpoints" / done["last"]


def found(folder: Path, file: str, data: bytes) -> bool:
    """Whether other contents of a file are noticed and the file is named; it has its own again afterwards."""
    path = folder / file
    before = path.read_bytes()
    path.write_bytes(data)
    try:
        open_checkpoint(folder)
    except UserError as error:
        return str(path) in str(error)
    finally:
        path.write_bytes(before)
    return False


def flipped(data: bytes, bit: int) -> bytes:
    byte, place = divmod(bit, 8)
    return data[:byte] + bytes([data[byte] ^ (1 << place)]) + data[byte + 1 :]


@pytest.mark.parametrize("count", [100, pytest.param(FAULTS, marks=pytest.mark.slow)])
@pytest.mark.medium
def test_every_random_flip_of_a_bit_is_found(checkpoint, count):
    draw = random.Random(0)
    bits = [(file, bit) for file in FILES for bit in range(8 * (checkpoint / file).stat().st_size)]
    # by file first: the manifest is small and matters no less
    chosen = [draw.choice([b for b in bits if b[0] == file]) for file in draw.choices(FILES, k=count)]
    missed = [b for b in chosen if not found(checkpoint, b[0], flipped((checkpoint / b[0]).read_bytes(), b[1]))]
    print(f"{count} faults injected, {len(missed)} not found")
    assert not missed


@pytest.mark.slow
def test_every_bit_of_the_manifest_counts(checkpoint):
    data = (checkpoint / "manifest.json").read_bytes()
    missed = [bit for bit in range(8 * len(data)) if not found(checkpoint, "manifest.json", flipped(data, bit))]
    print(f"{8 * len(data)} faults injected, {len(missed)} not found")
    assert not missed


def cuts(file: str, data: bytes) -> list[int]:
    """Return where a file is cut short: at its ends, around its header, and in the middle of it and of its data."""
    header = {"model.safetensors": 8 + int.from_bytes(data[:8], "little"), "resume.pt": 30, "manifest.json": 2}[file]
    places = {0, 1, 7, 8, 9, header // 2, header - 1, header, header + 1, len(data) // 2, len(data) - 1}
    return sorted(place for place in places if place < len(data))


def test_every_cut_is_found(checkpoint):
    missed, count = [], 0
    for file in FILES:
        data = (checkpoint / file).read_bytes()
        for place in cuts(file, data):
            for changed in (data[:place], data[:place] + bytes(len(data) - place), data[place:] + data[:place]):
                count += changed != data
                if changed != data and not found(checkpoint, file, changed):
                    missed.append((file, place))
    print(f"{count} faults injected, {len(missed)} not found")
    assert not missed


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["flip", *(pytest.param(how, marks=pytest.mark.slow) for how in ("cut", "absent"))])
def test_run_goes_on_from_the_checkpoint_before(settings, said, tmp_path, monkeypatch, caplog, file, damage):
    def values(folder):
        return parse(MetaTrainConfig, settings("meta-train", **SETTINGS, runs_dir=str(folder)))

    def advance(step):
        if step == 5:
            raise Stopped(15)

    stages.run("meta-train", values(tmp_path / "whole"), said)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(said, "advance", advance)
        stages.run("meta-train", values(tmp_path / "runs"), said)
    folder = Path(runs.list_runs(str(tmp_path / "runs"))[0]["folder"])
    newest = folder / "checkpoints" / "step-000004"
    path = newest / file
    if damage == "absent":
        path.unlink()
    else:
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2] if damage == "cut" else flipped(data, 4 * len(data)))
    stages.resume(str(folder), said, {})
    assert str(path) in caplog.text and "resuming from step-000002 instead" in caplog.text
    shutil.rmtree(newest.with_name("step-000004.damaged"))
    assert differences(result(tmp_path / "whole"), result(tmp_path / "runs")) == []
