"""How classes are split: as the source says, by group, by class, by item, or by lists."""

import json
import unicodedata

import pytest

from metalearn_cli.core.errors import ConfigError, DataError, Finding
from metalearn_cli.core.metric import SAME_CLASSES
from metalearn_cli.data.common.manifest import Entry, Manifest, placed, split_named
from metalearn_cli.data.common.splits import group_of


def manifest(classes=12, items=5, **more):
    """Return a manifest; `more` are functions of a class's number."""
    facts = [{name: value(k) for name, value in more.items()} for k in range(classes)]
    return Manifest([Entry(f"{k}.{i}", f"c{k:02d}", **facts[k]) for k in range(classes) for i in range(items)])


def names(found):
    return {split: list(classes) for split, classes in found.classes.items()}


@pytest.mark.parametrize(
    ("classes", "sizes"), [(6, (2, 2, 2)), (8, (4, 2, 2)), (12, (6, 3, 3)), (20, (10, 5, 5)), (100, (60, 20, 20))]
)
def test_by_class(classes, sizes):
    found = placed(manifest(classes), "auto", 0)
    assert tuple(len(own) for own in names(found).values()) == sizes
    assert sorted(name for own in names(found).values() for name in own) == [f"c{k:02d}" for k in range(classes)]
    assert found.protocol == "classes, seed 0"
    assert names(found) == names(placed(manifest(classes), "classes", 0)) != names(placed(manifest(classes), "auto", 1))


def test_by_group_no_group_is_on_two_sides():
    found = placed(manifest(20, group=lambda k: f"g{k % 5}"), "auto", 0)
    groups = [{name.split("/")[0] for name in own} for own in names(found).values()]
    assert sorted(map(len, groups)) == [1, 1, 3]
    assert len(set().union(*groups)) == 5
    assert found.protocol == "groups, seed 0"


def test_with_two_groups_by_class_unless_groups_are_asked_for():
    two = manifest(12, group=lambda k: f"g{k % 2}")
    assert placed(two, "auto", 0).protocol == "classes, seed 0"
    with pytest.raises(
        ConfigError, match=r"there are 2 groups \(g0, g1\); 3 are needed, one for each split; data.split=classes"
    ):
        placed(two, "groups", 0)
    with pytest.raises(ConfigError, match="split=groups needs a group for each item"):
        placed(manifest(), "groups", 0)


def test_as_given():
    found = placed(manifest(split=lambda k: ("train", "val", "test")[k % 3]), "auto", 0)
    assert names(found)["val"] == ["c01", "c04", "c07", "c10"]
    assert found.protocol == "as given"


def test_a_split_that_is_not_given_is_taken_from_train():
    found = placed(manifest(15, split=lambda k: "test" if k > 9 else "train"), "auto", 0)
    assert [len(own) for own in names(found).values()] == [8, 2, 5]
    assert names(found)["test"] == [f"c{k}" for k in range(10, 15)]


def test_a_few_items_in_another_split_than_their_class_are_named():
    own = [Entry(i, f"c{i % 8}", "test" if i % 8 > 5 or i == 12 else "train") for i in range(80)]
    with pytest.raises(ConfigError) as error:
        placed(Manifest(own, place=lambda row: f"line {row + 2}"), "auto", 0)
    told = str(error.value)
    assert "1 class is in more than one split (c4)" in told
    assert told.endswith("; or correct the split where it is a mistake: line 14 is test, the others of c4 are train")


def test_given_splits_with_the_same_classes_are_refused_with_both_ways_out():
    same = Manifest([Entry(i, f"c{i % 3}", ("train", "test")[i % 2]) for i in range(60)])
    with pytest.raises(ConfigError) as error:
        placed(same, "auto", 0)
    assert "3 classes are in more than one split (c0, c1, c2)" in str(error.value)
    assert "data.split=classes" in str(error.value) and "data.split=items" in str(error.value)
    assert "or correct" not in str(error.value)
    found = placed(same, "items", 0)
    assert all(set(own) == {"c0", "c1", "c2"} for own in names(found).values())
    assert {entry.split for entry in found.entries("test")} == {"test"}
    assert {entry.split for entry in found.entries("val")} == {"train"}


