"""What one command builds once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from metalearn_cli.core.errors import DataError, Finding, UserError
from metalearn_cli.data.common import dataset
from metalearn_cli.records import checkpoint
from metalearn_cli.stages import session as module
from metalearn_cli.stages import training
from metalearn_cli.stages.session import Session


@pytest.fixture
def counted(monkeypatch):
    """Return a function that counts the calls of a function of a module, by its first argument."""

    def count(home, name):
        calls, call = [], getattr(home, name)
        monkeypatch.setattr(home, name, lambda *args, **kwargs: calls.append(args[0]) or call(*args, **kwargs))
        return calls

    return count


@pytest.mark.medium
def test_a_chain_builds_its_data_and_its_device_once(go, counted):
    loaded, made = counted(module, "_loaded"), counted(module, "Runtime")
    go("run")
    assert len(loaded) == len(made) == 1


def test_other_settings_are_other_data_and_another_device(config, counted):
    loaded, made = counted(module, "_loaded"), counted(module, "Runtime")
    session, settings = Session(), config("transfer")
    cpu = session.runtime(settings.runtime)
    assert session.runtime(config("pretrain").runtime) is cpu
    assert session.runtime(config("pretrain", runtime__precision="64-true").runtime) is not cpu
    data = session.data(settings.data, cpu)
    assert session.data(dict(reversed(settings.data.items())), cpu) is data
    assert session.data({**settings.data, "seed": 1}, cpu) is not data
    assert (len(loaded), len(made)) == (2, 2)
    assert Session().data(settings.data, cpu) is not data


def test_a_chain_hashes_each_checkpoint_once(go, counted):
    opened = counted(module, "open_checkpoint")
    hashed = counted(checkpoint, "sha256_of")
    done = go("run", stages=["transfer", "meta-train"])
    assert len(opened) == len(set(opened)) == 2
    files = [path for path in hashed if Path(path).name == "model.safetensors"]
    assert len(files) == len(set(files)) == 2
    assert str(opened[-1]) == done["checkpoint"]


def test_a_checkpoint_under_another_name_is_the_same(go, monkeypatch):
    folder = Path(go("transfer")["checkpoint"])
    session = Session()
    one = session.checkpoint(folder)
    monkeypatch.chdir(folder.parent)
    assert session.checkpoint(Path(folder.name)) is one
    (folder / "model.safetensors").write_bytes(b"")
    assert session.checkpoint(folder) is one  # of this command; the next one looks again
    with pytest.raises(UserError, match="is damaged"):
        Session().checkpoint(folder)


@pytest.mark.usefixtures("two_cores")
def test_threads_are_those_of_the_runtime_that_was_asked_for_last(config):
    before = torch.get_num_threads()
    try:
        session = Session()
        one, two = (config("transfer", runtime__threads=n).runtime for n in (1, 2))
        for runtime, threads in ((one, 1), (two, 2), (one, 1), (two, 2)):
            session.runtime(runtime)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("two_cores")
def test_stages_of_a_chain_compute_with_their_own_threads(go, settings, monkeypatch):
    before, told, fit = torch.get_num_threads(), [], training.fit
    monkeypatch.setattr(training, "fit", lambda *args: told.append(torch.get_num_threads()) or fit(*args))
    try:
        two = {**settings("transfer")["runtime"], "threads": 2}
        go("run", stages=["transfer", "meta-train"], transfer__runtime=two)
    finally:
        torch.set_num_threads(before)
    assert told == [2, 1]


def test_data_that_no_training_should_start_on(config, monkeypatch):
    findings = [Finding(True, "val", "has nothing in it")]
    monkeypatch.setattr(dataset, "findings_of", lambda splits: findings)
    settings = config("transfer")
    session = Session()
    with pytest.raises(DataError, match="val has nothing in it"):
        session.data(settings.data, session.runtime(settings.runtime))
