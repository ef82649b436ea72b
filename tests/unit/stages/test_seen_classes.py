"""Classes that an earlier stage was trained on are no honest test, and every later stage says so."""

import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from metalearn_cli import stages
from metalearn_cli.cli import views
from metalearn_cli.records import classes
from metalearn_cli.records.checkpoint import open_checkpoint, read_classes

PROTONET = {"_target_": "metalearn_cli.algorithms.protonet.ProtoNet"}


@pytest.fixture
def data(tmp_path):
    """Return a function that writes classes of vectors, and gives the settings that read them."""

    def give(name="birds.npz", names=None, seed=0, **settings):
        names = names or [f"bird{k}" for k in range(12)]
        y = np.repeat(names, 20)
        x = np.random.default_rng(0).normal(size=(len(y), 4)).astype("f4") + np.arange(len(y))[:, None] // 20
        np.savez(tmp_path / name, x=x, y=y)
        root = str(tmp_path / name)
        return {"_target_": "metalearn_cli.data.arrays.arrays", "root": root, "seed": seed, **settings}

    return give


def test_test_classes_that_an_earlier_stage_was_trained_on_are_named(go, data, said, capsys):
    first = go("transfer", data=data())
    assert not any("trained on, in" in note for note in said.notes)
    second = go("meta-train", init_from=first["checkpoint"], data=data(seed=3), algorithm=PROTONET)
    (note,) = (note for note in said.notes if "test classes were trained on, in transfer: bird" in note)
    assert note.startswith("warning: ") and "data.split=FILE" in note
    done = go("evaluate", ckpt=second["checkpoint"], data=None)
    seen = done["results"][0]["trained_on"]
    assert seen["classes"] == len(seen["names"]) > 0 and seen["of"] == 3 and seen["stages"] == ["transfer"]
    views.result(done)
    assert f"{seen['classes']} of 3 test classes were trained on, in transfer: bird" in capsys.readouterr().out
    views.lineage([done])
    assert f"{seen['classes']} of 3 test classes were trained on" in capsys.readouterr().out


def test_class_added_between_two_stages(go, data, said):
    first = go("transfer", data=data(names=[f"bird{k:02d}" for k in range(12)]))
    grown = data(names=[f"bird{k:02d}" for k in range(12)] + [f"new{k}" for k in range(8)], seed=2)
    go("meta-train", init_from=first["checkpoint"], data=grown)
    assert any("test classes" in note and "trained on, in transfer" in note for note in said.notes)


def stages_in(checkpoint):
    return [record["stage"] for record in read_classes(open_checkpoint(Path(checkpoint)))]


def test_run_that_is_resumed_keeps_the_classes_of_a_parent_that_is_gone(go, data, interrupted, said):
    first = go("transfer", data=data())
    folder = interrupted("meta-train", init_from=first["checkpoint"], data=data(seed=1))
    shutil.rmtree(first["folder"])
    done = stages.resume(folder, said, {})
    assert done["status"] == "completed"
    assert stages_in(Path(folder) / "checkpoints" / done["last"]) == ["transfer", "meta-train"]


def test_no_alarm_where_nothing_was_seen(go, data, said):
    first = go("transfer", data=data())
    go("meta-train", init_from=first["checkpoint"], data=data())  # the same split
    go("meta-train", init_from=first["checkpoint"], data=data(split="items"))  # ordinary classification
    go("evaluate", ckpt=first["checkpoint"], data=data("cats.npz", ["bird0", *(f"cat{k}" for k in range(11))], 1))
    assert not any("trained on, in" in note for note in said.notes)


def test_all_stages_that_were_trained_on_them_are_named(go, data):
    first = go("transfer", data=data())
    second = go("meta-train", init_from=first["checkpoint"], data=data(), algorithm=PROTONET)
    seen = go("evaluate", ckpt=second["checkpoint"], data=data(seed=3))["results"][0]["trained_on"]
    assert seen["stages"] == ["transfer", "meta-train"]
    assert "in pretrain, transfer and meta-train: " in classes.told({**seen, "stages": ["pretrain", *seen["stages"]]})


def record(data, source, names, stage="transfer"):
    return {"stage": stage, "data": data, "source": source, "classes": names}


