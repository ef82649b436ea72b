"""The smallest settings of every stage, a reporter that remembers, and a command line in the test's own process.

What needs torch is imported where it is used: the process that deals out the tests reads this file, too, and the others
wait for it.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from metalearn_cli.cli.main import WAITING, main

os.environ |= WAITING  # as `mlx` does it, before torch is loaded
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the processes of the tests share the cores

from hydra._internal import defaults_list
from hydra._internal.config_repository import ConfigRepository
from hydra.core.default_element import InputDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig

from metalearn_cli.cli.composing import Composer, Composition
from metalearn_cli.core import machine
from metalearn_cli.core.config import STAGES, parse, parse_chain
from metalearn_cli.core.config import Runtime as RuntimeConfig

if TYPE_CHECKING:
    from metalearn_cli.engine.runtime import Runtime

MEMORY = Path("/dev/shm")  # Linux has a file system in memory: the tests write 40,000 small files, 400 MB in all
if "TMPDIR" not in os.environ and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 4 * 2**30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

PROTONET = {"_target_": "metalearn_cli.algorithms.protonet.ProtoNet"}
EVERY_STAGE = {
    "seed": 0,
    "tracker": ["tensorboard"],
    "runtime": {
        "accelerator": "cpu",
        "devices": 1,
        "precision": "32-true",
        "threads": 1,
        "task_batching": "auto",
        "task_chunk": None,
        "task_compile": False,
        "gradient_checkpointing": False,
        "tuned": False,
        "stop_on": [],
        "shard": False,
        "anomaly": False,
    },
    "way": 2,
    "shot": 1,
    "query": 3,
    "backbone": {"_target_": "metalearn_cli.backbones.mlp.Mlp", "hidden": 8, "layers": 3},
    "data": {"_target_": "metalearn_cli.data.gaussian.gaussian", "items": 160, "features": 6, "classes": 16},
}
TRAINING = {
    "init_from": None,
    "reinit": [],
    "steps": 5,
    "optimizer": {"_target_": "torch.optim.Adam", "lr": 0.01},
    "scheduler": {"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR", "T_max": 5},
    "every": {"log": 2, "evaluate": 3, "save": 2},
    "keep": 1,
    "val_episodes": 4,
    "patience": None,
    "on_nonfinite": "stop",
    "nonfinite_limit": 2,
}
OWN = {
    "pretrain": {"model": {"_target_": "metalearn_cli.models.classifier.Classifier"}, "batch_size": 8},
    "transfer": {
        "method": {"_target_": "metalearn_cli.methods.finetune.Finetune"},
        "batch_size": 8,
        "teacher": None,
        "also": {},
    },
    "meta-train": {
        "algorithm": PROTONET,
        "tasks": 2,
        "train_way": None,
        "train_shot": None,
        "train_query": None,
        "normalisation": "transductive",
    },
    "evaluate": {
        "split": "test",
        "episodes": 6,
        "varying": False,
        "normalisation": ["transductive", "inductive"],
        "weights_seed": None,
        "select": {},
        "also_within": False,
        "calibration": 0,
    },
}
OF_EVALUATE = {"ckpt": "latest", "backbone": None, "data": None, "algorithm": None}


@pytest.fixture(autouse=True, scope="session")
def composed_once() -> Iterator[None]:
    """Have Hydra read each shipped file, and compose the same words, once: a composition takes 0.1 s."""
    read, compose, choices_of = ConfigRepository.load_config, Composer.compose, defaults_list._create_interpolation_map
    files: dict[tuple[Any, ...], bytes] = {}
    known: dict[tuple[str, ...], bytes] = {}

    def read_once(repository: ConfigRepository, config_path: str) -> ConfigResult | None:
        shipped = [source for source in repository.sources if source.provider != "command-line"]
        if any(source.is_config(config_path) for source in repository.sources if source not in shipped):
            return read(repository, config_path)  # a file of the test's own, which may change
        of_hydra = type(getattr(shipped[-1], "store", None))  # Hydra's own settings: all of them, or few
        key = (str([source.path for source in shipped]), of_hydra, config_path)
        if key not in files:
            files[key] = pickle.dumps(read(repository, config_path))
        return pickle.loads(files[key])  # much faster than a deep copy

    def compose_once(composer: Composer, words: Sequence[str]) -> Composition:
        folders = composer.loader.config_search_path.get_path()
        if any(folder.provider == "command-line" for folder in folders):
            return compose(composer, words)
        key = (str(folders), composer.stage, *words)
        if key not in known:
            composition = compose(composer, words)
            known[key] = pickle.dumps((composition.words, composition.config, composition.choices))
        return Composition(composer, *pickle.loads(known[key]))

    def choices_if_needed(overrides: Any, defaults: list[InputDefault], self_added: bool) -> DictConfig:
        wanted = any(default.is_interpolation() for default in defaults)
        return choices_of(overrides, defaults, self_added) if wanted else DictConfig({})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(defaults_list, "_create_interpolation_map", choices_if_needed)
        patch.setattr(ConfigRepository, "load_config", read_once)
        patch.setattr(Composer, "compose", compose_once)
        yield


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Leave the cache of the user alone; all processes of the tests have one."""
    folder = tmp_path_factory.getbasetemp()
    together = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLX_CACHE_DIR", str(together / "cache"))
        yield


