"""`mlx data check`: one table of all findings, and an exit code that says whether training may start."""

import json

import torch

from metalearn_cli.core.errors import DataError, Finding
from metalearn_cli.data import gaussian as module
from metalearn_cli.data.common.dataset import Dataset

SMALL = ("data=gaussian", "data.items=60", "data.classes=12", "way=3", "query=4")


def spoiled(name, protocol, splits, kind):
    """Make a data set in which one test item is no number, and one train class is a class of val."""
    splits["test"].items[0, 0] = torch.nan
    splits["val"].items[:5] = splits["train"].items[:5]
    return Dataset.of(name, protocol, splits, kind)


class Spoiled(Dataset):
    of = staticmethod(spoiled)


def test_good_data(mlx, tmp_path):
    answer = mlx("data", "check", *SMALL)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith("gaussian (directions; train 6 classes, 30 items; val 3 classes, 15 items; test 3 c")
    assert answer.out.endswith("0 errors, 0 warnings: training may start\n")
    assert not list(tmp_path.iterdir())


def test_all_findings_in_one_table(mlx, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "Dataset", Spoiled)
    answer = mlx("data", "check", *SMALL[:3], "way=4", "shot=2", "query=4")
    assert (answer.code, answer.err) == (2, "")
    lines = answer.out.splitlines()
    rows = [line.split() for line in lines if line.startswith(("error", "warning"))]
    assert ["error", "test:", "direction009", "has", "1"] in [row[:5] for row in rows]
    assert ["error", "train:", "direction000", "leaks"] in [row[:4] for row in rows]
    (few,) = (line for line in lines if "has 5 items; shot + query = 2 + 4 needs 6" in line)
    assert few.count("direction") == 5 and "and 7 more (--json lists them all)" in few
    assert sum("way = 4 needs 4" in line for line in lines) == 1
    assert answer.out.endswith("16 errors, 0 warnings: training may not start\n")
    found = json.loads(mlx("--json", "data", "check", *SMALL).out)
    assert not found["may_start"]
    assert {"test: direction009", "train: direction000"} <= {f["where"] for f in found["findings"] if f["blocks"]}
    assert not list(tmp_path.iterdir())


def test_stages_refuse_what_the_check_calls_an_error(mlx, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "Dataset", Spoiled)
    for stage in ("pretrain", "meta-train", "run"):
        answer = mlx(stage, "backbone=mlp", *SMALL)
        assert (answer.code, answer.out) == (2, "")
        assert "test: direction009 has 1 item with values that are not finite" in answer.err
        assert "train: direction000 leaks into another split" in answer.err
    assert not list(tmp_path.iterdir())


def test_every_file_that_cannot_be_used(mlx, monkeypatch):
    def fail(**parts):
        raise DataError([Finding(True, f"x.zip: {k}.png", "cannot be read") for k in range(5)], "get it again")

    monkeypatch.setattr(module, "Split", fail)
    answer = mlx("data", "check", *SMALL)
    assert answer.code == 2
    (told,) = (line for line in answer.out.splitlines() if line.startswith("error"))
    assert "; ".join(f"x.zip: {k}.png" for k in range(5)) in told and told.endswith("cannot be read")
    assert answer.out.endswith("5 errors, 0 warnings: training may not start\nget it again\n")
    answer = mlx("pretrain", "backbone=mlp", *SMALL)
    assert "x.zip: 2.png cannot be read; and 2 more, which `mlx data check` lists; get it again" in answer.err


def test_many_files_with_the_same_problem(mlx, monkeypatch):
    def fail(**parts):
        raise DataError([Finding(True, f"{k}.png", "cannot be read") for k in range(160)])

    monkeypatch.setattr(module, "Split", fail)
    lines = mlx("data", "check", *SMALL).out.splitlines()
    (told,) = (line for line in lines if line.startswith("error"))
    assert "0.png; 1.png; 2.png; 3.png; 4.png and 155 more (--json lists them all)" in told
    assert "160 errors, 0 warnings: training may not start" in lines
    assert len(json.loads(mlx("--json", "data", "check", *SMALL).out)["findings"]) == 160


def test_wrong_words(mlx):
    assert "mlx data needs one more argument: mlx data make|show|check" in mlx("data").err
    assert "there is no mlx data 'chekc'; there are make, show, check; did you mean check?" in mlx("data", "chekc").err
    answer = mlx("data", "check", "wya=3", "seed=x")
    assert answer.code == 2
    assert "2 problems in the settings of `mlx data check`" in answer.err
    assert "did you mean: way=" in answer.err
    assert answer.err.endswith("see all settings: mlx ls data\n")


def test_completion(mlx, monkeypatch):
    for line, expected in (
        ("mlx data ", "make\nshow\ncheck"),
        ("mlx data check data=glo", ""),
        ("mlx data check wa", "way="),
    ):
        monkeypatch.setenv("COMP_LINE", line)
        assert mlx("-sc", "query=bash").out.strip() == expected
