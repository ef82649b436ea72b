"""Files that a stranger may have made to do harm: each gets a sentence, exit 2, and does nothing.

`pytest tests/faults/test_hostile.py -m '' -s` prints the sentences.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import stat
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from metalearn_cli import stages
from metalearn_cli.data import omniglot
from metalearn_cli.records.checkpoint import sealed

TINY = ("data=gaussian", "backbone=mlp", "way=2", "query=2", "steps=1", "val_episodes=2")
CANARY = "canary"  # what hostile files try to make

Mlx = Callable[..., Any]


def some(cases: Iterable[str], *quick: str) -> list[Any]:
    """Return the names of all cases, of which those that are not quick are left to `make test-all`."""
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in cases]


def refused(mlx: Mlx, folder: Path, name: str, *words: str) -> str:
    """Run a command that has to be refused without a trace, and return what it said."""
    before = sorted(folder.rglob("*"))
    code, out, err = mlx(*words)
    # the table of `mlx data check` is a result; nothing else is said there
    said = err.strip() or out.strip()
    print(f"\n{name}\n    {said}", file=sys.__stdout__)
    assert code == 2, said
    assert "Traceback" not in err + out and "crashed" not in err
    assert not list(folder.rglob(CANARY))
    assert sorted(folder.rglob("*")) == before
    return said


# -- configs ----------------------------------------------------------------------------------------------------------

RUNS_A_PROGRAM = f"{{_target_: os.system, command: touch {CANARY}}}"

TARGETS = {
    "os.system": "os.system",
    "os.system under an alias": "metalearn_cli.records.runs.os.system",
    "os.system of an allowed package": "metalearn_cli.algorithms.maml.os.system",
    "through dunders": "metalearn_cli.algorithms.maml.Maml.__init__.__globals__",
    "through builtins": "metalearn_cli.algorithms.maml.__builtins__",
    "through importlib": "metalearn_cli.core.build.importlib.import_module",
    "torch.load": "torch.load",
    "a tool in torch.optim": "torch.optim.lr_scheduler.partial",
    "a function of this package": "metalearn_cli.records.runs.create",
    "a helper of a data set": "metalearn_cli.data.common.cache.cached",
    "a component of another group": "metalearn_cli.backbones.mlp.Mlp",
    "a learner's foreign function": "metalearn_cli.algorithms.maml.task_loss",
}


@pytest.mark.parametrize("name", some(TARGETS, "os.system under an alias", "a function of this package"))
def test_a_config_that_names_what_is_no_component(mlx: Mlx, tmp_path: Path, name: str) -> None:
    own = tmp_path / "own" / "algorithm"
    own.mkdir(parents=True)
    (own / "evil.yaml").write_text(f"_target_: {TARGETS[name]}\ncommand: touch {CANARY}\n")
    said = refused(mlx, tmp_path, name, "meta-train", *TINY, "algorithm=evil", "-cd", "own")
    assert "algorithm._target_" in said
    assert "may not be built from a config" in said or "is not a valid algorithm" in said
    assert "(from own/algorithm/evil.yaml)" in said


def laughs(levels: int = 12) -> str:
    lines = ["l0: &l0 [ha, ha]"]
    lines += [f"l{k}: &l{k} [{', '.join([f'*l{k - 1}'] * 10)}]" for k in range(1, levels)]
    return "\n".join(lines) + "\n"


SETS_HYDRA = "sets hydra, which runs programs; a config file may only set mlx's own settings"
FILES = {
    # name: (file, text, sentence)
    "hydra's callbacks": (
        "experiment/evil.yaml",
        f"# @package _global_\nhydra: {{callbacks: {{x: {RUNS_A_PROGRAM}}}}}\n",
        SETS_HYDRA,
    ),
    "hydra's loggers": (
        "experiment/evil.yaml",
        "# @package _global_\nhydra: {job_logging: {version: 1, handlers: {x: {(): os.system, command: x}}}}\n",
        SETS_HYDRA,
    ),
    "hydra's launcher": (
        "experiment/evil.yaml",
        f"# @package _global_\nhydra: {{launcher: {RUNS_A_PROGRAM}}}\n",
        SETS_HYDRA,
    ),
    "hydra's environment": (
        "experiment/evil.yaml",
        "# @package _global_\nhydra: {job: {env_set: {LD_PRELOAD: /tmp/x.so}}}\n",
        SETS_HYDRA,
    ),
    "hydra by the file's package": (
        "experiment/evil.yaml",
        f"# @package hydra.callbacks\nx: {RUNS_A_PROGRAM}\n",
        SETS_HYDRA,
    ),
    "hydra by a defaults list": (
        "experiment/evil.yaml",
        "# @package _global_\ndefaults:\n  - override /hydra/launcher: basic\n",
        "chooses 'override /hydra/launcher' in its defaults",
    ),
    "hydra by a package in a defaults list": (
        "experiment/evil.yaml",
        "# @package _global_\ndefaults:\n  - /algorithm@hydra.callbacks.x: maml\n",
        "chooses '/algorithm@hydra.callbacks.x' in its defaults",
    ),
    "a folder above": (
        "experiment/evil.yaml",
        "defaults:\n  - ../../../../elsewhere/evil\n",
        "without .. in their names",
    ),
    "an absolute path": ("experiment/evil.yaml", "defaults:\n  - //etc/evil\n", "without .. in their names"),
    "a secret from the environment": (
        "experiment/evil.yaml",
        "# @package _global_\nruns_dir: ${oc.env:SECRET}\n",
        "has the value '${oc.env:SECRET}': a config file may refer to other settings, as in ${way}, but not",
    ),
    "a resolver put together": (
        "experiment/evil.yaml",
        "# @package _global_\nx: oc.env\nruns_dir: '${${x}:SECRET}'\n",
        "a value may refer to only one other setting",
    ),
    "a decoded text": (
        "experiment/evil.yaml",
        "# @package _global_\nruns_dir: \"${oc.decode:'{a: 1}'}\"\n",
        "but not to anything else",
    ),
    "hydra's own resolver": (
        "experiment/evil.yaml",
        "# @package _global_\nruns_dir: ${hydra:runtime.cwd}\n",
        "but not to anything else",
    ),
    "anchors that explode": (
        "experiment/evil.yaml",
        laughs(),
        "has more than 10000 values, with its aliases expanded",
    ),
    "anchors that explode in merges": (
        "experiment/evil.yaml",
        "a0: &a0 {x: 1}\n"
        + "".join(f"a{k}: &a{k} {{<<: *a{k - 1}, l: *a{k - 1}, r: *a{k - 1}}}\n" for k in range(1, 40)),
        "has more than 10000 values, with its aliases expanded",
    ),
    "an anchor within itself": (
        "experiment/evil.yaml",
        "a: &a [*a]\n",
        "uses the alias *a before its anchor is complete",
    ),
    "references that explode": (
        "experiment/evil.yaml",
        "# @package _global_\n" + "a0: haha\n" + "".join(f"a{k}: {f'${{a{k - 1}}}' * 10}\n" for k in range(1, 12)),
        "a value may refer to only one other setting",
    ),
    "references that explode as nodes": (
        "experiment/evil.yaml",
        "# @package _global_\n"
        + "a0: {x: 1}\n"
        + "".join(f"a{k}: {{p: '${{a{k - 1}}}', q: '${{a{k - 1}}}'}}\n" for k in range(1, 31)),
        "the settings have more than 10000 values",
    ),
    "a setting within itself": (
        "experiment/evil.yaml",
        "# @package _global_\na: {b: '${c}'}\nc: {d: '${a}'}\n",
        "is nested deeper than 32 levels; does it refer to itself?",
    ),
    "deep nesting": (
        "experiment/evil.yaml",
        "a: " + "[" * 20_000 + "\n",
        "is nested too deeply; allowed are 32 levels",
    ),
    "deep nesting by indentation": (
        "experiment/evil.yaml",
        "".join(f"{' ' * k}a:\n" for k in range(500)),
        "is nested too deeply; allowed are 32 levels",
    ),
    "a python object": (
        "experiment/evil.yaml",
        f"a: !!python/object/apply:os.system [touch {CANARY}]\n",
        "could not determine a constructor",
    ),
    "nothing but a number": (
        "experiment/evil.yaml",
        "3\n",
        "evil.yaml cannot be read: Invalid loaded object type: int",
    ),
    "a file that is too large": ("experiment/evil.yaml", "#" * (1 << 19), "it has more than 262144 bytes"),
    "a file that is no text": ("experiment/evil.yaml", "\udcff\udcfe", "cannot be read as text"),
    "a number of a million digits": (
        "experiment/evil.yaml",
        "# @package _global_\nseed: " + "9" * 5000,
        "evil.yaml cannot be read: ",
    ),
    "a large number in hexadecimal": ("experiment/evil.yaml", "# @package _global_\nseed: 0x" + "f" * 5000, "seed"),
}


@pytest.fixture
def accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a command whose settings are taken crash instead of training."""

    def run(*args: Any, **facts: Any) -> None:
        raise AssertionError("accepted")

    monkeypatch.setattr(stages, "run", run)


