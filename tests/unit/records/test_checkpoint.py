from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from metalearn_cli.core.errors import ConfigError, UserError
from metalearn_cli.core.metric import Metric
from metalearn_cli.records import checkpoint as module
from metalearn_cli.records.checkpoint import (
    Checkpoints,
    load_into,
    open_checkpoint,
    read_classes,
    read_resume,
    read_tensors,
)

FACTS = {"run": "r", "stage": "pretrain", "model": {}, "data": {}, "parent": None, "config_hash": "k"}
PARAMS = {
    "backbone.blocks.0.weight": torch.arange(6.0).reshape(2, 3).requires_grad_(),
    "backbone.blocks.0.bias": torch.tensor([0.1, 0.2]),
    "head.weight": torch.ones(5, 2),
}

STATE = {"optimizer": {}, "memory": {"window": [{"loss": 1.0}], "skipped": 0, "in_a_row": 0}}


def checkpoints(folder: Path, keep: int = 1, higher: bool = True) -> Checkpoints:
    return Checkpoints(folder, keep, Metric("x", "", higher), FACTS)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Return a checkpoint's folder."""
    checkpoints(tmp_path).save(7, PARAMS, STATE, {"val/x": 0.5})
    return tmp_path / "checkpoints" / "step-000007"


def refused(call: Any, *args: Any) -> str:
    with pytest.raises(UserError) as caught:
        call(*args)
    return str(caught.value)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_roundtrip(saved):
    found = open_checkpoint(saved)
    expected = {**FACTS, "format": 2, "step": 7, "metrics": {"val/x": 0.5}}
    assert {key: found.manifest[key] for key in expected} == expected
    assert found.manifest["signature"]["head.weight"] == "float32 [5, 2]"
    tensors = read_tensors(found)
    assert tensors.keys() == PARAMS.keys()
    assert all(torch.equal(tensors[name], p) for name, p in PARAMS.items())
    best = {"name": "step-000007", "step": 7, "metrics": {"val/x": 0.5}}
    assert read_resume(found) == {**STATE, "best": best}
    assert found.parent_entry == {
        "run": "r",
        "stage": "pretrain",
        "step": 7,
        "checkpoint": str(saved),
        "sha256": module.sha256_of(saved / "manifest.json"),
    }