def test_by_item():
    found = placed(manifest(2, 10), "items", 0)
    assert [len(found.entries(split)) for split in ("train", "val", "test")] == [12, 4, 4]
    sources = [entry.source for split in found.classes for entry in found.entries(split)]
    assert len(set(sources)) == 20
    assert found.protocol.startswith(SAME_CLASSES)


def test_by_lists(tmp_path):
    path = tmp_path / "splits.json"
    lists = {"train": ["c01", "c00"], "val": ["c02"], "test": ["c03"], "seed": 3}
    path.write_text(json.dumps(lists))
    assert names(placed(manifest(), str(path), 0)) == {"train": ["c00", "c01"], "val": ["c02"], "test": ["c03"]}
    path.write_text(json.dumps(lists | {"test": ["c01", "x"]}))
    with pytest.raises(ConfigError, match="c01 is listed twice, there is no class x"):
        placed(manifest(), str(path), 0)
    with pytest.raises(ConfigError, match="nonsense is neither one of auto, groups, classes, items nor a JSON file"):
        placed(manifest(), "nonsense", 0)
    with pytest.raises(ConfigError, match="No such file") as error:
        placed(manifest(), "group", 0)
    assert error.value.problems[0].hint == "groups"


@pytest.mark.parametrize("split", ["auto", "classes"])
@pytest.mark.parametrize("classes", [1, 2, 5])
def test_too_few_classes(split, classes):
    with pytest.raises(ConfigError) as error:
        placed(manifest(classes), split, 0)
    assert f"the data has {classes} class" in str(error.value)
    assert "6 or more in all, 20 for 5-way episodes" in str(error.value)
    assert "data.split=items" in str(error.value)


def test_small_classes_are_left_out_and_named():
    many = Manifest([*manifest().entries, *(Entry(f"x{k}", f"single{k:04d}") for k in range(10_000))])
    found = placed(many, "auto", 0)
    assert sum(map(len, found.classes.values())) == 12
    (finding,) = found.findings
    assert not finding.blocks
    assert "10000 of 10012 classes have fewer than 2 items and are left out: single0000" in finding.told
    assert len(finding.items) == 10_000


def test_a_slash_in_a_label_makes_no_group():
    entries = [Entry(f"{k}.{i}", f"km{k}/h") for k in range(6) for i in range(2)]
    found = placed(Manifest(entries), "auto", 0)
    names = [name for classes in found.classes.values() for name in classes]
    assert len(names) == 6 and not any("/" in name for name in names)


def test_what_cannot_be_read_and_what_is_empty():
    damaged = Finding(True, "a.png", "is damaged")
    assert placed(manifest()._replace(findings=(damaged,)), "auto", 0).findings == (damaged,)
    few = Manifest([Entry("a", "x"), Entry("b", "x")], findings=(damaged,))
    with pytest.raises(DataError, match=r"a.png is damaged; data.split the data has 1 class"):
        placed(few, "auto", 0)
    with pytest.raises(DataError, match="has no items"):
        placed(Manifest([]), "auto", 0)


def test_words_for_splits():
    assert [split_named(word, "x") for word in ("Training", "dev", "TEST", "", None)] == [
        "train",
        "val",
        "test",
        "",
        "",
    ]
    with pytest.raises(DataError, match="row 3 has the split 'fold1'; a split is one of train, val, test"):
        split_named("fold1", "row 3")


def named(form):
    labels = [unicodedata.normalize(form, f"\u00e9{letter}vian") for letter in "abcdefghijkl"]
    return Manifest([Entry(f"{label}{i}", label, group=f"{label}s") for label in labels for i in range(5)])


@pytest.mark.parametrize("split", ["classes", "groups", "items"])
def test_how_an_accent_is_written_moves_no_class(split):
    one, two = (placed(named(form), split, 0).classes for form in ("NFC", "NFD"))
    for part, own in one.items():
        nfc = {unicodedata.normalize("NFC", entry.source) for entries in own.values() for entry in entries}
        assert nfc == {unicodedata.normalize("NFC", e.source) for entries in two[part].values() for e in entries}
    assert one["train"].keys() != two["train"].keys()  # their names stay


