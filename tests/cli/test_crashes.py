"""Whose fault a crash is, and where its traceback goes."""

import sys
from pathlib import Path

import pytest

from metalearn_cli import stages
from metalearn_cli.cli import crashes
from metalearn_cli.cli.phrases import duration


@pytest.fixture
def crash_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path


def test_crash_is_told_apart_from_a_mistake(mlx, monkeypatch, crash_folder):
    monkeypatch.setattr(stages, "run", lambda *args, **facts: duration("long"))  # of ours
    answer = mlx("meta-train")
    assert (answer.code, answer.out) == (1, "")
    assert "mlx crashed; this is a bug, not your input" in answer.err
    assert "TypeError: type str doesn't define __round__ method" in answer.err
    (log,) = crash_folder.glob("mlx-crash-*.log")
    assert str(log) in answer.err
    assert "in duration\n" in log.read_text()


def test_error_in_code_of_the_users_own_names_it(mlx, monkeypatch, crash_folder):
    def own(*args, **facts):
        return 1 / 0

    monkeypatch.setattr(stages, "run", own)
    answer = mlx("meta-train")
    assert answer.code == 1
    line = own.__code__.co_firstlineno + 1
    assert f"error: own (tests/cli/test_crashes.py, line {line}) raised ZeroDivisionError: division by" in answer.err


FAULTY = """
from metalearn_cli.backbones.mlp import Mlp


class Faulty(Mlp):
    def forward(self, x, **kwargs):
        return x + None
"""


def test_error_in_a_component_names_it(mlx, monkeypatch, crash_folder):
    import metalearn_cli.backbones

    monkeypatch.setattr(metalearn_cli.backbones, "__path__", [*metalearn_cli.backbones.__path__, "parts"])
    monkeypatch.delitem(sys.modules, "metalearn_cli.backbones.faulty", raising=False)
    own = Path("mine/backbone")
    own.mkdir(parents=True)
    Path("parts").mkdir()
    Path("parts/faulty.py").write_text(FAULTY)
    (own / "faulty.yaml").write_text("_target_: metalearn_cli.backbones.faulty.Faulty\n")
    words = ["data=gaussian", "backbone=faulty", "model=classifier", "steps=1", "val_episodes=2", "way=2"]
    answer = mlx("pretrain", *words, "-cd", "mine", "runs_dir=here")
    assert answer.code == 1
    place = crash_folder / "parts" / "faulty.py"
    error = f"error: Faulty ({place}, line 7) raised TypeError: unsupported operand type(s) for +: 'Tensor' and"
    assert error in answer.err
    assert "bug" not in answer.err
    (log,) = crash_folder.glob("mlx-crash-*.log")
    assert f"; full traceback: {log}" in answer.err


def frames(*modules):
    """Return an error that was raised in the last of modules, which called each other."""
    places = [(name, Path(__file__).parents[2] / f"{name.replace('.', '/')}.py") for name in modules]
    code = "if rest: run(rest)\nelse: raise ValueError"

    def run(rest):
        (name, file), *rest = rest
        exec(compile(code, str(file), "exec"), {"__name__": name, "run": run, "rest": rest, name.rpartition(".")[2]: 1})

    with pytest.raises(ValueError) as caught:
        run(places)
    traceback = caught.value.__traceback__
    while "metalearn_cli" not in traceback.tb_frame.f_globals["__name__"]:
        traceback = traceback.tb_next
    return caught.value.with_traceback(traceback)


@pytest.mark.parametrize(
    ("modules", "expected"),
    [
        (["cli.launch", "engine.loop", "algorithms.maml"], "maml (metalearn_cli/algorithms/maml.py, line 2)"),
        (["stages.train", "algorithms.maml", "core.functional"], "maml (metalearn_cli/algorithms/maml.py, line 1)"),
        (["algorithms.maml", "engine.runtime", "backbones.conv4"], "conv4 (metalearn_cli/backbones/conv4.py, line 2)"),
        (["data.glyphs", "data.common.cache"], "glyphs (metalearn_cli/data/glyphs.py, line 1)"),
        (["engine.loop", "data.common.dataset"], ""),
        (["engine.loop"], ""),
        (["algorithms.maml", "records.runs"], ""),
    ],
)
def test_whose_error_it_is(monkeypatch, modules, expected):
    monkeypatch.setattr(crashes, "_is_users", lambda frame, module: False)  # such as this file's
    assert crashes.component_of(frames(*(f"metalearn_cli.{module}" for module in modules))) == expected