@pytest.mark.parametrize("broken", ["to_safetensors", "write_bytes"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_failure_while_saving_leaves_the_earlier_ones(saved, monkeypatch, broken, error):
    def fail(*args: object) -> None:
        raise error

    monkeypatch.setattr(module, broken, fail)
    folder = saved.parents[1]
    with pytest.raises(type(error)):
        checkpoints(folder).save(8, PARAMS, STATE, {"val/x": 0.9})
    assert names(folder) == [saved.name]
    read_tensors(open_checkpoint(saved))
    read_resume(open_checkpoint(saved))


def seal(folder: Path, manifest: dict[str, Any]) -> None:
    """Write a manifest as whoever forges one would: in agreement with itself and with the files."""
    for name, entry in manifest["files"].items():
        entry["sha256"] = module.sha256_of(folder / name)
    manifest.pop("sha256", None)
    (folder / "manifest.json").write_bytes(module.sealed(manifest))


def test_leftover_of_a_killed_process_is_not_taken_for_a_checkpoint(saved):
    half = saved.parent / ".step-000008"
    half.mkdir()
    (half / "model.safetensors").write_text("half")
    kept = checkpoints(saved.parents[1], keep=2)
    assert kept.all() == [saved]
    kept.save(8, PARAMS, STATE, {})
    assert names(saved.parents[1]) == ["step-000007", "step-000008"]


def test_half_removed_checkpoints_are_cleared_away(saved):
    (saved.parent / ".step-000008").mkdir()
    (saved.parent / ".step-000008" / "model.safetensors").write_text("half")
    kept = checkpoints(saved.parents[1])
    kept.tidy()
    assert names(saved.parents[1]) == [saved.name]


def test_keeps_the_best_and_the_newest(tmp_path):
    kept = checkpoints(tmp_path, keep=2)
    for step, value in enumerate([0.1, 0.9, 0.3, 0.9, 0.2], start=1):
        kept.save(step, PARAMS, STATE, {"val/x": value})
        kept.tidy()
    kept.save(6, PARAMS, STATE, {})  # between two evaluations
    kept.tidy()
    assert names(tmp_path) == ["step-000002", "step-000005", "step-000006"]  # of two equally good ones the first
    assert kept.best["step"] == 2
    again = checkpoints(tmp_path, keep=1)
    newest, state = again.newest()
    assert (newest.folder, state["best"]) == (kept.all()[-1], kept.best)
    again.save(7, PARAMS, STATE, {"val/x": 0.8})
    again.tidy()
    assert names(tmp_path) == ["step-000002", "step-000007"]


def test_training_that_is_as_good_as_its_start_is_preferred(tmp_path):
    kept = checkpoints(tmp_path, keep=9)
    for step, value in enumerate([0.5, 0.4, 0.5, 0.5]):
        kept.save(step, PARAMS, STATE, {"val/x": value})
        assert kept.best["step"] == (0, 0, 2, 2)[step]


@pytest.mark.parametrize(("higher", "best"), [(True, 3), (False, 2)])
def test_best_goes_by_the_metrics_direction_and_is_never_nan(tmp_path, higher, best):
    kept = checkpoints(tmp_path, higher=higher)
    for step, value in enumerate([math.nan, 1.0, 2.0, math.nan], start=1):
        kept.save(step, PARAMS, STATE, {"val/x": value})
    assert kept.best["step"] == best


def test_order_is_that_of_numbers(tmp_path):
    kept = checkpoints(tmp_path)
    kept.save(999_999, PARAMS, STATE, {})
    (tmp_path / "checkpoints" / "step-000001.bak").mkdir()  # somebody's copy
    kept.save(1_000_000, PARAMS, STATE, {})
    kept.tidy()
    assert names(tmp_path) == ["step-000001.bak", "step-1000000"]


@pytest.mark.parametrize(
    ("file", "read"),
    [
        ("model.safetensors", read_tensors),
        ("resume.pt", read_resume),
        ("classes.json", read_classes),
        ("manifest.json", None),
    ],
)
@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"", lambda b: b[:-1] + bytes([b[-1] ^ 1]), None])
def test_damaged_file_is_named(saved, file, read, damage):
    found = open_checkpoint(saved)
    path = saved / file
    whole = path.stat().st_size
    if damage:
        path.write_bytes(damage(path.read_bytes()))
    else:
        path.unlink()
    assert str(path) in refused(open_checkpoint, saved)
    if read and (not damage or path.stat().st_size < whole):  # what can be seen after it was opened without hashing
        assert str(path) in refused(read, found)


def damage(folder: Path, file: str = "model.safetensors") -> None:
    path = folder / file
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("file", ["model.safetensors", "resume.pt", "manifest.json"])
def test_damaged_newest_is_named_and_the_one_before_it_taken(tmp_path, caplog, file):
    kept = checkpoints(tmp_path, keep=3)
    for step, value in enumerate([0.5, 0.4, 0.9], start=1):
        kept.save(step, PARAMS, STATE, {"val/x": value})
    one, two, three = kept.all()
    damage(three, file)
    damage(two, file)
    again = checkpoints(tmp_path, keep=3)
    newest, _ = again.newest()
    assert (newest.folder, again.best["name"]) == (one, "step-000001")
    assert [str(folder / file) in line for folder, line in zip((three, two), caplog.messages, strict=True)] == [
        True
    ] * 2
    assert "resuming from step-000001 instead" in caplog.text
    assert names(tmp_path) == ["step-000001", "step-000002.damaged", "step-000003.damaged"]
    again.save(2, PARAMS, STATE, {})  # the name is free again
    damage(two, file)
    checkpoints(tmp_path).newest()
    assert names(tmp_path) == ["step-000001", "step-000002.damaged", "step-000003.damaged"]


def test_nothing_whole_to_go_on_from(saved):
    (saved.parents[1] / "elsewhere").mkdir()
    assert checkpoints(saved.parents[1] / "elsewhere").newest() is None
    damage(saved)
    assert str(saved / "model.safetensors") in refused(checkpoints(saved.parents[1]).newest)
    assert names(saved.parents[1]) == [saved.name]