@pytest.fixture(autouse=True, scope="session")
def no_callbacks_of_others() -> Iterator[None]:
    """Have Fabric not search all installed packages for callbacks: it takes a tenth of a small training."""
    from lightning_fabric import fabric

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fabric, "_load_external_callbacks", lambda group: [])
        yield


def drawing() -> dict[str, Any]:
    """Return the modules that draw a picture in every training or evaluation, by the name of the function."""
    from metalearn_cli.stages import curves, meta_train, training

    return {"learning_curves": training, "episode_picture": meta_train, "curve_picture": curves}


@pytest.fixture(autouse=True)
def nothing_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes longer than a small training: pictures, freeing memory, and waiting for the disk."""
    from metalearn_cli.engine import runtime

    for name, module in drawing().items():
        monkeypatch.setattr(module, name, lambda *args: None)
    monkeypatch.setattr(runtime, "release", lambda: None)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def pictures(nothing_slow: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have pictures drawn all the same."""
    from metalearn_cli.records import plots

    for name, module in drawing().items():
        monkeypatch.setattr(module, name, getattr(plots, name))


class Said:
    """A `core.types.Reporter` that keeps what it is told."""

    def __init__(self) -> None:
        self.started: list[tuple[str, int, int]] = []
        self.steps: list[int] = []
        self.measured: list[tuple[int, dict[str, float]]] = []
        self.notes: list[str] = []
        self.finished: list[Mapping[str, Any]] = []

    def start(self, stage: str, folder: str, start: int, steps: int) -> None:
        self.started.append((stage, start, steps))

    def advance(self, step: int) -> None:
        self.steps.append(step)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.measured.append((step, dict(values)))

    def note(self, text: str) -> None:
        self.notes.append(text)

    def finish(self, summary: Mapping[str, Any]) -> None:
        self.finished.append(dict(summary))


@pytest.fixture
def said() -> Said:
    """Return a reporter that keeps what it is told in `started, steps, measured, notes, finished`."""
    return Said()


def smallest(stage: str, folder: Path, /, **changes: Any) -> dict[str, Any]:
    """Return the plain settings of a stage whose runs go to a folder, with changes (a__b for a.b)."""
    common = {**EVERY_STAGE, "runs_dir": str(folder)}
    values: dict[str, Any]
    if stage == "run":
        names = ["pretrain", "transfer", "meta-train"]
        training = {k: v for k, v in TRAINING.items() if k != "init_from"}
        sections = {name.replace("-", "_"): {**training, **OWN[name]} for name in names}
        values = {
            **common,
            **sections,
            "evaluate": {**OWN["evaluate"], "seed": 0},
            "stages": names,
            "seeds": 1,
            "folds": None,
            "wait": 0,
            "tier": "short",
            "tiers": {},
            "after": None,
            "init_from": None,
        }
        values["algorithm"] = sections["meta_train"].pop("algorithm")
    else:
        values = {**common, **(OF_EVALUATE if stage == "evaluate" else TRAINING), **OWN[stage]}
    values = json.loads(json.dumps(values))  # a copy whose sections share nothing
    for key, value in changes.items():
        *groups, name = key.split("__")
        section = values
        for group in groups:
            section = section[group]
        section[name] = value
    return values


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this machine two cores, whatever it has."""
    from metalearn_cli.engine import runtime

    for module in (machine, runtime):
        monkeypatch.setattr(module, "cores", lambda: 2)


def on_cpu(**changes: Any) -> Runtime:
    """Return the CPU with one thread, or with other settings."""
    from metalearn_cli.engine.runtime import Runtime

    return Runtime(parse(RuntimeConfig, {**smallest("pretrain", Path())["runtime"], **changes}))


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Return a function from a stage, and changes, to plain settings whose runs go to tmp_path/runs."""
    return lambda stage, **changes: smallest(stage, tmp_path / "runs", **changes)


@pytest.fixture
def config(settings: Callable[..., dict[str, Any]]) -> Callable[..., Any]:
    """Return a function from a stage, and changes, to its parsed settings."""

    def make(stage: str, **changes: Any) -> Any:
        values = settings(stage, **changes)
        return parse_chain(values) if stage == "run" else parse(STAGES[stage], values)

    return make


class Answer(NamedTuple):
    """What a command line came to."""

    code: int
    out: str
    err: str


@pytest.fixture
def mlx(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> Iterator[Callable[..., Answer]]:
    """Run `mlx` with the given words, in an empty folder; what Hydra keeps globally is put back."""
    import torch

    monkeypatch.chdir(tmp_path)
    handlers = logging.getLogger().handlers[:]

    def call(*words: str) -> Answer:
        try:
            code = main(words)
        finally:
            GlobalHydra.instance().clear()
            torch.set_flush_denormal(False)  # what `runtime.tuned` sets is the process's, hence other tests' too
        return Answer(code, *capsys.readouterr())

    yield call
    logging.getLogger().handlers[:] = handlers