@pytest.mark.parametrize(
    "name", some(FILES, "hydra's callbacks", "a secret from the environment", "anchors that explode")
)
@pytest.mark.usefixtures("accepted")
def test_a_folder_of_configs_by_a_stranger(
    mlx: Mlx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    file, text, told = FILES[name]
    monkeypatch.setenv("SECRET", "hunter2")
    path = tmp_path / "own" / file
    path.parent.mkdir(parents=True)
    path.write_text(text, errors="surrogateescape")
    said = refused(mlx, tmp_path, name, "run", "experiment=evil", "-cd", "own")
    assert told in said
    assert "hunter2" not in said
    assert mlx("ls", "-cd", "own").code == 0
    code, out, err = mlx("run", "experiment=evil", "-cd", "own", "--cfg", "job")  # nor does it run when looked at
    assert code in (0, 2) and "crashed" not in err and "hunter2" not in out + err
    assert not list(tmp_path.rglob(CANARY))


@pytest.mark.medium
def test_configs_of_the_shipped_names_are_not_replaced(mlx: Mlx, tmp_path: Path) -> None:
    evil = f"hydra: {{callbacks: {{x: {RUNS_A_PROGRAM}}}}}\nseed: 99\n"
    for file in ("base.yaml", "run.yaml", "data/glyphs.yaml"):
        path = tmp_path / "own" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(evil)
        told = refused(mlx, tmp_path, "a config of a shipped name", "run", "-cd", "own", "--cfg", "all")
        assert f"{file} has the same name as" in told
        path.unlink()
    for file in ("hydra/job_logging/none.yaml", "hydra/launcher/evil.yaml"):
        (tmp_path / "own" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "own" / file).write_text(evil)
    code, out, _ = mlx("run", "-cd", "own", "--cfg", "all")
    assert code == 0
    assert "touch" not in out and "seed: 99" not in out
    words = ("-m", "run", "seed=1", "hydra/launcher=evil", "-cd", "own")
    assert "runs the jobs of a sweep itself" in refused(mlx, tmp_path, "a launcher of a stranger's", *words)


@pytest.mark.usefixtures("accepted")
def test_a_config_that_is_a_pipe(mlx: Mlx, tmp_path: Path) -> None:
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    os.mkfifo(tmp_path / "own" / "experiment" / "evil.yaml")
    assert mlx("ls", "-cd", "own").code == 0
    assert "evil" in refused(mlx, tmp_path, "a pipe", "run", "experiment=evil", "-cd", "own")


WORDS = {
    "hydra.callbacks.x._target_=os.system": "hydra.callbacks.x._target_",
    "+hydra.callbacks={x: {_target_: os.system}}": "hydra.callbacks",
    "hydra.launcher._target_=os.system": "hydra.launcher._target_",
    "hydra.job_logging.handlers.x.class=os.system": "hydra.job_logging.handlers.x.class",
    "hydra/job_logging=default": "hydra/job_logging",
    "hydra.run.dir=/tmp/elsewhere": "hydra.run.dir",
    "hydra.searchpath=[file:///tmp]": "hydra.searchpath",
    "+algorithm@hydra.callbacks.x=maml": "algorithm@hydra.callbacks.x",
    "hydra={callbacks: {}}": "hydra",
    "seed=" + "[" * 5000 + "]" * 5000: "seed",
    "seed=" + "{a:" * 500 + "1" + "}" * 500: "seed",
    "seed=" + "${" * 500 + "way" + "}" * 500: "seed",
    "seed=" + "x" * (1 << 20): "seed",
    "+a={b: ${a}}": "a",
}


@pytest.mark.usefixtures("accepted")
@pytest.mark.parametrize("word", some(WORDS, "hydra.callbacks.x._target_=os.system"), ids=lambda word: word[:40])
def test_a_command_line_to_be_copied(mlx: Mlx, tmp_path: Path, word: str) -> None:
    said = refused(mlx, tmp_path, word[:60], "meta-train", *TINY, word)
    assert WORDS[word] in said
    assert len(said) < 2000


def test_nothing_of_hydra_is_let_in_by_inspection(mlx: Mlx, tmp_path: Path) -> None:
    word = f"+hydra.callbacks={{x: {RUNS_A_PROGRAM}}}"
    for option in ("--cfg=job", "--info=config"):
        assert "settings of Hydra cannot be changed" in refused(mlx, tmp_path, option, "meta-train", option, word)


# -- checkpoints and runs ---------------------------------------------------------------------------------------------


@pytest.fixture
def run(settings: Callable[..., dict[str, Any]], said: Any, tmp_path: Path) -> Path:
    """Return the folder of a completed meta-training, which a test makes a stranger's."""
    from metalearn_cli.core.config import STAGES, parse

    values = settings("meta-train", steps=2)
    return Path(stages.run("meta-train", parse(STAGES["meta-train"], values), said)["folder"])


def write(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file, a manifest with a seal that fits: a stranger can do that too."""
    value.pop("sha256", None)
    path.write_bytes(sealed(value) if path.name == "manifest.json" else json.dumps(value).encode())


def change(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file (a__b for a.b)."""
    value = json.loads(path.read_text())
    for key, new in changes.items():
        *groups, name = key.split("__")
        part = value
        for group in groups:
            part = part[group]
        part[name] = new
    write(path, value)


def checkpoint(run: Path) -> Path:
    return next((run / "checkpoints").iterdir())


def put(run: Path, file: str, content: bytes) -> None:
    """Put a file into the checkpoint, with a manifest that says it is right."""
    (checkpoint(run) / file).write_bytes(content)
    value = json.loads((checkpoint(run) / "manifest.json").read_text())
    value["files"][file] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    write(checkpoint(run) / "manifest.json", value)


class Bomb:
    """Unpickled, it runs a program."""

    def __reduce__(self) -> Any:
        return os.system, (f"touch {CANARY}",)


def torch_file(state: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def zipped_pickle(content: bytes) -> bytes:
    """Return a file like torch's whose pickle is `content`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


RESUMES = {
    "a pickle bomb": pickle.dumps(Bomb()),
    "a pickle bomb in torch's archive": torch_file({"optimizer": Bomb(), "best": {}}),
    "a pickle bomb, legacy format": pickle.dumps(0x1950A86A20F9469CFC6C) + pickle.dumps(1001) + pickle.dumps(Bomb()),
    "a pickle that calls torch.hub": zipped_pickle(b"ctorch.hub\nload\n(S'x'\ntR."),
    "a pickle that ends too soon": zipped_pickle(b"\x80\x02}q\x00("),
    "a pickle of marks": zipped_pickle(b"(" * 100_000 + b"."),
    "a script module": zipped_pickle(b"c__torch__\nEvil\n)\x81."),
    "an empty archive": zipped_pickle(b""),
    "nothing": b"",
}


@pytest.mark.parametrize("name", some(RESUMES, "a pickle bomb in torch's archive"))
def test_a_resume_file(mlx: Mlx, run: Path, tmp_path: Path, name: str) -> None:
    put(run, "resume.pt", RESUMES[name])
    change(run / "run.json", status="interrupted", step=1)
    told = refused_resume(mlx, run, tmp_path, name)
    assert "resume.pt is damaged" in told
    assert "weights_only" not in told  # how to let it in all the same


STATES = {
    "an optimizer without averages": lambda state: {k: {"step": v["step"]} for k, v in state.items()},
    "averages of another shape": lambda state: {k: {**v, "exp_avg": torch.zeros(1)} for k, v in state.items()},
    "averages of whole numbers": lambda state: {k: {**v, "exp_avg": v["exp_avg"].long()} for k, v in state.items()},
    "averages in words": lambda state: {k: {**v, "exp_avg": "evil"} for k, v in state.items()},
    "a state in words": lambda state: dict.fromkeys(state, "evil"),
    "a state of no tensor": lambda state: {**state, 99: {}},
    "tensors by name": lambda state: {str(k): v for k, v in state.items()},
}


@pytest.mark.parametrize("name", some(STATES, "averages of another shape"))
def test_an_optimizers_state(mlx: Mlx, run: Path, tmp_path: Path, name: str) -> None:
    state = torch.load(checkpoint(run) / "resume.pt", weights_only=True)
    put(run, "resume.pt", torch_file({**state, "optimizer": STATES[name](state["optimizer"])}))
    assert "the optimizer's" in refused_resume(mlx, run, tmp_path, name, "steps=4")


def refused_resume(mlx: Mlx, run: Path, folder: Path, name: str, *words: str) -> str:
    """Resume a run that has to be refused; its log file is the only thing that may change."""
    code, out, err = mlx("resume", str(run), *words)
    print(f"\n{name}\n    {err.strip()}", file=sys.__stdout__)
    assert (code, out) == (2, ""), err
    assert "Traceback" not in err
    assert not list(folder.rglob(CANARY))
    return str(err)


def header(value: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """Return a safetensors file with a header of one's own."""
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


TENSORS = {
    "a header longer than the file": header({}, length=1 << 40),
    "a header of no length": header(b"", length=0),
    "offsets beyond the file": header({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}),
    "a shape beyond its bytes": header({"w": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4]}}, b"0000"),
    "a shape that overflows": header({"w": {"dtype": "F32", "shape": [1 << 40] * 4, "data_offsets": [0, 4]}}, b"0000"),
    "overlapping tensors": header({k: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for k in "ab"}, b"0000"),
    "a number format that is none": header({"w": {"dtype": "X", "shape": [1], "data_offsets": [0, 4]}}, b"0000"),
    "a number format that torch lacks": header({"w": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}, b"0"),
    "whole numbers": header({"w": {"dtype": "I32", "shape": [1], "data_offsets": [0, 4]}}, b"0000"),
    "complex numbers": header({"w": {"dtype": "C64", "shape": [1], "data_offsets": [0, 8]}}, bytes(8)),
    "a header nested too deeply": header(b'{"w":' + b"[" * 100_000),
    "a pickle": pickle.dumps(Bomb()),
    "other tensors": header({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"0000"),
    "no tensors": header({}),
}


@pytest.mark.parametrize("name", some(TENSORS, "a shape that overflows"))
def test_tensors(mlx: Mlx, run: Path, tmp_path: Path, name: str) -> None:
    put(run, "model.safetensors", TENSORS[name])
    for words in (
        ("evaluate", f"ckpt={run}", "way=2", "query=2", "runs_dir=new"),
        ("meta-train", *TINY, f"init_from={checkpoint(run)}", "runs_dir=new"),
    ):
        assert "model.safetensors" in (told := refused(mlx, tmp_path, name, *words)) or "another architecture" in told


MANIFESTS = {
    "a foreign backbone": (
        {"model__backbone": {"_target_": "os.system", "command": "touch canary"}},
        "'os.system' may not",
    ),
    "a foreign learner": (
        {"model__algorithm": {"_target_": "subprocess.run", "args": "id"}},
        "'subprocess.run' may not",
    ),
    "foreign data": ({"data__spec": {"_target_": "builtins.eval", "source": "1"}}, "'builtins.eval' may not"),
    "an alias": ({"data__spec": {"_target_": "metalearn_cli.data.omniglot.os.system"}}, "may not be built"),
    "a setting nobody has": (
        {"model__backbone": {"_target_": "metalearn_cli.backbones.mlp.Mlp", "x": 1}},
        "no such setting",
    ),
    "a network without end": (
        {"model__backbone": {"_target_": "metalearn_cli.backbones.mlp.Mlp", "hidden": 2**50}},
        "cannot be used with these settings",
    ),
    "a negative step": ({"step": -3}, "step must be a whole number >= 0, got -3"),
    "a step that is none": ({"step": float("nan")}, "step must be a whole number >= 0, got nan"),
    "an endless step": ({"step": 10**400}, "step must be a whole number >= 0"),
    "a step in words": ({"step": "3"}, "step must be a whole number >= 0, got '3'"),
    "files elsewhere": ({"files": {"../../x": {"sha256": "0", "bytes": 1}}}, "is damaged: "),
    "files of no form": ({"files": [1]}, "files must be an object, got [1]"),
    "no files": ({"files": {}}, "model.safetensors"),
    "a model of no form": ({"model": "conv4"}, "model must be an object, got 'conv4'"),
    "a negative shape": ({"model__shape": [-1]}, "model.shape must be a list of whole numbers >= 0"),
    "metrics of no form": ({"metrics": {"x": [1]}}, "metrics.x must be a number or null, got [1]"),
    "another format": ({"format": {"a": 1}}, "a format that this version does not read"),
    "another stage": ({"stage": "../../x"}, "allowed here is"),
    "a run elsewhere": ({"run": "../../x"}, "run must be a name without folders"),
}


@pytest.mark.parametrize("name", some(MANIFESTS, "a foreign backbone", "files elsewhere"))
def test_a_manifest(mlx: Mlx, run: Path, tmp_path: Path, name: str) -> None:
    changes, told = MANIFESTS[name]
    change(checkpoint(run) / "manifest.json", **changes)
    words = ("evaluate", f"ckpt={checkpoint(run)}", "way=2", "query=2", "runs_dir=new")
    assert told in refused(mlx, tmp_path, name, *words)


TEXTS = {
    "nested without end": ("[" * 200_000, "nested too deeply"),
    "objects without end": ('{"a":' * 200_000, "nested too deeply"),
    "NaN": ("NaN", "should contain an object"),
    "a long number": ('{"format": ' + "1" * 10_000 + "}", "cannot be read"),
    "no JSON": ("\x00\x01", "cannot be read"),
    "a list": ("[]", "should contain an object"),
}


@pytest.mark.parametrize("name", some(TEXTS, "nested without end"))
@pytest.mark.parametrize("file", ["manifest.json", "run.json", "config.json"])
def test_json(mlx: Mlx, run: Path, tmp_path: Path, file: str, name: str) -> None:
    text, told = TEXTS[name]
    path = checkpoint(run) / file if file == "manifest.json" else run / file
    path.write_text(text)
    if file == "config.json":
        said = refused(mlx, tmp_path, f"{file}: {name}", "resume", str(run))
    else:
        said = refused(mlx, tmp_path, f"{file}: {name}", "evaluate", f"ckpt={path.parent}", "runs_dir=new")
    assert file in said and told in said


RECORDS = {
    "a best checkpoint elsewhere": ({"best": "../../../.."}, "best must be step-N, got '../../../..'"),
    "a best checkpoint that is a path": ({"best": "/etc"}, "best must be step-N, got '/etc'"),
    "an id elsewhere": ({"id": "../x"}, "id must be a name without folders"),
    "an id that is a number": ({"id": 7}, "id must be a name without folders, got 7"),
    "a stage that is a list": ({"stage": []}, "stage must be a name without folders, got []"),
    "a stage that is none": ({"stage": "evil"}, "evil"),
    "a negative step": ({"step": -1}, "step must be a whole number >= 0, got -1"),
    "a metric of no form": ({"metric": {"name": 1, "value": {}}}, "metric.name must be text, got 1"),
    "a time that is none": ({"started_at": "\x1b[2J"}, "started_at must be a time with its zone"),
}


@pytest.mark.parametrize("name", some(RECORDS, "a best checkpoint elsewhere"))
def test_a_run_by_a_stranger(mlx: Mlx, run: Path, tmp_path: Path, name: str) -> None:
    changes, told = RECORDS[name]
    change(run / "run.json", **changes)
    for words in (("evaluate", f"ckpt={run}", "runs_dir=new"), ("resume", str(run)), ("show", str(run))):
        if name == "a stage that is none" and words[0] == "show":
            continue  # a stage of another version can be looked at
        assert told in refused(mlx, tmp_path, name, *words)
    assert mlx("runs").code == 0
    assert mlx("runs", "--json").code == 0


@pytest.mark.slow
@pytest.mark.parametrize("missing", [None, "absent"], ids=["null", "absent"])
@pytest.mark.parametrize("status", ["completed", "interrupted"])
def test_a_run_that_says_too_little(mlx: Mlx, run: Path, status: str, missing: str | None) -> None:
    """Every entry of run.json may be missing: what needs it says so, or does without."""
    whole = json.loads((run / "run.json").read_text())
    for key in whole:
        value = {**whole, "status": status, key: None}
        if missing:
            del value[key]
        for words in (
            ("resume", str(run)),
            ("show", str(run)),
            ("evaluate", f"ckpt={run}", "way=2", "query=2"),
            ("runs",),
        ):
            write(run / "run.json", value)
            code, _, err = mlx(*words)
            assert code in (0, 2), f"{key} of a {status} run, mlx {words[0]}: {err}"


CONFIGS = {
    "a foreign target": ({"optimizer": {"_target_": "os.system", "command": "touch canary"}}, "'os.system' may not be"),
    "no scheduler": ({"scheduler": None}, "scheduler"),
    "a list of steps": ({"steps": [1]}, "steps"),
    "an unknown key": ({"evil": 1}, "evil"),
    "a negative seed": ({"seed": -1}, "seed"),
}


@pytest.mark.parametrize("name", some(CONFIGS, "a foreign target"))
def test_the_settings_of_a_run_by_a_stranger(mlx: Mlx, run: Path, tmp_path: Path, name: str) -> None:
    changes, told = CONFIGS[name]
    change(run / "config.json", **changes)
    assert told in refused(mlx, tmp_path, name, "resume", str(run), "every.log=1")


def test_a_run_that_is_its_own_ancestor(mlx: Mlx, run: Path, tmp_path: Path) -> None:
    own = {"run": run.name, "stage": "meta-train", "step": 1, "checkpoint": "x", "sha256": "0"}
    change(run / "run.json", parent=own)
    assert "an ancestor of itself" in refused(mlx, tmp_path, "its own ancestor", "show", str(run))


def test_names_that_would_command_the_terminal(mlx: Mlx, run: Path) -> None:
    change(run / "run.json", metric={"name": "x\x1b]0;evil\x07\x9b2J", "value": 1.0}, status="\x1b[31mcompleted")
    for words in (("runs",), ("show", str(run))):
        code, out, err = mlx(*words)
        assert code == 0
        assert not {"\x1b", "\x07", "\x9b"} & set(out + err)


# -- data -------------------------------------------------------------------------------------------------------------


def png_header(width: int, height: int, data: bytes = b"") -> bytes:
    """Return a PNG that says how large it is, and has nothing to show for it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    size = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def drawing() -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (105, 105), 1).save(buffer, "PNG")
    return buffer.getvalue()


def member(name: str, mode: int = 0o644) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


def lying(content: bytes, declared: int) -> bytes:
    """Return an archive's bytes in which every member says it has `declared` bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images_background/A/character01/0_0.png", content)
    raw = bytearray(buffer.getvalue())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = raw.index(signature) + offset
        raw[at : at + 4] = struct.pack("<I", declared)
    return bytes(raw)


ONE = "images_background/A/character01/0_0.png"
MEMBERS: dict[str, tuple[list[tuple[zipfile.ZipInfo, bytes]], str]] = {
    "a name that leads up": ([(member("images_background/../../../canary"), b"x")], "leads out of the archive"),
    "a name that leads up, of an image": (
        [(member("images_background/../../a/b/canary"), b"x")],
        "leads out of the archive",
    ),
    "an absolute name": ([(member("/tmp/canary"), b"x")], "leads out of the archive"),
    "a drive": ([(member("C:/canary"), b"x")], "leads out of the archive"),
    "backslashes": ([(member("images_background\\..\\..\\canary"), b"x")], "leads out of the archive"),
    "a symbolic link": ([(member(ONE, stat.S_IFLNK | 0o777), b"/etc/passwd")], "is a link, not a file"),
    "a zip bomb": ([(member(ONE), bytes(1 << 24))], "is too large for a drawing (16777216 bytes)"),
    "100 million pixels": (
        [(member(ONE), png_header(10_000, 10_000))],
        "has far too many pixels, expected 105x105",
    ),
    "a billion pixels": (
        [(member(ONE), png_header(100_000, 100_000))],
        "has far too many pixels, expected 105x105",
    ),
    "a few pixels too many": ([(member(ONE), png_header(5000, 5000))], "has 5000x5000 pixels, expected 105x105"),
    "a PNG bomb": ([(member(ONE), png_header(105, 105, zlib.compress(bytes(1 << 24))))], "images_background"),
    "a pickle": ([(member(ONE), pickle.dumps(Bomb()))], "cannot be read as an image"),
    "a script for another reader": (
        [(member(ONE), b"%!PS-Adobe-3.0 EPSF-3.0\n(x) run\n")],
        "cannot be read as an image",
    ),
    "a name to the terminal": ([(member("images_background/\x1b[2J/x/y.png"), b"x")], "cannot be read as an image"),
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLX_CACHE_DIR", str(tmp_path / "cache"))
    folder = tmp_path / "root"
    folder.mkdir()
    with zipfile.ZipFile(folder / "images_evaluation.zip", "w") as archive:
        archive.writestr("images_evaluation/A/character01/0_0.png", drawing())
    return folder


DATA = ("data=omniglot", "data.split=lake", "data.root=root")


@pytest.mark.parametrize("name", some(MEMBERS, "a name that leads up", "a zip bomb", "100 million pixels"))
def test_an_archive(mlx: Mlx, tmp_path: Path, root: Path, name: str) -> None:
    contents, told = MEMBERS[name]
    with zipfile.ZipFile(root / "images_background.zip", "w") as archive:
        for info, content in contents:
            archive.writestr(info, content)
    said = refused(mlx, tmp_path, name, "data", "check", *DATA)
    assert told in said
    assert "\x1b" not in said
    assert "images_background.zip" in refused(mlx, tmp_path, f"{name}, in a stage", "pretrain", *DATA)


@pytest.mark.parametrize("declared", [100, 1 << 15, 0])
def test_an_archive_that_lies_about_sizes(mlx: Mlx, tmp_path: Path, root: Path, declared: int) -> None:
    (root / "images_background.zip").write_bytes(lying(bytes(1 << 24), declared))
    assert "0_0.png" in refused(mlx, tmp_path, f"16 MiB that are said to be {declared} bytes", "pretrain", *DATA)


def test_an_archive_of_too_many_members(mlx: Mlx, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(omniglot, "MOST_MEMBERS", 10)
    with zipfile.ZipFile(root / "images_background.zip", "w") as archive:
        for k in range(11):
            archive.writestr(f"images_background/A/c/{k}.png", b"")
    assert "has 11 members; at most 10 are allowed" in refused(mlx, tmp_path, "members", "data", "check", *DATA)


def test_an_archive_of_too_many_bytes(mlx: Mlx, tmp_path: Path, root: Path) -> None:
    with (root / "images_background.zip").open("wb") as file:
        file.truncate(1 << 40)  # sparse
    assert "is too large" in refused(mlx, tmp_path, "a file of 1 TiB", "data", "check", *DATA)


def test_a_folder_with_pipes_and_large_files(mlx: Mlx, tmp_path: Path, root: Path) -> None:
    folder = root / "images_background" / "A" / "character01"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "pipe.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    with (folder / "large.png").open("wb") as file:
        file.truncate(1 << 40)
    said = refused(mlx, tmp_path, "a folder", "data", "check", *DATA)
    assert all(f"{name}.png" in said for name in ("pipe", "zero", "large"))
    assert "is not a file" in said and "is too large" in said


def test_downloads_are_encrypted_and_checked() -> None:
    assert omniglot.IMAGES.startswith("https://") and omniglot.LISTS.startswith("https://")
    assert all(value.startswith(("sha256:", "md5:")) for value in omniglot.CHECKSUMS.values())
    assert {f"{name}.zip" for name in omniglot.CHARACTERS} <= omniglot.CHECKSUMS.keys()