def test_lists_name_classes_however_an_accent_is_written(tmp_path):
    path = tmp_path / "splits.json"
    made = placed(named("NFC"), "classes", 0)
    path.write_text(json.dumps(names(made)))
    assert placed(named("NFD"), str(path), 0).entries("test")[0].label == unicodedata.normalize(
        "NFD", made.entries("test")[0].label
    )


@pytest.mark.parametrize("own", ["cd", {"c": 1, "d": 2}, 3, None])
def test_a_split_file_needs_lists(tmp_path, own):
    path = tmp_path / "splits.json"
    path.write_text(json.dumps({"train": ["a", "b"], "val": own, "test": ["e", "f"]}))
    letters = Manifest([Entry(f"{label}{i}", label) for label in "abcdef" for i in range(2)])
    with pytest.raises(ConfigError, match=r"splits\.json is neither one of .* nor a JSON file .* \(val: no list\)"):
        placed(letters, str(path), 0)


def test_a_slash_of_a_group_is_no_end_of_it():
    one, two, three = Entry("", "b/c", group="a"), Entry("", "c", group="a/b"), Entry("", "km/h")
    assert len({one.class_name, two.class_name}) == 2
    assert [group_of(entry.class_name) for entry in (one, two, three)] == ["a", "a\N{DIVISION SLASH}b", ""]


@pytest.mark.parametrize("split", ["auto", "items"])
def test_names_that_may_be_the_same_class_are_listed(split):
    labels = ["caf\u00e9", "cafe\u0301", "Crow", "crow", "crow ", "1", "1.0", "01", "a", "b", "c", "d"]
    found = placed(Manifest([Entry(f"{label}{i}", label) for label in labels for i in range(5)]), split, 0)
    (finding,) = found.findings
    assert not finding.blocks
    for told in (r"'cafe\u0301' and 'caf\xe9'", "'Crow' and 'crow' and 'crow '", "'01' and '1' and '1.0'"):
        assert told in finding.items and told in finding.told
    assert sum(len(own) for own in found.classes["train"].values()) > 0
    assert placed(manifest(), split, 0).findings == ()


def test_number_0_is_a_split_that_there_is_not():
    assert split_named(None, "row 1") == split_named(" ", "row 1") == ""
    with pytest.raises(DataError, match="has the split 0"):
        split_named(0, "row 1")


@pytest.mark.parametrize("split", ["classes", "groups"])
def test_a_class_that_is_added_moves_few_others(split):
    def owners(classes):
        found = placed(manifest(classes, 2, group=lambda k: f"g{k:02d}"), split, 0)
        return {name: part for part, own in names(found).items() for name in own}

    for classes in range(20, 50):
        before, after = owners(classes), owners(classes + 1)
        assert sum(after[name] != part for name, part in before.items()) <= 4


def test_splits_of_recorded_results_stay():
    recorded = placed(manifest(12)._replace(by_place=True), "classes", 0)
    assert names(recorded)["test"] == ["c00", "c01", "c03"]
    digits = Manifest([Entry(i, str(k)) for k in range(10) for i in range(2)])
    assert names(placed(digits, "auto", 905)) == {
        "train": ["4", "5", "6", "7", "8", "9"],
        "val": ["2", "3"],
        "test": ["0", "1"],
    }


def test_all_names_that_may_mean_the_same_class_are_kept_for_json():
    labels = [*"aAbBcCdDeEfFgG", "other", "more"]
    found = placed(Manifest([Entry(f"{label}{i}", label) for label in labels for i in range(2)]), "auto", 0)
    (finding,) = (f for f in found.findings if "may mean the same class" in f.what)
    assert len(finding.items) == 7 and finding.told.endswith("and 2 more")


def test_names_that_differ_by_a_blank_inside_are_told():
    labels = ["book a table", "Book a  Table ", "one", "two", "three", "four"]
    found = placed(Manifest([Entry(i, label) for label in labels for i in range(2)]), "auto", 0)
    (finding,) = (f for f in found.findings if "may mean the same class" in f.what)
    assert finding.items == ("'Book a  Table ' and 'book a table'",)
