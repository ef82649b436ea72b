"""The examples of docs/extending.md, installed as a package and run as they stand."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from metalearn_cli.core import plugins, types
from metalearn_cli.records import names

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
SMALL = ["steps=3", "val_episodes=3", "query=3", "backbone=tiny_net", "backbone.hidden=4", "runtime.threads=1"]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Write the page's files into a package and make it known as pip does."""
    for name, text in re.findall(r"```(?:python|yaml)\n# (my_pieces/\S+)\n(.*?)```", PAGE.read_text(), re.DOTALL):
        path = tmp_path / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "site" / "my_pieces" / "__init__.py").touch()
    info = tmp_path / "site" / "my_pieces-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-pieces\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(f"[{plugins.ENTRY_POINTS}]\nmy_pieces = my_pieces\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    importlib.invalidate_caches()
    for known in (plugins.packages, names.choices):
        known.cache_clear()
    yield tmp_path / "site" / "my_pieces"
    for known in (plugins.packages, names.choices):
        known.cache_clear()
    for module in [name for name in sys.modules if name.startswith("my_pieces")]:
        del sys.modules[module]


@pytest.fixture
def run(installed: Path, mlx: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
    """Return a function that runs a command and gives its result."""

    def call(*words: str) -> dict[str, Any]:
        code, out, err = mlx(*words, "--json")
        assert code == 0, err
        return json.loads(out)

    return call


@pytest.mark.parametrize("component", [types.Algorithm, types.Method, types.Model])
def test_every_optional_member_is_on_the_page(component: Any) -> None:
    members = re.findall(r"^`(\w+)[(: ]", inspect.cleandoc(component.__doc__), re.MULTILINE)
    assert len(members) >= 4
    assert [name for name in members if not re.search(rf"^\| `{name}\b", PAGE.read_text(), re.MULTILINE)] == []


def test_they_are_listed_and_their_settings_checked(run, mlx):
    listed = run("ls")
    assert "Learnt steps" in listed["algorithm"]["learnt_steps"]
    assert {"tiny_net", "dino", "ssf", "bars"} <= {name for group in listed.values() for name in group}
    code, _, err = mlx("meta-train", "algorithm=learnt_steps", "algorithm.inner_stepz=3")
    assert code == 2 and "did you mean: algorithm.inner_steps=3" in err
    code, _, err = mlx("meta-train", "algorithm=learnt_steps", "algorithm.inner_lr=0")
    assert code == 2 and "must be a number > 0, got 0" in err


@pytest.mark.medium
def test_the_chain_of_them_runs(run):
    pretrained = run("pretrain", "model=dino", "batch_size=16", *SMALL)
    assert {"train/loss", "train/agreement"} <= run_metrics(pretrained)
    transferred = run("transfer", "init_from=latest:pretrain", "method=ssf", "batch_size=16", *SMALL)
    assert transferred["parent"]["run"] == pretrained["id"]
    trained = run("meta-train", "init_from=latest:transfer", "algorithm=learnt_steps", *SMALL)
    assert run("evaluate", f"ckpt={trained['id']}", "episodes=5")["results"][0]["learner"] == "learnt_steps"


def run_metrics(run: dict[str, Any]) -> set[str]:
    lines = (Path(run["folder"]) / "metrics.jsonl").read_text().splitlines()
    return {name for line in lines for name in json.loads(line)}


@pytest.mark.slow
def test_the_learner_runs_in_every_way_that_tasks_are_computed(run):
    scores = {
        way: run("meta-train", "algorithm=learnt_steps", f"runtime.task_batching={way}", *SMALL)["metric"]["value"]
        for way in ("loop", "vmap", "groups")
    }
    assert scores["vmap"] == pytest.approx(scores["loop"], abs=0.02)
    assert scores["groups"] == pytest.approx(scores["loop"], abs=0.02)


def test_the_data_set_is_sound_and_can_be_learnt_from(run):
    found = run("data", "check", "data=bars")
    assert found["may_start"]  # neighbouring angles look alike, which is a warning
    assert all("look the same" in finding["what"] for finding in found["findings"])
    trained = run("meta-train", "data=bars", *SMALL)
    assert trained["data"]["name"] == "bars"


def test_a_sweep_knows_them(installed, mlx, stage):
    code, _, err = mlx("-m", "meta-train", "algorithm=learnt_steps,protonet", *SMALL)
    assert code == 0, err
    targets = [config.algorithm["_target_"] for _, config in stage]
    assert targets == ["my_pieces.algorithms.learnt_steps.LearntSteps", "metalearn_cli.algorithms.protonet.ProtoNet"]


def test_without_the_package_they_are_not_known(mlx):
    code, _, err = mlx("meta-train", "algorithm=learnt_steps")
    assert code == 2 and "there is no algorithm 'learnt_steps'" in err