def test_damaged_best_is_named_before_the_run_goes_on(tmp_path):
    kept = checkpoints(tmp_path, keep=2)
    kept.save(1, PARAMS, STATE, {"val/x": 0.5})
    kept.save(2, PARAMS, STATE, {"val/x": 0.4})
    damage(tmp_path / "checkpoints" / "step-000001")
    assert "step-000001" in refused(checkpoints(tmp_path).newest)


def test_evaluations_since_the_best(tmp_path):
    kept = checkpoints(tmp_path)
    assert kept.stale(9, 3) == 0
    for step, value in ((3, 0.5), (6, 0.6), (9, 0.6), (12, 0.1)):
        kept.save(step, PARAMS, STATE, {"val/x": value})
    assert [kept.stale(step, 3) for step in (6, 8, 9, 12, 13)] == [0, 0, 1, 2, 2]


def test_file_that_is_damaged_in_agreement_with_its_manifest(saved):
    manifest = json.loads((saved / "manifest.json").read_text())
    for file in ("model.safetensors", "resume.pt"):
        (saved / file).write_bytes(b"nonsense" * 9)
    seal(saved, manifest)
    found = open_checkpoint(saved)
    assert str(saved / "model.safetensors") in refused(read_tensors, found)
    assert str(saved / "resume.pt") in refused(read_resume, found)


def test_resume_state_cannot_run_code(saved):
    torch.save({"optimizer": print}, saved / "resume.pt")
    manifest = json.loads((saved / "manifest.json").read_text())
    seal(saved, manifest)
    assert str(saved / "resume.pt") in refused(read_resume, open_checkpoint(saved))


@pytest.mark.parametrize(
    ("text", "told"),
    [("{", "cannot be read"), ("{}", "format None"), ('{"format": 2}', "it has no run"), (None, "missing")],
)
def test_damaged_manifest_is_named(saved, text, told):
    path = saved / "manifest.json"
    path.unlink() if text is None else path.write_text(text)
    said = refused(open_checkpoint, saved)
    assert str(saved) in said and told in said