@pytest.mark.parametrize(
    ("earlier", "later", "count"),
    [
        (record("images", "a", ["cat", "dog"]), record("images", "b", ["cat"], "test"), 1),  # the data was moved
        (record("cifar_fs", None, ["cat", "dog"]), record("images", "b", ["cat"], "test"), 0),
        (record("arrays", "a", ["0", "1"]), record("arrays", "b", ["0"], "test"), 0),  # numbers are many things
        (record("arrays", "a", ["0", "1"]), record("arrays", "a", ["0"], "test"), 1),
        (record("images", "a", ["cat", "dog", "cow"]), record("images", "a", ["cat", "x", "y"], "test"), 0),
    ],
)
def test_same_classes_are_those_of_the_same_data(earlier, later, count):
    found = classes.seen([earlier], later, [*later["classes"], "dog" if count else "other"])
    assert (found["classes"] if found else 0) == count


BIRDS = [f"\u00e9{k}" for k in "abcdefgh"]
IN_GROUPS = [*(f"birds/{name}" for name in BIRDS), *(f"fish/f{k}" for k in range(8))]
PARTS = [*(f"home/{name}" for name in BIRDS), *(f"work/w{k}" for k in range(8))]
DIGITS = list("01234567")


@pytest.mark.parametrize(
    ("earlier", "later", "every", "seen"),
    [
        (("images", "a", BIRDS), ("images", "b", BIRDS), "NFD", 8),  # a zip from a Mac
        (("images", "birds", BIRDS[:4]), ("images", "all", IN_GROUPS), "NFC", 4),
        (("images", "all", IN_GROUPS[2:12]), ("images", "birds", BIRDS), "NFC", 6),
        (("images", "home", BIRDS[:4]), ("pooled", None, PARTS), "NFC", 4),
        (("pooled", None, PARTS[2:12]), ("images", "home", BIRDS), "NFC", 6),
        (("pooled", None, PARTS[:4]), ("pooled", None, [name.replace("home", "h") for name in PARTS]), "NFC", 4),
        (("pooled", None, [f"home/{name}" for name in IN_GROUPS[:6]]), ("images", "birds", BIRDS), "NFC", 6),
        (("images", "birds", DIGITS), ("images", "all", [f"birds/{k}" for k in DIGITS]), "NFC", 8),
        (("images", "other", DIGITS), ("images", "all", [f"birds/{k}" for k in DIGITS]), "NFC", 0),
        (("images", "birds", BIRDS), ("audio", "birds", IN_GROUPS), "NFC", 0),
        (("images", "s", [f"anna/{k}" for k in BIRDS]), ("images", "s", [f"ben/{k}" for k in BIRDS]), "NFC", 0),
        # the same labels of two parts, one of which is for tests: another domain, on purpose
        (("pooled", None, PARTS[:8]), ("pooled", None, [*PARTS[:8], *(f"work/{k}" for k in BIRDS)]), "NFC", 8),
    ],
)
def test_the_same_class_under_another_name(earlier, later, every, seen):
    names = [unicodedata.normalize(every, name) for name in later[2]]
    held_out = names if seen else names[:4]
    found = classes.seen([record(*earlier)], record(*later[:2], held_out, "test"), iter(names))
    assert (found["classes"] if found else 0) == seen
    assert not found or set(found["names"]) <= set(names)


@pytest.mark.parametrize(("root", "seen"), [("digits.npz", 8), ("others.npz", 0)])
def test_numbers_of_a_part_are_those_of_its_file(root, seen):
    spec = {"parts": {"one": {"root": f"/data/{root}"}, "two": {}}}
    later = classes.trained_on("test", "pooled", spec, [f"{part}/{k}" for part in ("one", "two") for k in DIGITS])
    found = classes.seen([record("arrays", "digits.npz", DIGITS)], later, later["classes"])
    assert (found["classes"] if found else 0) == seen


def test_records_of_a_chain_are_kept_once():
    one = record("images", "a", ["cat", "dog"])
    two = {**one, "stage": "meta-train"}
    assert classes.joined([one, two, one, record("sinusoid", None, [])]) == [one, two]