def fresh(**changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """Return other values for the tensors of PARAMS; `None` leaves one out."""
    params = {name: torch.zeros(p.shape) for name, p in PARAMS.items()}
    for name, tensor in changes.items():
        params[name.replace("__", ".")] = tensor
    return {name: p for name, p in params.items() if p is not None}


def test_load_all(saved):
    params, line = load_into(fresh(), open_checkpoint(saved), ("",))
    assert all(torch.equal(params[name], p) for name, p in PARAMS.items())
    assert line == f"loaded 3/3 tensors, 100.0 % of the network, from {saved}"


def test_load_one_part(saved):
    before = fresh(head__weight=torch.zeros(3, 2), head__bias=torch.zeros(3))
    params, line = load_into(before, open_checkpoint(saved), ("backbone.",))
    assert torch.equal(params["backbone.blocks.0.bias"], PARAMS["backbone.blocks.0.bias"])
    assert params["head.weight"] is before["head.weight"]
    assert line == f"loaded 2/2 tensors, 100.0 % of the backbone, from {saved}; fresh: head.bias, head.weight"


@pytest.mark.parametrize(
    ("params", "told"),
    [
        (fresh(backbone__blocks__0__bias=None), "backbone.blocks.0.bias (here absent, there [2])"),
        (fresh(backbone__blocks__1__bias=torch.zeros(4)), "backbone.blocks.1.bias (here [4], there absent)"),
        (fresh(backbone__blocks__0__bias=torch.zeros(3)), "backbone.blocks.0.bias (here [3], there [2])"),
        (fresh(backbone__blocks__0__weight=torch.zeros(3, 2)), "backbone.blocks.0.weight (here [3, 2], there [2, 3])"),
    ],
)
def test_other_architecture_is_refused(saved, params, told):
    with pytest.raises(ConfigError) as caught:
        load_into(params, open_checkpoint(saved), ("backbone.",))
    (problem,) = caught.value.problems
    assert problem.key == "init_from"
    assert f"has another architecture: {told}; choose the same backbone settings" in problem.message


def test_reinit_accepts_what_it_names(saved):
    params = fresh(backbone__blocks__0__weight=torch.zeros(7, 7))
    loaded, line = load_into(params, open_checkpoint(saved), ("backbone.",), ["backbone.blocks.0.weight"])
    assert loaded["backbone.blocks.0.weight"] is params["backbone.blocks.0.weight"]
    assert torch.equal(loaded["backbone.blocks.0.bias"], PARAMS["backbone.blocks.0.bias"])
    assert line.startswith("loaded 1/2 tensors, 3.9 % of the backbone")  # 2 of 51 numbers
    assert line.endswith("fresh: backbone.blocks.0.weight, head.weight")


def test_reinit_that_names_nothing_is_refused_with_everything_else(saved):
    with pytest.raises(ConfigError) as caught:
        load_into(fresh(backbone__blocks__0__bias=torch.zeros(3)), open_checkpoint(saved), ("backbone.",), ["bakcbone"])
    assert [problem.key for problem in caught.value.problems] == ["reinit", "init_from"]
    assert "no tensor's name begins with 'bakcbone'; there are backbone.blocks.0.bias" in str(caught.value)


def test_number_format_is_kept_until_the_tensors_are_placed(tmp_path):
    third = {"backbone.0.x": torch.tensor([1 / 3], dtype=torch.float64)}
    checkpoints(tmp_path).save(1, third, STATE, {})
    found = open_checkpoint(tmp_path / "checkpoints" / "step-000001")
    loaded, _ = load_into({"backbone.0.x": torch.zeros(1)}, found, ("backbone.",))
    assert loaded["backbone.0.x"].item() == 1 / 3


def agree(saved, file):
    """Let the manifest say of a file what a stranger would let it say."""
    manifest = json.loads((saved / "manifest.json").read_text())
    manifest["files"][file]["sha256"] = module.sha256_of(saved / file)
    del manifest["sha256"]
    (saved / "manifest.json").write_bytes(module.sealed(manifest))


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ([1], "must be an object"),
        ({**STATE, "best": {"name": "../../../x", "step": 1}}, "best.name must be step-N, got '../../../x'"),
        (STATE, "it has no best"),
        ({**STATE, "memory": {**STATE["memory"], "window": 3}, "best": {}}, "memory.window must be a list"),
    ],
)
def test_resume_state_of_another_form(saved, state, told):
    torch.save(state, saved / "resume.pt")
    agree(saved, "resume.pt")
    assert told in refused(read_resume, open_checkpoint(saved))


def test_whole_numbers_come_back_as_they_were(tmp_path):
    counts = {"backbone.ids": torch.tensor([2**53 + 1]), "backbone.mask": torch.tensor([True, False])}
    checkpoints(tmp_path).save(1, counts, STATE, {})
    found = open_checkpoint(tmp_path / "checkpoints" / "step-000001")
    loaded, _ = load_into({name: torch.zeros_like(t) for name, t in counts.items()}, found, ("",))
    assert all(torch.equal(loaded[name], t) and loaded[name].dtype == t.dtype for name, t in counts.items())


def test_whole_numbers_do_not_take_the_place_of_weights(saved):
    params = fresh(backbone__blocks__0__bias=torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ConfigError, match=r"blocks\.0\.bias \(here int64 \[2\], there \[2\]\)"):
        load_into(params, open_checkpoint(saved), ("backbone.",))


def test_several_parts_are_handed_over_together(saved):
    before = fresh()
    params, line = load_into(before, open_checkpoint(saved), ("backbone.blocks.0.bias", "head."))
    assert params["backbone.blocks.0.weight"] is before["backbone.blocks.0.weight"]
    assert torch.equal(params["head.weight"], PARAMS["head.weight"])
    assert line.startswith("loaded 2/2 tensors")


def test_what_learnt_before_goes_on_to_do_so(saved):
    params = {name: p.requires_grad_(name.startswith("backbone.")) for name, p in fresh().items()}
    loaded, _ = load_into(params, open_checkpoint(saved), ("",))
    assert {name: p.requires_grad for name, p in loaded.items()} == {n: "backbone" in n for n in PARAMS}
